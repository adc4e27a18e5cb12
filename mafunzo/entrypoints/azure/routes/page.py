"""Filter, order and pagination of Azure's lists."""

import re
from collections.abc import Callable, Iterable
from typing import Any, TypeVar
from urllib.parse import urlencode

from starlette.requests import Request

from mafunzo.entrypoints.azure.context import azure_context
from mafunzo.entrypoints.azure.wire.envelope import page
from mafunzo.entrypoints.http.listing import shown
from mafunzo.errors import InvalidParameter

PAGE = 100
TOP, SKIP = "$top", "$skip"

T = TypeVar("T")


def listed(request: Request, things: Iterable[T], is_archived: Callable[[T], bool]) -> list[T]:
    """Return the things in a list's `listViewType` (the active ones by default, the archived ones, or all) in its order.

    `things` come newest first, which is the order unless `$orderBy` asks for the oldest first.
    """
    view = request.query_params.get("listViewType", "ActiveOnly").lower()
    items = [thing for thing in things if view == "all" or is_archived(thing) == (view == "archivedonly")]
    is_oldest_first = (
        request.query_params.get("$orderBy", request.query_params.get("orderBy", "")).lower().endswith(" asc")
    )
    return items[::-1] if is_oldest_first else items


def paged(
    request: Request,
    things: Iterable[T],
    body: Callable[[T], dict[str, Any]],
    broken: Callable[[T], dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Return one page of a list, with the address of the next one.

    body: of each thing on the page; broken: of one whose body can't be made, which is left out without it.
    """
    items = list(things)
    first, size = _number(request, SKIP, 0), min(_number(request, TOP, PAGE), PAGE)
    rest = len(items) - first - size
    bodies = list(shown(items[first : first + size], body, broken))
    top = request.query_params.get(TOP)
    is_last = rest <= 0 or (top is not None and int(top) <= PAGE)  # a client that names a number wants no more
    if is_last:
        return page(bodies)
    query = {**request.query_params, SKIP: str(first + size)}
    return page(bodies, f"{azure_context(request).place.base}{request.url.path}?{urlencode(query)}")


def _number(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name)
    if text is None:
        return default
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise InvalidParameter(f"{name} is '{text}', expected a number, 0 or more.", param=name)
    return int(text)
