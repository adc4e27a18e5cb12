"""Where things are on Azure's wire, the routes of a kind of asset, and its lists, in pages."""

import re
from collections.abc import Callable, Iterable
from typing import Any, TypeVar
from urllib.parse import urlencode

from fastapi import APIRouter
from starlette.requests import Request

from mafunzo.errors import InvalidParameter
from mafunzo.server.azure_context import azure_context
from mafunzo.wire.azureml.envelope import PROVIDER, page

OF_SUBSCRIPTION = f"/subscriptions/{{subscription}}/providers/{PROVIDER}"
OF_GROUP = f"/subscriptions/{{subscription}}/resourceGroups/{{group}}/providers/{PROVIDER}"
WS = f"{OF_GROUP}/workspaces/{{workspace}}"
REG = f"{OF_GROUP}/registries/{{registry}}"
PAGE = 100
TOP, SKIP = "$top", "$skip"

T = TypeVar("T")
Handler = Callable[..., Any]


def listed(request: Request, things: Iterable[T], is_archived: Callable[[T], bool]) -> list[T]:
    """Return what a list's `listViewType` asks for (the active ones by default, the archived ones, or all) in its order.

    `things` come newest first, which is the order unless `$orderBy` asks for the oldest first.
    """
    view = request.query_params.get("listViewType", "ActiveOnly").lower()
    found = [thing for thing in things if view == "all" or is_archived(thing) == (view == "archivedonly")]
    is_oldest_first = (
        request.query_params.get("$orderBy", request.query_params.get("orderBy", "")).lower().endswith(" asc")
    )
    return found[::-1] if is_oldest_first else found


def paged(request: Request, things: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Return one page of a list, with the address of the next one."""
    bodies = list(things)
    first, size = _number(request, SKIP, 0), min(_number(request, TOP, PAGE), PAGE)
    shown, rest = bodies[first : first + size], len(bodies) - first - size
    wanted = request.query_params.get(TOP)
    is_last = rest <= 0 or (wanted is not None and int(wanted) <= PAGE)  # a client that names a number wants no more
    if is_last:
        return page(shown)
    query = {**request.query_params, SKIP: str(first + size)}
    return page(shown, f"{azure_context(request).place.base}{request.url.path}?{urlencode(query)}")


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


def _number(request: Request, name: str, default: int) -> int:
    given = request.query_params.get(name)
    if given is None:
        return default
    if not re.fullmatch(r"[0-9]{1,9}", given):
        raise InvalidParameter(f"{name} is '{given}', expected a number, 0 or more.", param=name)
    return int(given)
