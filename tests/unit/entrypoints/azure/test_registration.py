"""A version is registered from the body of its PUT, whoever brings it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mafunzo import Workspace
from mafunzo.entities.asset import AssetType
from mafunzo.entrypoints.azure.registration import register
from mafunzo.errors import InvalidParameter, NotFound, NotSupported
from tests.support.chat_home import chat_home

UPLOADED = "azureml://datastores/workspaceblobstore/paths/up"


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    with chat_home(tmp_path) as opened:
        (tmp_path / "a.txt").write_text("a")
        artifact = opened.artifacts.assemble({"a.txt": (opened.artifacts.put(tmp_path / "a.txt"), "a.txt")})
        opened.blobs.publish("azureml-blobstore", "up", artifact)
        yield opened


@pytest.mark.parametrize(
    ("type", "properties"),
    [
        pytest.param(AssetType.MODEL, {"modelUri": UPLOADED, "modelType": "custom_model"}, id="a model"),
        pytest.param(AssetType.DATA, {"dataUri": UPLOADED, "dataType": "uri_folder"}, id="data"),
        pytest.param(AssetType.CODE, {"codeUri": UPLOADED}, id="code"),
        pytest.param(AssetType.ENVIRONMENT, {"image": "x"}, id="an environment"),
        pytest.param(AssetType.COMPONENT, {"componentSpec": {"type": "command", "command": "x"}}, id="a component"),
    ],
)
def test_every_type_of_asset_is_registered(workspace: Workspace, type: AssetType, properties: dict[str, Any]) -> None:
    asset = register(workspace, type, "mine", "3", {"properties": {**properties, "tags": {"a": "b"}}})
    assert (asset.key.type, asset.name, asset.version, asset.tags) == (type, "mine", "3", {"a": "b"})


@pytest.mark.parametrize(
    ("type", "properties", "error"),
    [
        pytest.param(AssetType.MODEL, {}, InvalidParameter, id="a model without files"),
        pytest.param(AssetType.MODEL, {"modelUri": "file:///etc"}, NotSupported, id="a folder of the server's"),
        pytest.param(AssetType.DATA, {"dataUri": UPLOADED, "dataType": "picture"}, InvalidParameter, id="another type"),
        pytest.param(AssetType.CODE, {"codeUri": f"{UPLOADED}/none"}, NotFound, id="files that aren't there"),
    ],
)
def test_what_cannot_be_registered_is_refused(
    workspace: Workspace, type: AssetType, properties: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        register(workspace, type, "mine", "3", {"properties": properties})
