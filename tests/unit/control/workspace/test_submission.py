"""Tests of `mafunzo.control.workspace.submission` and `Jobs.create`: one road for pipelines that ship and for a user's own."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mafunzo import Workspace
from mafunzo.control.store.codec import decode, encode
from mafunzo.control.workspace import computes
from mafunzo.control.workspace.estimate import configuration
from mafunzo.control.workspace.shipped_component import shipped
from mafunzo.entities.asset import AssetType
from mafunzo.entities.asset_request import ComponentRequest
from mafunzo.entities.component import Component, Input, Node, Output, Source
from mafunzo.entities.compute import ClusterNode, Compute, Placement
from mafunzo.entities.job import NOTES, ArtifactInput, Destination, Resources, StepOutputInput
from mafunzo.entities.job_request import JobRequest, OwnCommand
from mafunzo.entities.reference import AssetReference, JobOutputReference, LocalPath, PathInput, StoredPath, path_input
from mafunzo.entities.sweep import Distribution, EarlyTermination, Goal, Policy, Sweep
from mafunzo.errors import Conflict, InvalidParameter, Unreachable

ROOT = Path(__file__).parents[4]
ROWS = ROOT / "examples" / "conversations.jsonl"
COMMAND = Component(
    "command", "1", "command", command="echo ${{inputs.word}}", inputs={"word": Input("word", "string")}
)
SAY = Component(
    "say",
    "2",
    "command",
    command="echo ${{inputs.word}} > ${{outputs.out}}",
    inputs={"word": Input("word", "string")},
    outputs={"out": Output("out", "uri_file")},
)


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workspace]:
    monkeypatch.setattr(Workspace, "up", lambda _: None)
    with Workspace(tmp_path / "home") as opened:
        yield opened


def pipeline(*nodes: Node, **inputs: str) -> Component:
    declared = {name: Input(name, kind) for name, kind in inputs.items()}
    return Component("outer", "1", "pipeline", inputs=declared, nodes={node.name: node for node in nodes})


def own(name: str = "j", word: str = "hello", **changes: object) -> JobRequest:
    """Return a request that brings its command along."""
    node = Node("command", "command", {"word": "${{parent.inputs.word}}"})
    request = JobRequest(name, pipeline(node, word="string"), {"word": word}, commands={"command": OwnCommand(COMMAND)})
    return replace(request, **changes)  # type: ignore[arg-type]


def faults(workspace: Workspace, request: JobRequest) -> list[str]:
    with pytest.raises(InvalidParameter, match="The job can't be planned") as refused:
        workspace.jobs.require_good(request)
    return list(refused.value.faults)


def test_asking_again_changes_what_is_said_and_refuses_other_settings(workspace: Workspace) -> None:
    workspace.jobs.create(own(tags={"a": "1"}))
    again = workspace.jobs.create(own(tags={"b": "2"}, description="about", is_archived=True)).job
    assert (again.tags, again.description, again.is_archived) == ({"b": "2"}, "about", True)
    with pytest.raises(Conflict, match="Job j exists already, with other settings"):
        workspace.jobs.create(own(word="bye"))
    assert len(workspace.jobs.list()) == 1


def test_the_request_that_a_job_keeps_is_the_one_that_it_came_from() -> None:
    stored = PathInput(StoredPath("here", "a/b.csv"), "uri_file", "here/a/b.csv")
    output = PathInput(JobOutputReference("j", "o"), "uri_folder", "j/o")
    nodes = (
        Node("a", AssetReference("say", "2", type=AssetType.COMPONENT), {"word": 3, "file": stored, "none": None}),
        Node(
            "b",
            "command",
            {"word": "${{parent.inputs.word}}", "odd": ["a"]},
            resources=Resources(),
            bound={"compute": "c"},
        ),
    )
    sweep = Sweep(
        "loss",
        Goal.MINIMIZE,
        {"lr": Distribution("uniform", (0.1, 1))},
        early_termination=EarlyTermination(Policy.BANDIT),
    )
    request = own(
        pipeline=pipeline(*nodes, word="string"),
        inputs={"word": "1", "file": stored, "out": output, "flag": True, "bytes": ArtifactInput("sha256:1", "x")},
        component=AssetReference("outer", "1"),
        commands={"command": OwnCommand(COMMAND, Source(AssetReference("c", "1"), "text"))},
        destinations={"o": Destination("uri_file", "said")},
        sweep=sweep,
    ).settings
    assert decode(JobRequest, json.loads(json.dumps(encode(request)))) == request


def test_a_job_whose_settings_are_unknown_is_compared_with_the_request_that_its_way_in_kept(
    workspace: Workspace,
) -> None:
    job = workspace.jobs.create(own()).job
    workspace.records.jobs.update(replace(job, settings=None))
    with pytest.raises(Conflict):
        workspace.jobs.create(own())
    with pytest.raises(Conflict):
        workspace.jobs.create(own(), earlier=own(word="bye"))
    assert workspace.jobs.create(own(description="about"), earlier=own()).job.description == "about"


def test_a_registered_component_is_found_by_its_reference(workspace: Workspace) -> None:
    workspace.components.create(ComponentRequest(component=SAY))
    node = Node(
        "a", AssetReference("say", "2"), {"word": "hello"}, destinations={"out": Destination("uri_file", "said")}
    )
    (step,) = workspace.jobs.create(JobRequest("j", pipeline(node))).steps
    assert (step.spec.component, step.spec.command, sorted(step.spec.outputs)) == (
        "say:2",
        SAY.command,
        ["default", "out"],
    )
    assert step.spec.destinations == {"out": Destination("uri_file", "said")}


def test_all_that_isnt_there_is_told_at_once(workspace: Workspace) -> None:
    source = Source(AssetReference("gone", "1"), "no/name")
    request = own(
        inputs={"word": "hello", "file": path_input("talks:1")},
        commands={"command": OwnCommand(COMMAND, source)},
        computes={"compute": "nowhere"},
    )
    told = faults(workspace, request)
    assert len(told) == 5
    for part in ("step 'command': ", "'no/name' doesn't name an environment", "talks", "file is not", "no compute has"):
        assert any(part in fault for fault in told), (part, told)


def test_what_names_no_component_is_refused_by_its_words(workspace: Workspace) -> None:
    (told,) = faults(workspace, JobRequest("j", pipeline(Node("a", "no/name"))))
    assert told.startswith("step 'a': 'no/name' doesn't name a component.")


def shipped_request(**inputs: object) -> JobRequest:
    component = shipped("chat_completion_pipeline").component
    return JobRequest("j", replace(component, nodes={}), inputs, component=component.name)  # type: ignore[arg-type]


def test_a_pipeline_that_ships_goes_the_same_road_by_name_and_as_the_only_node(workspace: Workspace) -> None:
    rows = PathInput(LocalPath(str(ROWS)), "uri_file", str(ROWS))
    given = {"mlflow_model_path": "tiny-llama", "train_file_path": rows, "max_steps": "3"}
    by_name = workspace.jobs.create(shipped_request(**given))
    node = Node(
        "only",
        AssetReference("chat_completion_pipeline", registry="azureml"),
        {**given, "max_steps": "${{parent.inputs.steps}}"},
        {"mlflow_model_folder": "${{parent.outputs.tuned}}"},
    )
    outer = replace(pipeline(node, steps="string"), outputs={"tuned": Output("tuned", "mlflow_model")})
    as_node = workspace.jobs.create(JobRequest("k", outer, {"steps": "3"}))
    assert [step.spec for step in as_node.steps] == [step.spec for step in by_name.steps]
    assert (list(as_node.job.outputs), as_node.job.component) == (["tuned"], "chat_completion_pipeline:1")


def test_a_pipeline_that_ships_is_checked_whoever_asks(workspace: Workspace) -> None:
    told = faults(workspace, shipped_request(mlflow_model_path="tiny-llama", max_steps="0", learning_rat="1"))
    assert len(told) == 3
    for part in ("train is missing", "max_steps is 0", "Did you mean learning_rate?"):
        assert any(part in fault for fault in told), (part, told)


def writer(name: str, path: str, **more: object) -> Node:
    return Node(name, "say", {"word": "a"}, destinations={"out": Destination("uri_file", path=path)}, **more)  # type: ignore[arg-type]


READ = Component("read", "1", "command", command="cat ${{inputs.file}}", inputs={"file": Input("file", "uri_file")})


def written_and_read(*nodes: Node, **inputs: PathInput) -> JobRequest:
    outer = pipeline(*nodes, **dict.fromkeys(inputs, "uri_file"))
    return JobRequest("j", outer, inputs, commands={"say": OwnCommand(SAY), "read": OwnCommand(READ)})


STORED = PathInput(StoredPath("workspaceblobstore", "mid/a.txt"), "uri_file", "mid/a.txt")


def test_a_path_that_an_earlier_step_writes_is_read_from_that_step(workspace: Workspace) -> None:
    request = written_and_read(writer("first", "mid/a.txt"), Node("last", "read", {"file": STORED}))
    last = workspace.jobs.create(request).steps[1]
    assert last.spec.inputs == {"file": StepOutputInput("first", "out")}
    of_job = written_and_read(
        writer("first", "mid/a.txt"), Node("last", "read", {"file": "${{parent.inputs.file}}"}), file=STORED
    )
    handle = workspace.jobs.create(replace(of_job, name="k"))
    assert handle.steps[1].spec.inputs == {"file": StepOutputInput("first", "out")} and handle.job.inputs == {}


def test_a_path_that_a_later_step_writes_is_read_from_the_store(workspace: Workspace, tmp_path: Path) -> None:
    request = written_and_read(Node("first", "read", {"file": STORED}), writer("last", "mid/a.txt"))
    assert "mid/a.txt" in " ".join(faults(workspace, request))
    (tmp_path / "a.txt").write_text("a")
    workspace.blobs.place("azureml-blobstore", "mid/a.txt", workspace.artifacts.put(tmp_path / "a.txt"))
    assert isinstance(workspace.jobs.create(request).steps[0].spec.inputs["file"], ArtifactInput)


def test_the_names_in_an_outputs_path_are_filled_in(workspace: Workspace) -> None:
    node = writer("one", "a/${{name}}/${{ output_name }}.txt")
    spec = workspace.jobs.create(written_and_read(node)).steps[0].spec
    assert spec.destinations["out"].path == "a/j.one/out.txt" and spec.output_path("out") == "out/out.txt"


def test_a_variable_takes_what_the_step_has_and_nothing_else(workspace: Workspace) -> None:
    def with_variables(**variables: str) -> JobRequest:
        return own(commands={"command": OwnCommand(replace(COMMAND, environment=variables))})

    told = faults(workspace, with_variables(A="${{inputs.none}}", B="${{secrets.x}}"))
    assert told == [
        "step 'command': environment variable A has ${{inputs.none}}, expected inputs.word.",
        "step 'command': environment variable B has ${{secrets.x}}, expected inputs.word.",
    ]
    request = with_variables(A="${{inputs.word}}", B="x-${{parent.inputs.word}}")
    spec = workspace.jobs.create(request).steps[0].spec
    assert spec.environment == {"A": "${{inputs.word}}", "B": "x-hello"}


@pytest.fixture
def lab(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> list[ClusterNode]:
    """The nodes of the Ray cluster `lab`; when there are none, it doesn't answer."""
    nodes = [ClusterNode("10.0.0.1", 8), ClusterNode("10.0.0.2", 8)]

    def nodes_of(name: str, address: str, token: str) -> list[ClusterNode]:
        if not nodes:
            raise Unreachable(f"Compute '{name}': no answer at {address}")
        return list(nodes)

    monkeypatch.setattr(computes, "nodes_of", nodes_of)
    workspace.computes.create(Compute("lab", "", address="10.0.0.1:6379"))
    return nodes


def test_training_on_a_ray_cluster_is_planned_for_its_nodes_and_what_it_lacks_is_a_note(
    workspace: Workspace, lab: list[ClusterNode]
) -> None:
    job, steps = workspace.jobs.plan_finetune(
        model="tiny-llama", train=ROWS, compute_finetune="lab", num_nodes_finetune=4
    )
    placed = {step.name: step.spec.placement for step in steps if step.spec.placement is not None}
    assert placed == {"finetune": Placement("lab", nodes=4)}
    assert (
        "4 node(s) are asked for, compute 'lab' has 2 node(s): they keep the effective batch by gradient accumulation."
        in job.properties[NOTES]
    )


def test_a_ray_cluster_that_does_not_answer_is_a_fault_beside_all_others(
    workspace: Workspace, lab: list[ClusterNode]
) -> None:
    lab.clear()
    with pytest.raises(InvalidParameter) as caught:
        workspace.jobs.plan_finetune(
            model="tiny-llama", train=ROWS, compute_finetune="lab", compute_preprocess="nowhere"
        )
    assert any("Compute 'lab': no answer at 10.0.0.1:6379" in fault for fault in caught.value.faults)
    assert any(
        "compute_preprocess is 'nowhere', but no compute has that name" in fault for fault in caught.value.faults
    )


def test_a_model_is_not_imported_on_a_ray_cluster_and_the_other_steps_run_there(
    workspace: Workspace, lab: list[ClusterNode]
) -> None:
    places = {f"compute_{step}": "lab" for step in ("preprocess", "finetune", "model_evaluation")}
    _, steps = workspace.jobs.plan_finetune(model="tiny-llama", train=ROWS, **places)
    placed = [step.name for step in steps if step.spec.placement == Placement("lab")]
    assert placed == ["prepare_data", "finetune", "evaluate"]
    with pytest.raises(InvalidParameter) as caught:
        workspace.jobs.plan_finetune(model="tiny-llama", train=ROWS, compute_model_import="lab")
    assert any("step 'import_model': compute is 'lab', a Ray cluster" in fault for fault in caught.value.faults)


def test_an_estimate_on_a_cluster_is_another_configuration_than_one_of_this_machine(
    workspace: Workspace, lab: list[ClusterNode]
) -> None:
    def configured(compute: str) -> str:
        _, steps = workspace.jobs.plan_finetune(model="tiny-llama", train=ROWS, compute_finetune=compute)
        return configuration(steps)

    assert configured("lab") == configured("lab") != configured("local")
