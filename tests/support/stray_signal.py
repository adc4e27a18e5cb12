"""SIGTERM in a test that sends it to its own process: where nothing takes it, the test fails instead of the whole run."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stray_sigterm_told() -> Iterator[None]:
    """Have a SIGTERM that reaches none of the code under test raise an `AssertionError`."""
    before = signal.signal(signal.SIGTERM, _tell)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _tell(number: int, frame: FrameType | None) -> None:
    raise AssertionError("SIGTERM came while no code under test had a handler for it.")
