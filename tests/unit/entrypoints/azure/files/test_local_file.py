"""Local files and inline definitions of `az ml` files: which are taken, and where they go."""

import pytest

from mafunzo.entities.asset import AssetType
from mafunzo.entities.reference import parse_name
from mafunzo.entrypoints.azure.files.local_file import CheckedFiles, LocalFiles, StoredFiles, kept_files
from tests.support.chat_home import Home

FILES = ("main.py", "notes.log", "kept.log", "scratch/a.txt", "sub/scratch/b.txt", "sub/__pycache__/main.pyc")


@pytest.fixture
def folder(tmp_path):
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


def test_everything_is_kept_but_what_python_compiles(folder):
    assert kept_files(folder) == sorted(FILES[:-1])


@pytest.mark.parametrize("name", [".amlignore", ".gitignore"])
def test_a_folder_says_itself_what_stays_behind(folder, name):
    (folder / name).write_text("# not for the job\n*.log\n!kept.log\n/scratch/\n")
    assert kept_files(folder) == sorted([name, "main.py", "kept.log", "sub/scratch/b.txt"])


def test_azures_file_wins_over_gits(folder):
    (folder / ".gitignore").write_text("*.py\n")
    (folder / ".amlignore").write_text("*.log\n")
    assert "main.py" in kept_files(folder) and "notes.log" not in kept_files(folder)


@pytest.fixture
def workspace(tmp_path):
    with Home(tmp_path / "home", port=0) as opened:
        yield opened


@pytest.fixture
def place(tmp_path):
    """A folder with a file, a folder of code, a component and an environment."""
    (folder := tmp_path / "place").mkdir()
    (folder / "rows.jsonl").write_text("{}\n")
    (folder / "src").mkdir()
    (folder / "src" / "main.py").write_text("print(1)")
    (folder / "tell.yml").write_text(
        "type: command\nname: tell\ncommand: python main.py\ncode: ./src\noutputs: {o: {}}\n"
    )
    (folder / "env.yml").write_text("dependencies: [python=3.11]")
    return folder


def test_what_is_uploaded_is_at_the_address_of_its_content(workspace, place):
    local = LocalFiles(place, StoredFiles(workspace))
    uri = local.uri("path", "rows.jsonl", "uri_file")
    assert uri == local.uri("path", f"file://{place}/rows.jsonl", "uri_file")
    assert uri.startswith("azureml://datastores/workspaceblobstore/paths/LocalUpload/") and uri.endswith("/rows.jsonl")
    (blob,) = workspace.blobs.list("azureml-blobstore", "LocalUpload/")
    assert blob.name == uri.partition("/paths/")[2]


def test_what_stands_in_place_is_registered_once_without_a_name_of_its_own(workspace, place):
    local = LocalFiles(place, StoredFiles(workspace))
    first, again = (local.component("component", "tell.yml") for _ in range(2))
    assert first == again and first.startswith("azureml:azureml_anonymous:")
    assert local.outputs("component", first) == {"o": "uri_folder"}
    assert local.code("code", "src").startswith("azureml:")
    named = local.environment("environment", {"image": "x", "conda_file": "env.yml"})
    assert named.startswith("azureml:CliV2AnonymousEnvironment:")
    assert local.model("model", {"name": "m", "path": "src"}) == local.model("model", {"name": "m", "path": "src"})


def test_a_dry_run_stores_nothing_and_promises_what_would_be_there(workspace, place):
    before = workspace.artifacts.hashes()
    files = CheckedFiles(workspace)
    local = LocalFiles(place, files)
    uri, component = local.uri("path", "rows.jsonl", "uri_file"), local.component("component", "tell.yml")
    assert local.outputs("component", component) == {"o": "uri_folder"}
    promised = files.promised()
    assert promised.files[uri] == place / "rows.jsonl"
    assert [one.name for one in promised.components.values()] == ["tell"]
    assert (list(files.faults), workspace.artifacts.hashes()) == ([], before)


@pytest.mark.parametrize(
    ("path", "kind", "fault"),
    [
        ("none", "uri_file", "inputs.a.path: there is no "),
        ("src", "uri_file", "is a folder, and the type is uri_file."),
        ("rows.jsonl", "uri_folder", "is a file, and the type is uri_folder."),
        ("src", "mltable", "has no file MLTable"),
    ],
)
def test_a_path_that_cannot_be_taken_is_a_fault_of_its_key(workspace, place, path, kind, fault):
    files = CheckedFiles(workspace)
    LocalFiles(place, files, prefix="inputs.a.").uri("path", path, kind)
    (told,) = files.faults
    assert told.startswith("inputs.a.path: ") and fault in told


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("$schema: https://x/latest/data.schema.json\nname: a", "component: $schema: it is that of a data, expected a"),
        ("type: command\nname: a\ncomand: b", "component: comand: unknown key. Did you mean command?"),
        ("[1]", "holds no mapping of keys"),
    ],
)
def test_a_component_s_file_is_checked_as_one(workspace, place, text, fault):
    (place / "odd.yml").write_text(text)
    files = CheckedFiles(workspace)
    LocalFiles(place, files).component("component", "odd.yml")
    assert any(fault in told for told in files.faults), list(files.faults)


def test_code_is_put_together_with_what_is_included(workspace, place):
    (place / "lib" / "deep").mkdir(parents=True)
    (place / "lib" / "deep" / "x.txt").write_text("x")
    local = LocalFiles(place, StoredFiles(workspace))

    def files(reference):
        code = workspace.versions[AssetType.CODE].get(parse_name(reference.removeprefix("azureml:")))
        return sorted(file.path for file in workspace.artifacts.manifest(code.artifact))

    assert files(local.code("code", "src", ["lib", "./rows.jsonl"])) == ["lib/deep/x.txt", "main.py", "rows.jsonl"]
    archived = local.code("code", None, ["lib.zip"])
    assert files(archived) == ["lib.zip"] and local.code("code", None, ["lib.zip"]) == archived
    checked = CheckedFiles(workspace)
    LocalFiles(place, checked).code("code", "src", ["nowhere"])
    assert f"code: there is no {place / 'nowhere'}" in "".join(checked.faults)
