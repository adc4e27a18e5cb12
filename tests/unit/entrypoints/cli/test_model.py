"""Tests of `mafunzo model` over a home with one registered model."""

import json
from pathlib import Path
from typing import Any, cast

import pytest

from mafunzo import Workspace
from mafunzo.control.workspace.models import Models
from mafunzo.entities.job import Job, Step, StepSpec
from tests.support.command_line import Shell


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (folder := tmp_path / "tuned").mkdir()
    (folder / "config.json").write_text("{}")
    return folder


@pytest.fixture
def model(workspace: Workspace, folder: Path) -> str:
    workspace.models.register(folder, name="greeter", description="Says hello.\nAnd more.")
    return "greeter:1"


def listed(shell: Shell, *options: str) -> list[str]:
    return [
        f"{one['key']['name']}:{one['key']['version']}"
        for one in json.loads(shell("model", "list", *options, "--json"))
    ]


def test_registered_models_stand_before_those_on_offer(shell: Shell, model: str) -> None:
    header, first, *_ = shell("model", "list").splitlines()
    assert header.split() == ["name", "version", "where", "licence", "description"]
    assert first.split() == ["greeter", "1", "registered", "Says", "hello."]
    assert listed(shell)[0] == model
    assert "tiny-llama:1" in listed(shell)
    assert ["tiny-llama", "1", "on", "offer"] in [line.split()[:4] for line in shell("model", "list").splitlines()]


def test_a_list_of_one_name_has_only_that(shell: Shell, model: str) -> None:
    assert listed(shell, "--name", "greeter") == [model]
    assert shell("model", "list", "--name", "none") == "No models.\n"


def test_a_model_is_shown_with_what_it_is_and_where_it_comes_from(
    shell: Shell, model: str, workspace: Workspace
) -> None:
    asset = workspace.models.get(model)
    facts = dict(line.split(maxsplit=1) for line in shell("model", "show", "greeter").splitlines() if "  " in line)
    assert (facts["name"], facts["version"], facts["by"], facts["artifact"]) == (
        "greeter", "1", workspace.user, asset.artifact,
    )  # fmt: skip
    assert json.loads(shell("model", "show", model, "--json"))["artifact"] == asset.artifact


def test_a_model_on_offer_is_shown_with_its_card(shell: Shell) -> None:
    told = shell("model", "show", "tiny-llama")
    assert "artifact" not in told
    assert any(line.split() == ["licence", "apache-2.0"] for line in told.splitlines())
    assert any(line.startswith("source ") and "made" in line for line in told.splitlines())


def test_a_folder_is_registered_under_the_next_version(
    shell: Shell, model: str, folder: Path, workspace: Workspace
) -> None:
    (folder / "more").write_text("x")
    told = shell("model", "register", folder, "--name", "greeter", "--description", "Better.")
    asset = workspace.models.get("greeter:2")
    assert told == f"Registered greeter:2 ({asset.artifact}). Serve it: mafunzo deploy greeter:2 --endpoint greeter\n"
    assert asset.description == "Better."
    body = json.loads(shell("model", "register", folder, "--name", "greeter", "--version", "9", "--json"))
    assert body["key"]["version"] == "9"


def test_a_version_is_hidden_from_lists_and_shown_again(shell: Shell, model: str) -> None:
    assert shell("model", "archive", model) == "greeter:1 is archived\n"
    assert listed(shell, "--name", "greeter") == []
    assert listed(shell, "--name", "greeter", "--archived") == [model]
    assert shell("model", "archive", model, "--undo") == "greeter:1 is shown\n"
    assert listed(shell, "--name", "greeter") == [model]
    assert json.loads(shell("model", "archive", model, "--json"))["is_archived"] is True


def test_a_model_is_written_into_a_new_folder_only(shell: Shell, model: str, tmp_path: Path) -> None:
    assert shell("model", "download", model, "--to", tmp_path / "to") == f"{tmp_path / 'to'}\n"
    assert (tmp_path / "to" / "config.json").read_text() == "{}"
    told = shell("model", "download", model, "--to", tmp_path / "to", code=3)
    assert told == f"error: {tmp_path / 'to'} isn't empty. Name a new folder.\n"
    body = json.loads(shell("model", "download", model, "--to", tmp_path / "other", "--json"))
    assert body == {"folder": str(tmp_path / "other")}


def test_a_deleted_model_names_what_still_holds_its_bytes(
    shell: Shell, model: str, folder: Path, workspace: Workspace
) -> None:
    workspace.models.register(folder, name="copy")
    artifact = workspace.models.get(model).artifact or ""
    step = Step("maker", StepSpec("pack", "pack:1", "sha256:0", "true"), outputs={"out": artifact})
    workspace.records.jobs.add(Job("maker", "maker", "chat", "pack:1"), [step])
    assert shell("model", "delete", model) == (
        "Deleted greeter:1. Freed 0 B:\n"
        "  job maker still holds its outputs; mafunzo job delete maker frees them\n"
        "  model copy:1 still holds the same bytes; mafunzo model delete copy:1 frees them\n"
    )
    body = json.loads(shell("model", "delete", "copy", "--json"))
    assert (body["deleted"], body["held_by"]) == ("copy:1", {"jobs": ["maker"], "models": []})


def test_a_mirror_stands_in_for_the_hub(shell: Shell, folder: Path) -> None:
    assert shell("model", "mirror", "org/name", folder) == f"org/name is found in {folder}\n"
    body = json.loads(shell("model", "mirror", "org/name", folder, "--json"))
    assert body == {"repository": "org/name", "folder": str(folder)}


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        pytest.param(
            ["show", "tiny-lama"], 2, "No base model is called 'tiny-lama'. Did you mean tiny-llama", id="near name"
        ),
        pytest.param(["show", "greeter:7"], 2, "Model greeter has no version 7. There are: 1.", id="unknown version"),
        pytest.param(["delete", "tiny-llama"], 3, "tiny-llama:1 belongs to the catalogue", id="not ours to delete"),
        pytest.param(["archive", "tiny-llama"], 3, "tiny-llama:1 belongs to the catalogue", id="not ours to archive"),
        pytest.param(["register", "no_job", "--name", "x"], 2, "No job 'no_job'", id="no source"),
        pytest.param(
            ["register", "{folder}", "--name", "x", "--output", "o"], 2, "output is o, but", id="output of a folder"
        ),
        pytest.param(["register", "{folder}"], 2, "Missing option '--name'", id="no name"),
        pytest.param(["mirror", "org/name", "{folder}/none"], 2, "isn't a folder", id="no folder"),
        pytest.param(["mirror", "name", "{folder}"], 2, "expected org/name", id="no repository"),
    ],
)
@pytest.mark.usefixtures("model")
def test_a_refusal_says_what_is_wrong(words: list[str], code: int, text: str, shell: Shell, folder: Path) -> None:
    assert text in shell("model", *(word.format(folder=folder) for word in words), code=code)


class Import:
    """A job that imports; it keeps where it was told to stream to."""

    name = "import-1"
    job = Job("import-1", "import tiny-llama", "import", "import_model:1")

    def __init__(self) -> None:
        self.streams: list[object] = []

    def stream(self, to: Any = None) -> None:
        self.streams.append(to)


@pytest.mark.parametrize(
    ("options", "is_followed", "is_json", "printed"),
    [
        pytest.param([], True, False, "", id="followed"),
        pytest.param(["--detach"], False, False, "import-1\n", id="detached, its name"),
        pytest.param(["--json"], True, True, None, id="followed beside the JSON"),
        pytest.param(["--detach", "--json"], False, True, None, id="detached, as JSON"),
    ],
)
def test_a_model_is_imported_by_a_job_that_is_followed(
    options: list[str],
    is_followed: bool,
    is_json: bool,
    printed: str | None,
    shell: Shell,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job, references = Import(), []

    def import_(_: Models, reference: str) -> Any:
        references.append(reference)
        return cast(Any, job)

    monkeypatch.setattr(Models, "import_", import_)
    ended = shell.run("model", "import", "tiny-llama", *options)
    assert (ended.exit_code, references, len(job.streams)) == (0, ["tiny-llama"], int(is_followed))
    assert [stream is None for stream in job.streams] == [not is_json] * is_followed
    assert json.loads(ended.stdout)["name"] == "import-1" if is_json else ended.stdout == printed
