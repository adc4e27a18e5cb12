"""Tests of `mafunzo.entrypoints.mlflow.registry`: MLflow's operations on the workspace's own models, without a server."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mafunzo import Workspace
from mafunzo.entities.asset import WORKSPACE_SCOPE, Asset, AssetKey, AssetType, FolderType
from mafunzo.entrypoints.mlflow import registered_model as wire
from mafunzo.entrypoints.mlflow.registry import Registry
from mafunzo.errors import NotFound
from tests.support.rows_read import rows_read


@contextmanager
def two_versions(folder: Path) -> Iterator[Workspace]:
    (data := folder / "model" / "data").mkdir(parents=True)
    (data.parent / "MLmodel").write_text("flavors: {}")
    (data / "weights").write_text("1234")
    with Workspace(folder / "home", port=0) as opened:
        for number in (1, 2):
            opened.models.register(data.parent, name="chat", description=f"number {number}", tags={"n": str(number)})
        yield opened


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    with two_versions(tmp_path) as opened:
        yield opened


@pytest.fixture
def registry(workspace: Workspace, tmp_path: Path) -> Registry:
    return Registry(workspace, tmp_path / "artifacts")


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry for what changes nothing in it."""
    folder = tmp_path_factory.mktemp("unchanged")
    with two_versions(folder) as opened:
        yield Registry(opened, folder / "artifacts")


def ask(registry: Registry, method: str, operation: str, **arguments: Any) -> Any:
    answer = registry.answer(method, operation, arguments)
    assert answer is not None and answer[0] == 200, answer
    return answer[1]


def model_of(registry: Registry, name: str = "chat") -> dict[str, Any]:
    model: dict[str, Any] = ask(registry, "GET", "registered-models/get", name=name)["registered_model"]
    return model


def version_of(registry: Registry, version: str, name: str = "chat") -> dict[str, Any]:
    body: dict[str, Any] = ask(registry, "GET", "model-versions/get", name=name, version=version)["model_version"]
    return body


def test_a_model_of_ours_is_shown_with_its_newest_version(unchanged: Registry) -> None:
    body = model_of(unchanged)
    assert (body["name"], [version["version"] for version in body["latest_versions"]]) == ("chat", ["2"])
    assert version_of(unchanged, "1")["source"] == "mlflow-artifacts:/registered-models/chat/1"
    found = ask(unchanged, "GET", "registered-models/search", filter="name LIKE 'ch%'")
    assert [one["name"] for one in found["registered_models"]] == ["chat"]


@pytest.mark.parametrize(
    ("operation", "arguments"),
    [
        pytest.param(("GET", "registered-models/get"), {"name": "greeting"}, id="a name that isn't ours"),
        pytest.param(
            ("POST", "registered-models/create"),
            {"name": "greeting", "tags": [{"key": wire.PROMPT_TAG, "value": "true"}]},
            id="a new prompt",
        ),
        pytest.param(
            ("GET", "registered-models/search"), {"filter": f"tags.`{wire.PROMPT_TAG}` = 'true'"}, id="a search of them"
        ),
        pytest.param(("GET", "model-versions/search"), {"filter": "name = 'greeting'"}, id="one's versions"),
        pytest.param(("GET", "registered-models/anything"), {"name": "chat"}, id="an operation that isn't ours"),
    ],
)
def test_prompts_and_the_rest_are_left_to_mlflow(
    operation: tuple[str, str], arguments: dict[str, Any], unchanged: Registry
) -> None:
    assert unchanged.answer(*operation, arguments) is None


def test_a_name_is_made_changed_and_deleted(registry: Registry) -> None:
    tags = [{"key": "team", "value": "one"}]
    ask(registry, "POST", "registered-models/create", name="new", description="first", tags=tags)
    ask(registry, "PATCH", "registered-models/update", name="new", description="second")
    assert (model_of(registry, "new")["description"], model_of(registry, "new")["tags"]) == ("second", tags)
    assert ask(registry, "DELETE", "registered-models/delete", name="new") == {}
    assert registry.answer("GET", "registered-models/get", {"name": "new"}) is None


def test_tags_of_a_model_are_set_and_deleted_one_by_one(registry: Registry) -> None:
    for key, value in (("a", "1"), ("b", "2"), ("a", "3")):
        ask(registry, "POST", "registered-models/set-tag", name="chat", key=key, value=value)
    assert model_of(registry)["tags"] == [{"key": "a", "value": "3"}, {"key": "b", "value": "2"}]
    ask(registry, "DELETE", "registered-models/delete-tag", name="chat", key="a")
    assert model_of(registry)["tags"] == [{"key": "b", "value": "2"}]


def test_tags_and_words_of_a_version_are_its_own(registry: Registry) -> None:
    ask(registry, "POST", "model-versions/set-tag", name="chat", version="1", key="stage", value="ready")
    ask(registry, "DELETE", "model-versions/delete-tag", name="chat", version="1", key="n")
    ask(registry, "PATCH", "model-versions/update", name="chat", version="1", description="the first")
    body = version_of(registry, "1")
    assert (body["tags"], body["description"]) == ([{"key": "stage", "value": "ready"}], "the first")
    assert version_of(registry, "2")["tags"] == [{"key": "n", "value": "2"}]
    found = ask(registry, "GET", "model-versions/search", filter="tags.stage = 'ready'")
    assert [one["version"] for one in found["model_versions"]] == ["1"]


def test_an_alias_is_a_label_of_ours(registry: Registry) -> None:
    ask(registry, "POST", "registered-models/alias", name="chat", alias="live", version="1")
    by_alias = ask(registry, "GET", "registered-models/alias", name="chat", alias="live")["model_version"]
    assert (by_alias["version"], by_alias["aliases"]) == ("1", ["live"])
    ask(registry, "DELETE", "registered-models/alias", name="chat", alias="live")
    assert version_of(registry, "1")["aliases"] == []


def test_an_archived_version_is_of_that_stage_and_never_the_latest(registry: Registry) -> None:
    stage = {"name": "chat", "version": "2", "stage": wire.ARCHIVED}
    body = ask(registry, "POST", "model-versions/transition-stage", **stage)["model_version"]
    assert body["current_stage"] == wire.ARCHIVED
    latest = ask(registry, "GET", "registered-models/get-latest-versions", name="chat")["model_versions"]
    assert [version["version"] for version in latest] == ["1"]
    archived = ask(registry, "POST", "registered-models/get-latest-versions", name="chat", stages=[wire.ARCHIVED])
    assert [version["version"] for version in archived["model_versions"]] == ["2"]


def test_what_a_run_has_logged_becomes_a_version_that_keeps_where_it_came_from(
    registry: Registry, workspace: Workspace, tmp_path: Path
) -> None:
    (logged := tmp_path / "artifacts" / "1" / "run7" / "artifacts" / "model").mkdir(parents=True)
    (logged / "MLmodel").write_text("flavors: {}")
    request = {"name": "chat", "source": "runs:/run7/model", "run_id": "run7"}
    body = ask(registry.acting_as("amina"), "POST", "model-versions/create", **request)["model_version"]
    assert (body["source"], body["run_id"], body["user_id"]) == ("runs:/run7/model", "run7", "amina")
    assert workspace.models.get("chat:3").echoes[wire.ECHO]["source"] == "runs:/run7/model"


@pytest.mark.parametrize("source", ["models:/chat/1", "models:/chat@live"])
def test_a_version_is_registered_once_more_under_another_name(
    source: str, registry: Registry, workspace: Workspace
) -> None:
    ask(registry, "POST", "registered-models/alias", name="chat", alias="live", version="1")
    ask(registry, "POST", "registered-models/create", name="copy")
    ask(registry, "POST", "model-versions/create", name="copy", source=source)
    assert workspace.models.get("copy:1").artifact == workspace.models.get("chat:1").artifact


def test_a_version_is_deleted(registry: Registry) -> None:
    ask(registry, "DELETE", "model-versions/delete", name="chat", version="1")
    status, body = registry.answer("GET", "model-versions/get", {"name": "chat", "version": "1"}) or (0, {})
    assert (status, body["error_code"]) == (404, "RESOURCE_DOES_NOT_EXIST")


@pytest.mark.parametrize(
    ("operation", "arguments", "code", "text"),
    [
        pytest.param(
            ("POST", "registered-models/create"),
            {"name": "chat"},
            "RESOURCE_ALREADY_EXISTS",
            "chat",
            id="there already",
        ),
        pytest.param(
            ("POST", "registered-models/rename"),
            {"name": "chat", "new_name": "x"},
            "INVALID_PARAMETER_VALUE",
            "can't be renamed",
            id="another name",
        ),
        pytest.param(
            ("POST", "model-versions/transition-stage"),
            {"name": "chat", "version": "1", "stage": "Production"},
            "INVALID_PARAMETER_VALUE",
            "Set an alias instead",
            id="a stage that says nothing here",
        ),
        pytest.param(
            ("POST", "registered-models/set-tag"),
            {"name": "chat", "value": "x"},
            "INVALID_PARAMETER_VALUE",
            "key is None, expected a text",
            id="a tag without a name",
        ),
        pytest.param(
            ("GET", "registered-models/search"),
            {"filter": "size > 3"},
            "INVALID_PARAMETER_VALUE",
            "The filter asks for 'size'",
            id="a filter by what isn't known",
        ),
    ],
)
def test_a_refusal_has_mlflows_code(
    operation: tuple[str, str], arguments: dict[str, Any], code: str, text: str, unchanged: Registry
) -> None:
    status, body = unchanged.answer(*operation, arguments) or (0, {})
    assert (status, body["error_code"]) == (400, code)
    assert text in body["message"]


@pytest.mark.parametrize("source", ["runs:/none/model", "mlflow-artifacts:/1/none/artifacts"])
def test_nothing_is_registered_of_what_was_never_logged(source: str, unchanged: Registry) -> None:
    status, body = unchanged.answer("POST", "model-versions/create", {"name": "chat", "source": source}) or (0, {})
    assert (status, body["error_code"]) == (404, "RESOURCE_DOES_NOT_EXIST")
    versions = ask(unchanged, "GET", "model-versions/search", filter="name = 'chat'")["model_versions"]
    assert {version["version"] for version in versions} == {"1", "2"}


def test_the_files_of_a_version_are_listed_folder_by_folder_and_opened(unchanged: Registry) -> None:
    files = {file["path"]: file for file in unchanged.list_files("chat/1")["files"]}
    assert files == {
        "MLmodel": {"path": "MLmodel", "is_dir": False, "file_size": 11},
        "data": {"path": "data", "is_dir": True},
    }
    assert unchanged.list_files("chat/1/data/")["files"] == [{"path": "weights", "is_dir": False, "file_size": 4}]
    assert unchanged.open_file("chat/1/data/weights").read_text() == "1234"


@pytest.mark.parametrize("path", ["chat/1/nothing", "chat/1/../../secret", "chat/9/MLmodel", "nobodys/1/MLmodel"])
def test_a_file_that_is_none_of_a_versions_is_not_found(path: str, unchanged: Registry) -> None:
    with pytest.raises(NotFound):
        unchanged.open_file(path)


def names(bodies: list[dict[str, Any]]) -> list[str]:
    return [f"{body['name']}:{body['version']}" if "version" in body else body["name"] for body in bodies]


def add(workspace: Workspace, name: str, version: str) -> None:
    key = AssetKey(WORKSPACE_SCOPE, AssetType.MODEL, name, version)
    workspace.records.assets.add(Asset(key, FolderType.CUSTOM_MODEL, artifact="sha256:0", tags={"n": version}))


@pytest.mark.parametrize(
    ("operation", "field", "size"),
    [("registered-models/search", "registered_models", 20), ("model-versions/search", "model_versions", 50)],
)
def test_searches_read_a_page_of_names_at_a_time_whatever_is_deleted_meanwhile(
    operation: str, field: str, size: int, workspace: Workspace, registry: Registry
) -> None:
    for number in range(250):
        for version in ("1", "2"):
            add(workspace, f"more-{number:03}", version)
    workspace.registered_models.create("more-250")
    everything = names(ask(registry, "GET", operation, max_results=9999)[field])
    assert len(everything) == (252 if field == "registered_models" else 502) and everything[0].startswith("chat")
    found, token = list[str](), ""
    while True:
        with rows_read() as rows:
            page = ask(registry, "GET", operation, max_results=size, page_token=token, order_by=["name ASC"])
        assert rows["asset"] <= 2 * 300
        found += names(page[field])
        if not (token := page["next_page_token"]):
            break
        if "more-100" in found[-1]:  # what a page ended with may be gone when the next one is asked for
            workspace.records.assets.delete(AssetKey(WORKSPACE_SCOPE, AssetType.MODEL, "more-100", "2"))
    assert list(dict.fromkeys(found)) == everything


def test_a_search_for_one_name_reads_that_name_alone(workspace: Workspace, registry: Registry) -> None:
    for number in range(50):
        add(workspace, f"more-{number:03}", "1")
    search = {"filter": "name = 'chat'", "max_results": 1}
    with rows_read() as rows:
        first = ask(registry, "GET", "model-versions/search", **search)
        second = ask(registry, "GET", "model-versions/search", **search, page_token=first["next_page_token"])
    assert rows["asset"] <= 12
    assert names(first["model_versions"] + second["model_versions"]) == ["chat:2", "chat:1"]
    assert second["next_page_token"] == ""
    newest = ask(registry, "GET", "model-versions/search", order_by=["version_number DESC"], max_results=1)
    assert names(newest["model_versions"]) == ["chat:2"] and newest["next_page_token"] == "1"
