"""Writes beside the training loop: one at a time, in a thread; what goes wrong in it is raised in the loop."""

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

logger = logging.getLogger(__name__)


class BackgroundWriter:
    """Performs one write at a time. An error is raised by the next call of any of its methods, once."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._write: Future[None] | None = None

    def start(self, write: Callable[[], None]) -> None:
        """Begin a write, once that before it has ended."""
        self.wait()
        self._write = self._pool.submit(write)

    def check(self) -> None:
        """Raise the error of a write that has failed; a write that goes on isn't waited for."""
        if self._write is not None and self._write.done():
            self.wait()

    def wait(self) -> None:
        """Wait until the write has ended; raises its error."""
        write, self._write = self._write, None
        if write is not None:
            write.result()

    def close(self) -> None:
        """Wait for the write after an error of the loop, which is the one that counts: another is only logged."""
        try:
            self.wait()
        except Exception as error:  # noqa: BLE001 - the loop's own error goes on
            logger.error("The checkpoint that was being written is lost: %s", error)
        self._pool.shutdown()
