"""Tests of `mafunzo create`: files of `az ml`, changed by `--set`, become what they describe."""

import json
from pathlib import Path

import pytest

from mafunzo import Workspace
from mafunzo.control.workspace.endpoints import EndpointHandle
from mafunzo.control.workspace.jobs import JobHandle
from mafunzo.entrypoints.azure import create_command as create_module
from tests.support.command_line import Shell

COMPUTE = "type: amlcompute\nname: team\nsize: Standard_D2s_v3\n"
COMPONENT = (
    "$schema: https://azuremlschemas.azureedge.net/latest/commandComponent.schema.json\nname: tell\ncommand: echo\n"
)
JOB = "type: command\nname: hello\ncommand: echo hi\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "thing.yml"


def test_what_has_no_version_is_made_under_its_name(shell: Shell, workspace: Workspace, file: Path) -> None:
    file.write_text(COMPUTE)
    assert shell("create", "-f", file) == "Made compute team\n"
    assert workspace.computes.find("team").size == "Standard_D2s_v3"


def test_what_has_versions_gets_the_next_one(shell: Shell, file: Path) -> None:
    file.write_text(COMPONENT)
    assert shell("create", "-f", file) == "Made component tell:1\n"
    assert json.loads(shell("create", "--file", file, "--json")) == {
        "kind": "component",
        "name": "tell",
        "version": "2",
        "endpoint": "",
    }


def test_set_wins_over_the_file(shell: Shell, workspace: Workspace, file: Path) -> None:
    file.write_text(COMPUTE)
    shell("create", "-f", file, "--set", "name=other", "--set", "max_instances=3")
    made = workspace.computes.find("other")
    assert made.max_instances == 3


@pytest.mark.parametrize(
    ("options", "text"),
    [
        pytest.param(["--set", "name"], "'name' isn't key=value.", id="no pair"),
        pytest.param(
            ["--set", "name.below=1"], "--set name.below=1 can't be done: there are no keys below it", id="no keys"
        ),
        pytest.param(["--set", "name=["], "--set name=[ can't be done: ", id="no YAML"),
        pytest.param(["--set", "size=Standard_D2s_v"], "Did you mean Standard_D2s_v3", id="a value that can't be"),
        pytest.param(["--set", "colour=red"], "colour", id="unknown key"),
    ],
)
def test_a_change_that_cannot_be_is_refused(
    options: list[str], text: str, shell: Shell, workspace: Workspace, file: Path
) -> None:
    file.write_text(COMPUTE)
    assert text in shell("create", "-f", file, *options, code=2)
    assert [one.name for one in workspace.computes.list()] == ["local"]


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        pytest.param(None, "thing.yml", id="missing file"),
        pytest.param("colour: red", "its keys are colour, expected a file of one of these: model, data", id="no kind"),
        pytest.param("a: [", "thing.yml", id="no YAML"),
    ],
)
def test_a_file_that_describes_nothing_is_refused(text: str | None, refusal: str, shell: Shell, file: Path) -> None:
    if text is not None:
        file.write_text(text)
    assert refusal in shell("create", "-f", file, code=2)


def test_a_job_is_named_then_followed_and_its_log_or_outputs_pointed_to(
    shell: Shell, file: Path, starts: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(JobHandle, "stream", lambda handle, to=None: print("an event"))
    file.write_text(JOB)
    assert shell("create", "-f", file) == "hello\nan event\nLog: mafunzo job logs hello\n"
    file.write_text(JOB.replace("hello", "writes") + "outputs: {out: {type: uri_folder}}\n")
    assert shell("create", "-f", file).endswith("Outputs: mafunzo job download writes --to FOLDER\n")
    assert shell.home in starts


def test_a_detached_job_is_only_named_and_a_second_of_its_name_refused(
    shell: Shell, workspace: Workspace, file: Path
) -> None:
    file.write_text(JOB)
    assert shell("create", "-f", file, "--detach") == "hello\n"
    told = shell("create", "-f", file, "--detach", code=3)
    assert told.startswith("error: Job hello exists already, and a job never changes.")
    body = json.loads(shell("create", "-f", file, "--set", "name=second", "--detach", "--json"))
    assert (body["name"], body["status"]) == ("second", "queued")
    assert {job.name for job in workspace.jobs.list()} == {"hello", "second"}


@pytest.mark.parametrize(
    ("options", "waits"),
    [
        pytest.param(
            [], [("blue", 1200.0 + create_module.GRACE_S)], id="waited for a little longer than its worker may take"
        ),
        pytest.param(["--detach"], [], id="detached"),
    ],
)
def test_a_deployment_is_waited_for(
    options: list[str],
    waits: list[tuple[str, float]],
    shell: Shell,
    workspace: Workspace,
    file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (folder := tmp_path / "model").mkdir()
    (folder / "config.json").write_text("{}")
    workspace.models.register(folder, name="chat")
    workspace.endpoints.create("greeter")
    calls: list[tuple[str, float]] = []
    monkeypatch.setattr(EndpointHandle, "wait", lambda handle, name, limit_s: calls.append((name, limit_s)))
    file.write_text(
        "name: blue\nendpoint_name: greeter\nmodel: azureml:chat:1\ninstance_type: Standard_DS3_v2\ninstance_count: 1\n"
        "liveness_probe: {initial_delay: 900}\n"
    )
    assert shell("create", "-f", file, *options) == "Made deployment blue\n"
    assert calls == waits
