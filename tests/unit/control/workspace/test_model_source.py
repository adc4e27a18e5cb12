"""Tests of `mafunzo.control.workspace.model_source`: how a job takes a model as its base."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from mafunzo import Workspace
from mafunzo.control.workspace.mirror import set_mirror
from mafunzo.control.workspace.model_source import ModelSources, Upload
from mafunzo.entities.asset import AssetType
from mafunzo.entities.job import ArtifactInput
from mafunzo.errors import InvalidFile, NotFound

HUB_MODEL, HUB_REPOSITORY = "Phi-3-mini-4k-instruct", "microsoft/Phi-3-mini-4k-instruct"


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    with Workspace(tmp_path / "home") as opened:
        yield opened


@pytest.fixture
def sources(workspace: Workspace) -> ModelSources:
    return ModelSources(workspace.services)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (folder := tmp_path / "network").mkdir()
    (folder / "config.json").write_text("{}")
    return folder


def stored(workspace: Workspace, value: Any) -> dict[str, str]:
    """Return the files that an upload stores, by path."""
    assert isinstance(value, Upload)
    artifact = value.put()
    files = workspace.artifacts.manifest(artifact)
    return {file.path: workspace.artifacts.open_file(artifact, file.path).read_text() for file in files}


def test_the_catalogues_models_are_on_offer_without_bytes(sources: ModelSources) -> None:
    [tiny] = sources.on_offer("tiny-llama")
    assert (str(tiny.key), tiny.artifact, tiny.created_by) == ("tiny-llama:1", None, "catalogue")
    assert tiny.tags["licence"] == tiny.properties["card"]["licence"] == "apache-2.0"
    assert tiny.tags["context_length"] == str(tiny.properties["card"]["context_length"])
    assert sources.on_offer("none") == []
    assert tiny in sources.on_offer()


def test_what_is_registered_hides_what_is_on_offer_under_the_same_name(
    workspace: Workspace, sources: ModelSources, folder: Path
) -> None:
    assert sources.get("tiny-llama").artifact is None
    workspace.models.register(folder, name="tiny-llama")
    assert sources.get("tiny-llama").artifact is not None


def test_a_reference_without_a_version_is_the_newest_that_is_not_archived(
    workspace: Workspace, sources: ModelSources, folder: Path
) -> None:
    for text in ("1", "2"):
        (folder / "weights").write_text(text)
        workspace.models.register(folder, name="chat")
    assert sources.get("chat").version == "2"
    workspace.models.archive("chat:2")
    assert sources.get("chat").version == "1"
    assert sources.get("chat:2").version == "2", "by its number it is still found"


@pytest.mark.parametrize(
    ("reference", "text"),
    [
        pytest.param("chat:9", "Model chat has no version 9. There are: 1.", id="unknown version"),
        pytest.param("tiny-lama", "No base model is called 'tiny-lama'. Did you mean tiny-llama", id="near name"),
        pytest.param("a:b:c", "No model is called 'a:b:c'. `mafunzo model list` shows all.", id="no name"),
    ],
)
def test_an_unknown_model_is_refused(
    reference: str, text: str, workspace: Workspace, sources: ModelSources, folder: Path
) -> None:
    workspace.models.register(folder, name="chat")
    with pytest.raises(NotFound) as refusal:
        sources.get(reference)
    assert text in refusal.value.message


def test_a_registered_model_is_taken_by_its_hash(workspace: Workspace, sources: ModelSources, folder: Path) -> None:
    asset = workspace.models.register(folder, name="chat")
    source = sources.source("chat")
    assert (source.name, source.inputs) == (
        "chat:1",
        {"mlflow_model_path": ArtifactInput(asset.artifact or "", "chat:1")},
    )
    assert sources.source(asset) == source


@pytest.mark.parametrize("is_adapter", [True, False])
def test_an_adapter_brings_its_base(
    is_adapter: bool, workspace: Workspace, sources: ModelSources, folder: Path
) -> None:
    if is_adapter:
        (folder / "adapter_config.json").write_text("{}")
    asset = workspace.models.register(folder, name="chat")
    properties = {**asset.properties, "base_artifact": "sha256:b"}
    workspace.records.assets.update(replace(asset, properties=properties))
    base = sources.source("chat").inputs.get("base_model_path")
    assert base == (ArtifactInput("sha256:b", "base of chat:1") if is_adapter else None)


def test_a_model_on_offer_is_stored_as_its_card_when_the_request_is_good(
    workspace: Workspace, sources: ModelSources
) -> None:
    source = sources.source("tiny-llama")
    assert list(workspace.artifacts.hashes()) == []
    files = stored(workspace, source.inputs["mlflow_model_path"])
    assert list(files) == ["card.yml"]
    card = yaml.safe_load(files["card.yml"])
    assert (card["name"], source.name) == ("tiny-llama", "tiny-llama:1")
    assert source.defaults == card.get("defaults", {})


def test_a_hubs_model_that_is_a_card_is_taken_as_that_card(sources: ModelSources) -> None:
    by_repository, by_name = sources.source(HUB_REPOSITORY), sources.source(HUB_MODEL)
    assert by_repository.name == by_name.name == f"{HUB_MODEL}:{sources.get(HUB_MODEL).version}"


def test_a_mirror_is_named_beside_the_card_and_a_changed_one_makes_other_bytes(
    workspace: Workspace, sources: ModelSources, folder: Path
) -> None:
    set_mirror(workspace.services, AssetType.MODEL, HUB_REPOSITORY, folder)
    value = sources.source(HUB_MODEL).inputs["mlflow_model_path"]
    assert isinstance(value, Upload)
    assert stored(workspace, value)["mirror.txt"] == f"{folder}\n"
    before = value.put()
    assert value.put() == before
    (folder / "more").write_text("x")
    assert value.put() != before


def test_any_other_repository_of_the_hub_is_fetched_by_the_job(
    workspace: Workspace, sources: ModelSources, folder: Path
) -> None:
    assert sources.source("org/name").inputs == {"huggingface_id": "org/name"}
    set_mirror(workspace.services, AssetType.MODEL, "org/name", folder)
    assert sources.source("org/name").inputs == {"huggingface_id": "org/name", "mirror": str(folder)}


@pytest.mark.parametrize(
    ("file", "name"),
    [
        pytest.param("config.json", "pytorch_model_path", id="a network"),
        pytest.param("adapter_config.json", "pytorch_model_path", id="an adapter"),
        pytest.param("MLmodel", "mlflow_model_path", id="MLflow's"),
    ],
)
def test_a_folder_is_taken_as_what_it_holds(
    file: str, name: str, workspace: Workspace, sources: ModelSources, tmp_path: Path
) -> None:
    (folder := tmp_path / "mine").mkdir()
    (folder / file).write_text("here")
    source = sources.source(str(folder))
    assert (source.name, list(source.inputs)) == ("mine", [name])
    assert stored(workspace, source.inputs[name]) == {file: "here"}


def test_a_folder_that_is_no_model_is_refused(sources: ModelSources, tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match=r"has neither config\.json nor MLmodel: it isn't a model"):
        sources.source(tmp_path)
    with pytest.raises(InvalidFile, match="none isn't a folder"):
        sources.source(tmp_path / "none")
