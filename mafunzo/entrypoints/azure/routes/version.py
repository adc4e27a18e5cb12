"""The routes that every kind of versioned asset has in Azure ML's dialect, in a workspace and in a registry."""

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter

Handler = Callable[..., Any]


def add_asset_routes(
    router: APIRouter,
    path: str,
    name: str,
    *,
    list_names: Handler,
    get_container: Handler,
    put_container: Handler,
    list_versions: Handler,
    get_version: Handler,
    put_version: Handler,
) -> None:
    """Add the routes of one kind of asset under `path`; `name` is the kind's in the routes' names."""
    container, versions = f"{path}/{{name}}", f"{path}/{{name}}/versions"
    version = f"{versions}/{{version}}"
    router.add_api_route(path, list_names, methods=["GET"], name=f"list_{name}")
    router.add_api_route(container, get_container, methods=["GET"], name=f"get_{name}_container")
    router.add_api_route(container, put_container, methods=["PUT"], name=f"put_{name}_container")
    router.add_api_route(versions, list_versions, methods=["GET"], name=f"list_{name}_versions")
    router.add_api_route(version, get_version, methods=["GET"], name=f"get_{name}_version")
    router.add_api_route(version, put_version, methods=["PUT"], name=f"put_{name}_version")
