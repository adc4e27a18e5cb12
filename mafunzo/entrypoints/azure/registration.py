"""Registration of an asset's version from the body of its PUT, by a route or from a file of `az ml`."""

from collections.abc import Callable, Mapping
from typing import Any

from mafunzo.control.workspace import Workspace
from mafunzo.entities.asset import Asset, AssetType
from mafunzo.entrypoints.azure.wire import asset, component, environment

Body = Mapping[str, Any]
_REGISTER: Mapping[AssetType, Callable[[Workspace, str, str, Body], Asset]] = {
    AssetType.MODEL: lambda workspace, name, version, body: workspace.models.create(
        name, version, asset.model_from_body(body)
    ),
    AssetType.DATA: lambda workspace, name, version, body: workspace.data.create(
        name, version, asset.data_from_body(name, body)
    ),
    AssetType.COMPONENT: lambda workspace, name, version, body: workspace.components.create(
        component.request_from_body(name, version, body)
    ),
    AssetType.ENVIRONMENT: lambda workspace, name, version, body: workspace.environments.create(
        environment.request_from_body(name, version, body)
    ),
    AssetType.CODE: lambda workspace, name, version, body: workspace.codes.create(
        name, version, asset.code_from_body(body)
    ),
}


def register(workspace: Workspace, type: AssetType, name: str, version: str, body: Body) -> Asset:
    """Register a version, or change a version's mutable fields; raises what its reader and its verb raise."""
    return _REGISTER[type](workspace, name, version, body)
