"""A file made by `mafunzo create -f` is what the Azure SDK makes of it: each is made both ways, in a home of its own."""

import dataclasses
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from azure.ai.ml import (
    load_component,
    load_compute,
    load_data,
    load_environment,
    load_job,
    load_model,
    load_online_deployment,
    load_online_endpoint,
)
from azure.core.exceptions import HttpResponseError

from mafunzo import Workspace
from mafunzo.control.workspace.components import definition
from mafunzo.entities.asset import WORKSPACE_SCOPE, Asset, AssetKey, AssetType
from mafunzo.entities.job import Step
from mafunzo.entities.reference import AssetReference
from mafunzo.entrypoints.azure.files.creation import create
from mafunzo.errors import Conflict
from tests.support.command_line import Shell

FILES = Path(__file__).parent / "files"
FIRST = ("plain", "compute", "environment", "data_file", "data_folder", "model", "component", "pipeline_component")


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """A home in which every file but the jobs and the endpoint has been made by `mafunzo create`."""
    with Workspace(tmp_path_factory.mktemp("ours"), port=0) as opened:
        for name in FIRST:
            create(opened, FILES / f"{name}.yml", {})
        yield opened
        opened.down()


@pytest.fixture(scope="module")
def theirs(client: Any, workspace: Workspace) -> Workspace:
    """The home in which the Azure SDK has made them."""
    client.environments.create_or_update(load_environment(FILES / "plain.yml"))
    client.compute.begin_create_or_update(load_compute(FILES / "compute.yml")).result()
    client.environments.create_or_update(load_environment(FILES / "environment.yml"))
    client.data.create_or_update(load_data(FILES / "data_file.yml"))
    client.data.create_or_update(load_data(FILES / "data_folder.yml"))
    client.models.create_or_update(load_model(FILES / "model.yml"))
    client.components.create_or_update(load_component(FILES / "component.yml"))
    client.components.create_or_update(load_component(FILES / "pipeline_component.yml"))
    return workspace


def asset(workspace: Workspace, kind: AssetType, name: str, version: str) -> Asset:
    return workspace.records.assets.get(AssetKey(WORKSPACE_SCOPE, kind, name, version))


def component_of(workspace: Workspace, name: str) -> dict[str, Any]:
    """Return a component's interface, and all that it names by what that is, whatever it is called."""
    component, source = definition(asset(workspace, AssetType.COMPONENT, *name.split(":")))
    nodes = {step: dataclasses.replace(node, component="", resources=None) for step, node in component.nodes.items()}
    inner = {step: component_of(workspace, str(node.component)) for step, node in component.nodes.items()}
    found = dataclasses.replace(component, name="", version="", nodes=nodes)
    if component.kind == "pipeline":
        return {"component": found, "nodes": inner}
    pinned = workspace.components.pinned(component, source)
    return {"component": found, "code": pinned.code_artifact, "environment": unnamed(pinned.runtime)}


def unnamed(environment: Any) -> Any:
    """An environment without a name of its own has a hash as its version, of the words that it came in."""
    is_anonymous = environment is not None and len(environment.version) > 10
    return dataclasses.replace(environment, version="") if is_anonymous else environment


def planned(step: Step) -> Any:
    """Return a step as planned, but for the hash that a component without a name has as its version."""
    return dataclasses.replace(
        step.spec, component=step.spec.component.split(":")[0], runtime=unnamed(step.spec.runtime)
    )


@pytest.mark.parametrize("name", ["tell:4", "tell_twice:1"])
def test_a_component_is_the_same(name, ours, theirs):
    assert component_of(ours, name) == component_of(theirs, name)
    kind = AssetType.COMPONENT
    mine, other = (asset(where, kind, *name.split(":")) for where in (ours, theirs))
    assert (mine.description, mine.tags) == (other.description, other.tags)
    spec, other_spec = (one.echoes["azure"]["componentSpec"] for one in (mine, other))
    assert spec.get("inputs") == other_spec.get("inputs")
    assert spec.get("display_name") == other_spec.get("display_name")


def test_an_ignored_file_of_a_folder_of_code_stays_behind(ours, theirs):
    code = component_of(ours, "tell:4")["code"]
    files = {file.path for file in ours.artifacts.manifest(code)}
    assert files == {".amlignore", "main.py", "kept.log", "data/words.txt"}


@pytest.mark.parametrize("name", ["plain:1", "small-file:3"])
def test_an_environment_is_the_same(name, ours, theirs):
    mine, other = (asset(where, AssetType.ENVIRONMENT, *name.split(":")) for where in (ours, theirs))
    assert (mine.description, mine.tags) == (other.description, other.tags)
    found = ours.environments.find(AssetReference(*name.split(":")))
    assert found == theirs.environments.find(AssetReference(*name.split(":")))
    assert found.packages == (("humanize==4.9.0",) if name == "small-file:3" else ())


@pytest.mark.parametrize(
    ("kind", "name"),
    [(AssetType.DATA, "rows-file:1"), (AssetType.DATA, "rows-folder:1"), (AssetType.MODEL, "rows-model:2")],
)
def test_files_are_the_same(kind, name, ours, theirs):
    mine, other = (asset(where, kind, *name.split(":")) for where in (ours, theirs))
    assert mine.artifact == other.artifact
    assert (mine.folder_type, mine.description, mine.tags) == (other.folder_type, other.description, other.tags)


def test_a_compute_is_the_same(ours, theirs):
    mine, other = (
        dataclasses.replace(where.computes.find("from-file"), created_at=None, echoes={}) for where in (ours, theirs)
    )
    assert mine == other and (mine.tier, mine.max_instances, mine.idle_s) == ("low_priority", 3, 180)


@pytest.mark.parametrize("name", ["command_job", "pipeline_job", "sweep_job"])
def test_a_job_is_planned_the_same(name, client, ours, theirs):
    sent = theirs.jobs.get(client.jobs.create_or_update(load_job(FILES / f"{name}.yml")).name)
    made = ours.jobs.get(create(ours, FILES / f"{name}.yml", {}).name)
    assert [planned(step) for step in made.steps] == [planned(step) for step in sent.steps]
    for field in ("display_name", "experiment", "tags", "outputs", "force_rerun", "continue_on_step_failure", "sweep"):
        assert getattr(made.job, field) == getattr(sent.job, field), field
    assert dict(made.job.inputs) == dict(sent.job.inputs)
    for job in (made, sent):  # the plan is all that is looked at
        job.cancel()


def test_an_endpoint_and_its_deployment_are_the_same(client, ours, theirs):
    client.online_endpoints.begin_create_or_update(load_online_endpoint(FILES / "endpoint.yml")).result()
    deploying = client.online_deployments.begin_create_or_update(load_online_deployment(FILES / "deployment.yml"))
    assert create(ours, FILES / "endpoint.yml", {}).name == "from-file"
    made = create(ours, FILES / "deployment.yml", {})
    assert (made.name, made.endpoint) == ("blue", "from-file")
    mine, other = (where.records.endpoints.get("from-file") for where in (ours, theirs))
    assert (mine.tags, mine.auth_mode) == (other.tags, other.auth_mode)
    mine, other = (where.records.deployments.get("from-file", "blue") for where in (ours, theirs))
    for field in ("model", "artifact", "initial_delay_s", "request_timeout_s"):
        assert getattr(mine, field) == getattr(other, field), field
    assert (mine.initial_delay_s, mine.request_timeout_s) == (1020.0, 2.5)
    client.online_deployments.begin_delete("blue", "from-file").wait()
    with suppress(HttpResponseError):
        deploying.wait()  # its thread prints a dot now and then, which no later test is to read


# The command


def test_a_job_is_made_changed_and_followed_to_its_end(ours):
    done = Shell(ours.home.root).run(
        "create", "-f", FILES / "command_job.yml", "--set", "inputs.number=5", "--set", "environment_variables.GREETING=hi",
        "--set", "name=from-the-shell", "--set", "outputs.out.version=10",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    assert done.stdout.startswith("from-the-shell\n") and "mafunzo job download from-the-shell" in done.stdout
    artifact = ours.jobs.get("from-the-shell").output_artifact("out")
    told = json.loads(ours.artifacts.open_file(artifact, "told.json").read_text())
    assert told == {
        "number": "5",
        "text": None,
        "greeting": "hi",
        "rows": ['{"a": 1}', '{"a": 2}'],
        "files": [".amlignore", "data/words.txt", "kept.log", "main.py"],
    }
    again = Shell(ours.home.root).run("create", "-f", FILES / "command_job.yml", "--set", "name=from-the-shell")
    assert again.exit_code == Conflict.exit_code and "exists already, and a job never changes" in again.stderr


def test_what_was_made_is_told(ours):
    done = Shell(ours.home.root).run("create", "-f", FILES / "data_folder.yml", "--set", "name=other")
    assert (done.exit_code, done.stdout) == (0, "Made data other:1\n")
    done = Shell(ours.home.root).run("create", "--file", FILES / "data_folder.yml", "--set", "name=other", "--json")
    assert json.loads(done.stdout) == {"kind": "data", "name": "other", "version": "2", "endpoint": ""}


def test_components_and_environments_are_listed_shown_and_archived(ours):
    def shown(*arguments: str) -> str:
        done = Shell(ours.home.root).run(*arguments)
        assert done.exit_code == 0, done.stderr
        return done.stdout

    assert "tells what it was given" in shown("component", "list")
    assert "humanize" in shown("environment", "show", "small-file:3")
    assert "tell_twice" in {one["name"] for one in json.loads(shown("component", "list", "--json"))}
    assert json.loads(shown("environment", "list", "--json"))[0]["name"] in ("small-file", "plain")
    told = shown("component", "show", "tell:4")
    assert "python main.py --number" in told and "how many" in told
    assert shown("component", "archive", "tell_twice:1") == "tell_twice:1 is archived\n"
    assert "tell_twice" not in shown("component", "list") and "tell_twice" in shown("component", "list", "--archived")
    assert shown("component", "archive", "tell_twice:1", "--undo") == "tell_twice:1 is shown\n"
    refused = Shell(ours.home.root).run("environment", "delete", "plain:1")
    assert refused.exit_code == Conflict.exit_code and "couldn't run without it" in refused.stderr
    assert shown("environment", "delete", "small-file:3") == "Deleted small-file:3. Freed 0 B.\n"
