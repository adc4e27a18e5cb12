"""Lists whose things are shown each by itself, in every dialect."""

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

logger = logging.getLogger(__name__)

T = TypeVar("T")
Body = TypeVar("Body")


def shown(things: Iterable[T], body: Callable[[T], Body], broken: Callable[[T], Body] | None = None) -> Iterator[Body]:
    """Yield the bodies of things. One whose `body` can't be made never hides the others.

    Its place has its `broken` body, or it is left out; the log says why.
    """
    for thing in things:
        try:
            yield body(thing)
        except Exception:
            name = getattr(thing, "key", None) or getattr(thing, "name", thing)
            logger.exception("A %s can't be shown in a list: %s", type(thing).__name__, name)
            if broken is not None:
                yield broken(thing)
