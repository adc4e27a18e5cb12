"""Tests of `mafunzo compute`: this machine, and clusters by names of the user's own."""

import json

import pytest

from mafunzo import Workspace
from mafunzo.control.workspace import computes
from mafunzo.entities.compute import ClusterNode, Compute
from tests.support.command_line import Shell

SIZE = "Standard_D2s_v3"


@pytest.fixture
def cluster(workspace: Workspace) -> str:
    return workspace.computes.create(Compute("team", SIZE, max_instances=4)).name


def test_a_cluster_stands_in_the_list_beside_this_machine(cluster: str, shell: Shell) -> None:
    lines = [line.split() for line in shell("compute", "list").splitlines()]
    assert lines[0] == ["name", "size", "tier", "instances", "created"]
    assert {line[0]: line[1:6] for line in lines[1:]}["team"][:5] == [SIZE, "dedicated", "0", "to", "4"]
    assert [one["name"] for one in json.loads(shell("compute", "list", "--json"))] == ["local", "team"]


def test_a_cluster_is_made_as_the_options_say(shell: Shell, workspace: Workspace) -> None:
    told = shell(
        "compute",
        "create",
        "fast",
        "--size",
        SIZE,
        "--tier",
        "low_priority",
        "--min-instances",
        "1",
        "--max-instances",
        "2",
    )
    assert told == f"Made fast ({SIZE}); its jobs run on this machine\n"
    made = workspace.computes.find("fast")
    assert (made.size, made.tier, made.min_instances, made.max_instances) == (SIZE, "low_priority", 1, 2)


def test_a_cluster_that_is_made_is_json_if_so_asked(shell: Shell) -> None:
    made = json.loads(shell("compute", "create", "fast", "--size", SIZE, "--json"))
    assert (made["name"], made["size"], made["max_instances"]) == ("fast", SIZE, 1)


def test_a_cluster_is_shown_with_the_size_of_its_machines(cluster: str, shell: Shell) -> None:
    facts = dict(line.split(maxsplit=1) for line in shell("compute", "show", cluster).splitlines() if "GB" not in line)
    assert (facts["name"], facts["size"], facts["cores"], facts["tier"]) == ("team", SIZE, "2", "dedicated")
    body = json.loads(shell("compute", "show", cluster, "--json"))
    assert (body["compute"]["name"], body["size"]["name"], body["size"]["cpus"]) == ("team", SIZE, 2)


def test_a_size_is_shown_without_a_cluster(shell: Shell) -> None:
    body = json.loads(shell("compute", "show", SIZE, "--json"))
    assert (body["compute"], body["size"]["name"]) == (None, SIZE)
    assert "tier" not in shell("compute", "show", SIZE)


def test_sizes_begin_with_this_machine(shell: Shell) -> None:
    names = [size["name"] for size in json.loads(shell("compute", "sizes", "--json"))]
    assert names[0] == "local"
    assert SIZE in names
    assert [line.split()[0] for line in shell("compute", "sizes").splitlines()] == ["name", *names]


def test_a_cluster_is_deleted(cluster: str, shell: Shell) -> None:
    assert shell("compute", "delete", cluster) == "Deleted team\n"
    assert shell("compute", "delete", cluster, code=2) == "error: No compute 'team'.\n"


def test_what_is_deleted_is_named_in_json(cluster: str, shell: Shell) -> None:
    assert json.loads(shell("compute", "delete", cluster, "--json")) == {"deleted": "team"}


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        pytest.param(["show", "locl"], 2, "No machine size is called 'locl'. Did you mean local?", id="unknown size"),
        pytest.param(["delete", "local"], 3, "local is this machine; it can't be deleted.", id="this machine"),
        pytest.param(
            ["create", "local", "--size", SIZE], 2, "the name is 'local', expected 2 to 32 letters", id="its name"
        ),
        pytest.param(
            ["create", "ok", "--size", "Standard_NC64as_T4_v"], 2, "Did you mean Standard_NC64as_T4_v3", id="near size"
        ),
        pytest.param(
            ["create", "ok", "--size", SIZE, "--tier", "cheap"], 2, "tier is 'cheap', expected", id="unknown tier"
        ),
        pytest.param(["create", "ok"], 2, "Missing option '--size'", id="no size"),
        pytest.param(
            ["create", "ok", "--size", SIZE, "--min-instances", "3", "--max-instances", "2"],
            2,
            "min_instances and max_instances are 3 and 2",
            id="fewer at most than at least",
        ),
    ],
)
def test_a_refusal_says_what_to_do(words: list[str], code: int, text: str, shell: Shell) -> None:
    assert text in shell("compute", *words, code=code)


def test_a_ray_cluster_is_made_shown_and_listed_with_its_nodes(
    shell: Shell, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = [ClusterNode("10.0.0.1", 8), ClusterNode("10.0.0.2", 8, 2)]
    monkeypatch.setattr(computes, "nodes_of", lambda *_: nodes)
    told = shell("compute", "create", "lab", "--type", "ray", "--address", "10.0.0.1:6379")
    assert told.splitlines() == [
        "Made lab, a Ray cluster with 2 node(s)",
        "  10.0.0.1: 8 cores, 0 GPUs",
        "  10.0.0.2: 8 cores, 2 GPUs",
        "Train there: mafunzo finetune --compute lab num_nodes_finetune=2 ...",
    ]
    assert workspace.computes.find("lab").is_ray
    assert "node 10.0.0.2" in shell("compute", "show", "lab")
    assert [node["host"] for node in json.loads(shell("compute", "show", "lab", "--json"))["nodes"]] == [
        "10.0.0.1",
        "10.0.0.2",
    ]
    assert "Ray at 10.0.0.1:6379" in shell("compute", "list")


@pytest.mark.parametrize(
    ("options", "faults"),
    [
        pytest.param(
            ["--type", "ray", "--size", SIZE, "--tier", "low_priority"], 3, id="a Ray cluster with all others have"
        ),
        pytest.param(["--address", "10.0.0.1:6379"], 2, id="an address without a type"),
        pytest.param(["--type", "slurm"], 1, id="another type"),
    ],
)
def test_options_that_do_not_go_together_are_refused_at_once(shell: Shell, options: list[str], faults: int) -> None:
    told = shell("compute", "create", "lab", *options, code=2)
    assert "The compute can't be made." in told
    assert told.count("  - ") == faults
