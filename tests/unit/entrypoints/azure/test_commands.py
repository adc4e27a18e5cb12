"""Tests of `mafunzo env` and `mafunzo run`, without starting a program or a server, and of `mafunzo create`."""

import importlib.util
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from mafunzo import Workspace
from mafunzo.control.workspace.endpoints import EndpointHandle
from mafunzo.control.workspace.jobs import JobHandle
from mafunzo.entities import reference
from mafunzo.entrypoints.azure import commands as azure_module
from mafunzo.entrypoints.http import tls
from mafunzo.entrypoints.http.identity import identity_of
from tests.support.command_line import Shell


@pytest.fixture(autouse=True)
def current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (folder := tmp_path / "project").mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_the_environment_is_lines_for_a_shell_and_the_server_is_started(
    shell: Shell, workspace: Workspace, starts: list[Path]
) -> None:
    lines = shell("env").splitlines()
    assert starts == [shell.home]
    assert "export IDENTITY_ENDPOINT=https://127.0.0.1:8443/msi/token" in lines
    assert f"export IDENTITY_HEADER={identity_of(workspace.home, workspace.user).header}" in lines
    assert all(line.startswith("export ") for line in lines)


def test_the_environment_is_a_json_object_of_the_same(shell: Shell) -> None:
    variables = json.loads(shell("env", "--format", "json"))
    lines = shell("env").splitlines()
    assert [line.removeprefix("export ").partition("=")[0] for line in lines] == list(variables)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        pytest.param(["env", "--format", "yaml"], "'yaml' is not one of 'shell', 'json', 'kernel'", id="format"),
        pytest.param(
            ["env", "--server", "https://gpu:8443"], "belong together: give all three, or none", id="only a server"
        ),
        pytest.param(["env", "--ca-file", "ca.pem"], "belong together: give all three, or none", id="only authorities"),
        pytest.param(
            ["env", "--format", "kernel", "--server", "https://x:1"], "A kernel is of this machine's", id="kernel"
        ),
        pytest.param(
            ["env", "--server", "https://gpu:8443", "--token-file", "none", "--ca-file", "ca.pem"],
            "none, which holds your token, can't be read",
            id="no token",
        ),
        pytest.param(["run", "none.py"], "none.py can't be read: No such file or directory.", id="no program"),
        pytest.param(
            ["run", "--python", "no/python", "x.py"], "--python is no/python, which can't be run", id="no Python"
        ),
        pytest.param(["run"], "Missing argument", id="nothing to run"),
    ],
)
def test_a_refusal_starts_nothing(words: list[str], text: str, shell: Shell, starts: list[Path]) -> None:
    assert text in " ".join(shell(*words, code=2).replace("│", "").split())
    assert starts == []


def test_the_public_certificates_are_written_for_others(shell: Shell, workspace: Workspace, tmp_path: Path) -> None:
    tls.certificate(workspace.home, ["127.0.0.1"], None)
    files = tls.files(workspace.home)
    told = shell("env", "--write-ca", tmp_path / "ca.pem")
    assert (tmp_path / "ca.pem").read_bytes() == files.bundle.read_bytes()
    assert f"whose SHA-256 is {tls.fingerprint(files.authority)}" in told
    told = shell("env", "--write-ca", tmp_path / "none" / "ca.pem", code=2)
    assert "can't be written: No such file or directory." in told


def test_a_jupyter_kernel_runs_the_program_and_keeps_no_secret(
    shell: Shell, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if name == "ipykernel" else find_spec(name))
    folder = tmp_path / "jupyter" / "kernels" / "mafunzo"
    told = shell("env", "--format", "kernel", JUPYTER_DATA_DIR=str(tmp_path / "jupyter"))
    assert told == f"The kernel 'Mafunzo' is installed: {folder}\n"
    body = json.loads((folder / "kernel.json").read_text())
    assert body["argv"][:5] == [sys.executable, "-m", "mafunzo", "run", "-m"]
    assert body["env"] == {"MAFUNZO_HOME": str(shell.home)}
    assert identity_of(workspace.home, workspace.user).header not in json.dumps(body)


def test_a_kernel_without_ipykernel_says_how_to_install_it(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "ipykernel" else find_spec(name))
    assert "A kernel needs ipykernel. Install it: " in shell("env", "--format", "kernel", code=2)


class Programs:
    """Stands in for the processes of programs: keeps how they would have been started, and ends them with 7."""

    def __init__(self) -> None:
        self.started: list[tuple[list[str], Mapping[str, str]]] = []

    def __call__(self, command: list[str], env: Mapping[str, str]) -> Any:
        self.started.append((command, env))
        return None


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> Programs:
    made = Programs()
    monkeypatch.setattr(azure_module.subprocess, "Popen", made)
    monkeypatch.setattr(azure_module, "_wait", lambda child: 7)
    return made


def test_a_program_runs_with_its_arguments_in_the_environment_and_its_code_is_the_commands(
    shell: Shell, programs: Programs, current_folder: Path
) -> None:
    (current_folder / "job.py").write_text("print('hi')")
    ended = shell.run("run", "job.py", "--flag", "x")
    assert ended.exit_code == 7
    [(command, environment)] = programs.started
    assert command == [sys.executable, "job.py", "--flag", "x"]
    assert environment["IDENTITY_ENDPOINT"] == "https://127.0.0.1:8443/msi/token"
    assert environment["MAFUNZO_HOME"] == str(shell.home)
    assert environment["HTTPS_PROXY"].startswith("http://127.0.0.1:")
    shell.run("run", "-m", "package.program")
    assert programs.started[1][0] == [sys.executable, "-m", "package.program"]


def test_config_json_is_written_where_the_sdk_would_find_none(
    shell: Shell, programs: Programs, current_folder: Path
) -> None:
    (current_folder / "job.py").write_text("")
    told = shell.run("run", "job.py").stderr
    assert told == f"mafunzo run: wrote config.json, which names the workspace in {shell.home}\n"
    assert json.loads((current_folder / "config.json").read_text())["workspace_name"] == "mafunzo"
    (current_folder / "config.json").write_text("mine")
    assert shell.run("run", "job.py").stderr == ""
    assert (current_folder / "config.json").read_text() == "mine"


def test_a_script_that_calls_the_downloader_gets_it_once(
    shell: Shell, programs: Programs, current_folder: Path
) -> None:
    (current_folder / "config.json").write_text("{}")
    (current_folder / "job.py").write_text("os.system('python ./download-dataset.py')")
    told = shell.run("run", "job.py").stderr
    assert told == "mafunzo run: wrote download-dataset.py, which job.py calls\n"
    downloader = current_folder / "download-dataset.py"
    assert "--download_dir" in downloader.read_text()
    downloader.write_text("mine")
    shell.run("run", "job.py")
    assert downloader.read_text() == "mine"


def test_a_command_knows_azures_names_whatever_was_opened_before_it(
    shell: Shell, workspace: Workspace, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a process of its own nothing has plugged the ways in yet."""
    node = "jobs:\n  say:\n    type: command\n    component: ./say.yml\n    inputs: {who: Amina}\n"
    file.with_name("say.yml").write_text(
        "$schema: https://azuremlschemas.azureedge.net/latest/commandComponent.schema.json\n"
        "name: say\ntype: command\ninputs: {who: {type: string}}\nenvironment: azureml:minimal\n"
        "command: echo ${{inputs.who}}\n"
    )
    file.write_text(
        "$schema: https://azuremlschemas.azureedge.net/latest/pipelineJob.schema.json\ntype: pipeline\nname: says\n"
        f"settings: {{default_compute: 'azureml:local'}}\n{node}"
    )
    monkeypatch.setattr(reference, "_syntaxes", [])
    assert shell("create", "-f", file, "--detach") == "says\n"


# mafunzo create: files of `az ml`, changed by `--set`, become what they describe

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
        pytest.param(
            ["--set", "size=Standard_NC64as_T4_v"], "Did you mean Standard_NC64as_T4_v3", id="a value that can't be"
        ),
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
            [], [("blue", 1200.0 + azure_module.GRACE_S)], id="waited for a little longer than its worker may take"
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
