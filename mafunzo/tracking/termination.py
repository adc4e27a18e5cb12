"""SIGTERM as a request to stop at a good place, for a step that then writes what it has and ends with `TERMINATED`."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import current_thread, main_thread


@contextmanager
def at_sigterm(note: Callable[[], None]) -> Iterator[None]:
    """Have SIGTERM call `note` while this lasts, instead of ending the process at once; however it ends, it is as before then.

    Only on the main thread: elsewhere Python allows no handlers, and SIGTERM stays as it is.
    """
    if current_thread() is not main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: note())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
