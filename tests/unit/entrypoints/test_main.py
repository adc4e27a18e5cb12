"""Tests of `mafunzo.entrypoints.main`: the list of commands, and the exit code and words of whatever ends one."""

import importlib.util
from collections.abc import Callable

import pytest
import typer

from mafunzo import __version__
from mafunzo.entrypoints import main as app_module
from mafunzo.errors import Conflict, FailedError, InvalidParameter, JobFailed, MafunzoError
from tests.support.command_line import Shell

AZURES = {"run", "env", "create"}


def raising(error: BaseException) -> Callable[..., None]:
    def command(**_: object) -> None:
        raise error

    return command


def names_of(app: typer.Typer) -> set[str]:
    return {str(command.name) for command in (*app.registered_commands, *app.registered_groups)}


def test_the_version_is_printed(shell: Shell) -> None:
    assert shell("--version") == f"mafunzo {__version__}\n"


def test_without_a_command_the_help_is_shown(shell: Shell) -> None:
    ended = shell.run()
    assert ended.exit_code == 2
    assert "Exit codes: 0 done, 1 failed, 2 usage, 3 refused, 130 interrupted." in " ".join(
        (ended.stdout + ended.stderr).split()
    )


def test_every_noun_and_verb_is_there() -> None:
    verbs = {
        "demo",
        "up",
        "down",
        "finetune",
        "compare",
        "deploy",
        "lineage",
        "backup",
        "restore",
        "mlflow",
        "estimate",
        "prune",
        "status",
    }
    nouns = {"model", "data", "job", "batch", "endpoint", "compute", "component", "environment", "user", "doctor"}
    assert names_of(app_module.app) == verbs | nouns | AZURES


@pytest.mark.parametrize(
    ("words", "text"),
    [
        pytest.param(["finetunee"], "No such command 'finetunee'", id="unknown command"),
        pytest.param(["job", "lst"], "No such command 'lst'", id="unknown verb"),
        pytest.param(["job", "list", "--jsn"], "No such option: --jsn", id="unknown option"),
        pytest.param(["job", "show"], "Missing argument 'name'", id="missing argument"),
        pytest.param(["data", "split", "x.jsonl"], "Missing option '--to'", id="missing option"),
        pytest.param(
            ["data", "get", "chitchat", "--to", "x", "--percent", "half"],
            "Invalid value for '--percent'",
            id="no number",
        ),
    ],
)
def test_a_command_that_is_misspelt_ends_with_2(words: list[str], text: str, shell: Shell) -> None:
    ended = shell.run(*words)
    assert ended.exit_code == 2
    assert text in ended.stderr
    assert ended.stdout == ""


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        pytest.param(InvalidParameter("Bad.", ["one", "two"]), 2, "error: Bad.\n  - one\n  - two\n", id="usage"),
        pytest.param(Conflict("Taken."), 3, "error: Taken.\n", id="refused"),
        pytest.param(JobFailed("Broke."), 1, "error: Broke.\n", id="failed"),
        pytest.param(KeyboardInterrupt(), 130, "interrupted\n", id="interrupted"),
    ],
)
def test_an_error_is_an_exit_code_and_its_words_on_standard_error(
    error: BaseException, code: int, text: str, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app_module, "command", lambda: raising(error))
    ended = shell.run("anything")
    assert (ended.exit_code, ended.stdout, ended.stderr) == (code, "", text)


def test_every_family_of_errors_has_its_own_exit_code() -> None:
    assert [kind.exit_code for kind in (MafunzoError, FailedError, InvalidParameter, Conflict)] == [1, 1, 2, 3]


@pytest.mark.parametrize(
    ("absent", "commands"),
    [
        pytest.param("mafunzo.entrypoints.azure", AZURES, id="Azure's"),
        pytest.param("mafunzo.entrypoints.mlflow", {"mlflow"}, id="MLflow's"),
    ],
)
def test_commands_of_a_way_in_that_is_absent_are_left_out(
    absent: str, commands: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == absent else find_spec(name))
    spec = importlib.util.spec_from_file_location("app_without", app_module.__file__)
    assert spec is not None and spec.loader is not None
    spec.loader.exec_module(without := importlib.util.module_from_spec(spec))
    assert names_of(without.app) == names_of(app_module.app) - commands
