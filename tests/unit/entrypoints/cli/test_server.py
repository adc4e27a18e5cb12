"""Tests of `mafunzo up`, `down`, `backup` and `restore`, without a server."""

import json
from pathlib import Path
from typing import Any

import pytest

from mafunzo import Workspace
from mafunzo.control.workspace.shutdown import DownReport, EndedProcess
from mafunzo.entities.job import Job
from mafunzo.entrypoints import plugins
from tests.support.command_line import Shell


def test_up_in_the_background_says_where_the_server_is(shell: Shell, starts: list[Path]) -> None:
    told = shell("up", "--detach")
    assert starts == [shell.home]
    assert "OpenAI's dialect  http://127.0.0.1:8080/v1, with an endpoint's key: mafunzo endpoint keys NAME" in told
    assert f"Process           4711, home {shell.home}. It ends with: mafunzo down" in told
    assert "For others" not in told


def test_up_prints_the_addresses_as_json(shell: Shell) -> None:
    facts = json.loads(shell("up", "--detach", "--json"))
    own = {"listen": "127.0.0.1", "openai": "http://127.0.0.1:8080/v1", "pid": 4711, "home": str(shell.home)}
    assert {name: facts[name] for name in own} == own


def test_up_prints_the_addresses_of_all_that_is_installed(shell: Shell) -> None:
    for package in (plugins.AZURE, plugins.MLFLOW):
        pytest.importorskip(package)
    facts = json.loads(shell("up", "--detach", "--json"))
    assert facts["azure"] == "https://127.0.0.1:8443"
    assert facts["mlflow"] == "http://127.0.0.1:8080/mlflow/"
    assert facts["mlflow_password_file"] == str(shell.home / "operator.key")


def test_json_of_a_server_in_the_foreground_is_refused(shell: Shell, starts: list[Path]) -> None:
    assert "--json is given without --detach" in shell("up", "--json", code=2)
    assert starts == []


def test_in_the_foreground_the_process_becomes_the_server(
    shell: Shell, starts: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    servers: list[tuple[int, int, str]] = []

    def serve(workspace: Workspace) -> None:
        servers.append((workspace.port, workspace.https_port, workspace.listen))
        raise SystemExit(0)

    monkeypatch.setattr(Workspace, "serve", serve)
    shell("up", "--port", "81", "--azure-port", "444", "--listen", "0.0.0.0")
    shell("up", "--https-port", "445")
    shell("up", "--port", "0")
    assert servers == [(81, 444, "0.0.0.0"), (0, 445, "127.0.0.1"), (0, 0, "127.0.0.1")]
    assert starts == []


def test_down_of_nothing_says_so(shell: Shell) -> None:
    assert shell("down") == f"Nothing was running on {shell.home}: no process, port or lock of it is there.\n"


def test_down_prints_what_was_freed(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    report = DownReport("/home", (EndedProcess(7, 1.0, "server", 101.4, (8080, 8443)),), steps=("j1/train",))
    monkeypatch.setattr(Workspace, "down", lambda self: report)
    assert shell("down").splitlines() == report.lines()
    body: dict[str, Any] = json.loads(shell("down", "--json"))
    assert (body["processes"][0]["pid"], body["steps"]) == (7, ["j1/train"])


def test_a_backup_is_restored_into_an_empty_home_only(shell: Shell, workspace: Workspace, tmp_path: Path) -> None:
    workspace.users.create("amina", "reader")
    file = tmp_path / "home.tar"
    told = shell("backup", file)
    assert told.startswith(f"Backed up {shell.home} to {file} (")
    assert json.loads(shell("backup", tmp_path / "again.tar", "--json"))["file"] == str(tmp_path / "again.tar")
    restored = Shell(tmp_path / "restored")
    assert restored("restore", file) == f"Restored {file} to {restored.home}; every hash is right\n"
    assert json.loads(restored("user", "list", "--json"))[0]["name"] == "amina"
    assert "isn't empty" in restored("restore", file, code=3)


def test_a_backup_that_is_not_there_is_refused(shell: Shell, tmp_path: Path) -> None:
    assert "none.tar" in shell("restore", tmp_path / "none.tar", code=2)


def test_status_tells_the_queue_and_what_takes_room_by_kind(shell: Shell, workspace: Workspace) -> None:
    workspace.records.jobs.add(Job("waits", "j", "e", "c:1"), [])
    (workspace.home.logs / "server.log").write_bytes(b"x" * 8192)
    text = shell("status")
    assert "server          none runs; start it: mafunzo up --detach" in text
    assert "jobs queued     1" in text and "  logs          8.2 kB" in text
    assert text.endswith("What of it may go: mafunzo prune\n")
    told = json.loads(shell("status", "--json"))
    assert told["server"] is None and told["jobs"] == {"queued": 1} and told["sizes"]["logs"] == 8192
