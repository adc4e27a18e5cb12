"""Filter, order and pagination of Azure's lists."""

import re
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any, Protocol, TypeVar
from urllib.parse import urlencode

from starlette.requests import Request

from mafunzo.entities.scan import Scan
from mafunzo.entrypoints.azure.context import azure_context
from mafunzo.entrypoints.azure.wire.envelope import page
from mafunzo.entrypoints.http.listing import shown
from mafunzo.errors import InvalidParameter

PAGE = 100
TOP, SKIP = "$top", "$skip"
OFFER = "offer-"
"""Begins the position of what ships with Mafunzo, which comes after all that is registered."""
AFTER = "after-"
"""Begins the position of a list that is read by name: the last name of the page before."""

T = TypeVar("T")


class HasName(Protocol):
    """What lists by name contain."""

    @property
    def name(self) -> str:
        """The name, which no other of its list has."""


Named = TypeVar("Named", bound=HasName)


def archived_view(request: Request) -> bool | None:
    """Return a list's `listViewType`: whether it shows what is archived instead of what is active (False); None for both."""
    view = request.query_params.get("listViewType", "ActiveOnly").lower()
    return None if view == "all" else view == "archivedonly"


def scan_of(request: Request) -> Scan:
    """Return how far a list was read, how much of it a page takes, and one more, and its order: the newest first by default."""
    return Scan(_number(request, SKIP, 0) or None, size_of(request) + 1, is_oldest_first=_is_oldest_first(request))


def offer_index(request: Request) -> int:
    """Return how much of what ships with Mafunzo was read; 0 where a list hasn't come to that."""
    match = re.fullmatch(rf"{OFFER}([0-9]{{1,9}})", request.query_params.get(SKIP, ""))
    return int(match[1]) if match else 0


def size_of(request: Request) -> int:
    """Return how many things a page has at most."""
    return min(_number(request, TOP, PAGE), PAGE)


def listed(request: Request, things: Iterable[T], is_archived: Callable[[T], bool]) -> list[T]:
    """Return the things in a list's view and in its order. They come newest first."""
    view = archived_view(request)
    items = [thing for thing in things if view is None or is_archived(thing) == view]
    return items[::-1] if _is_oldest_first(request) else items


def scrolled(
    request: Request,
    things: Iterable[tuple[int | str, T]],
    body: Callable[[T], dict[str, Any]],
    broken: Callable[[T], dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Return one page of a list that is read from where the last one has ended, with the address of the next one.

    things: with their positions, read as they are needed; body, broken: as `paged` takes them.
    """
    size = size_of(request)
    items = list(islice(things, size + 1))
    bodies = list(shown([thing for _, thing in items[:size]], body, broken))
    return _page(request, bodies, items[size - 1][0] if len(items) > size > 0 else None)


def scrolled_by_name(
    request: Request,
    read: Callable[[int, str | None], Sequence[Named]],
    body: Callable[[Named], dict[str, Any]],
) -> dict[str, Any]:
    """Return one page of a list that is ordered by name, with the address of the next one (keyset pagination).

    read: at most so many things, those whose names come after a name; body: as `paged` takes it. A client that skips a
    number of things has them read.
    """
    size, position = size_of(request), request.query_params.get(SKIP, "")
    after = position.removeprefix(AFTER) if position.startswith(AFTER) else None
    first = _number(request, SKIP, 0) if after is None else 0
    items = read(first + size + 1, after)[first:]
    following = f"{AFTER}{items[size - 1].name}" if len(items) > size > 0 else None
    return _page(request, shown(items[:size], body), following)


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
    bodies = list(shown(items[first : first + size], body, broken))
    return _page(request, bodies, first + size if len(items) > first + size else None)


def _page(request: Request, bodies: Iterable[dict[str, Any]], following: int | str | None) -> dict[str, Any]:
    """Return a page of bodies with the address of the next one, which begins after a position, or has none."""
    top = request.query_params.get(TOP)
    if following is None or (top is not None and int(top) <= PAGE):  # a client that names a number wants no more
        return page(bodies)
    query = {**request.query_params, SKIP: str(following)}
    return page(bodies, f"{azure_context(request).place.base}{request.url.path}?{urlencode(query)}")


def _is_oldest_first(request: Request) -> bool:
    order = request.query_params.get("$orderBy", request.query_params.get("orderBy", ""))
    return order.lower().endswith(" asc")


def _number(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name)
    if text is None:
        return default
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise InvalidParameter(f"{name} is '{text}', expected a number, 0 or more.", param=name)
    return int(text)
