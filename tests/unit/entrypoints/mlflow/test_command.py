"""Tests of `mafunzo mlflow`: the address and the key, for a browser, a shell or a program."""

import json
from pathlib import Path

from mafunzo import Workspace
from mafunzo.entrypoints.http.auth import operator_key
from tests.support.command_line import Shell


def test_the_server_is_started_and_the_key_stands_in_the_address(
    shell: Shell, workspace: Workspace, starts: list[Path]
) -> None:
    assert shell("mlflow") == f"http://mafunzo:{operator_key(workspace.home)}@127.0.0.1:8080/mlflow\n"
    assert starts == [shell.home]


def test_a_shell_gets_the_key_apart_from_the_address(shell: Shell, workspace: Workspace) -> None:
    assert shell("mlflow", "--format", "shell").splitlines() == [
        "export MLFLOW_TRACKING_URI=http://127.0.0.1:8080/mlflow",
        f"export MLFLOW_TRACKING_TOKEN={operator_key(workspace.home)}",
    ]


def test_json_is_asked_for_in_two_ways(shell: Shell, workspace: Workspace) -> None:
    body = {"uri": "http://127.0.0.1:8080/mlflow", "key": operator_key(workspace.home)}
    assert json.loads(shell("mlflow", "--format", "json")) == json.loads(shell("mlflow", "--json")) == body


def test_an_unknown_format_is_refused(shell: Shell, starts: list[Path]) -> None:
    assert "'yaml' is not one of 'url', 'shell', 'json'" in shell("mlflow", "--format", "yaml", code=2)
    assert starts == []
