"""The space on the home's disk: how much is free, a reserve of it for the last records, and what holds the rest.

On a full disk nothing can be written down, not even that a step has failed because of it. So a file of `RESERVE_BYTES` is kept
in the home, and deleted when the disk is full; it is made again once there is room.
"""

import logging
import os
import shutil
from pathlib import Path

from mafunzo.control.store.home import RESERVE_FILE, Home
from mafunzo.errors import StorageFull

logger = logging.getLogger(__name__)

RESERVE_BYTES = 32 * 2**20
FLOOR_BYTES = 64 * 2**20
"""With less free, the step that holds most is ended, and no server starts."""
START_BYTES = 512 * 2**20
"""With less free, no step starts."""


class Space:
    """The disk of one home."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._reserve = home.root / RESERVE_FILE

    def free_bytes(self) -> int:
        """Return what programs of the home's user can still write, the reserve apart."""
        return shutil.disk_usage(self._home.root).free

    def keep_reserve(self) -> None:
        """Have the reserve, where there is room for it beside what a step needs to start."""
        if self._reserve.exists() or self.free_bytes() < START_BYTES + RESERVE_BYTES:
            return
        try:
            descriptor = os.open(self._reserve, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, RESERVE_BYTES)
            finally:
                os.close(descriptor)
        except OSError as error:  # somebody else was quicker with the room, or with the file
            logger.warning("No reserve can be kept in %s: %s", self._reserve, error)
            self._reserve.unlink(missing_ok=True)

    def free_reserve(self) -> None:
        """Give the reserve to what must be written down now."""
        if self._reserve.exists():
            logger.error("The disk of %s is full; its reserve is used to write that down", self._home.root)
            self._reserve.unlink(missing_ok=True)

    def free_reserve_if_full(self) -> None:
        """Give the reserve away where hardly anything else is left."""
        if self.free_bytes() < RESERVE_BYTES:
            self.free_reserve()

    def require(self) -> None:
        """Raise `StorageFull`, which says what holds the space, where too little is free to begin with."""
        free = self.free_bytes()
        if free < FLOOR_BYTES:
            raise StorageFull(
                f"{megabytes(free)} are free on the disk of {self._home.root}, expected {megabytes(FLOOR_BYTES)} at least. "
                f"{self.holders()} Free some space, and start again."
            )

    def holders(self) -> str:
        """Return in a sentence what of the home holds how much, the largest first."""
        sizes = {
            path.name: bytes_in(path) for path in self._home.root.iterdir() if path.is_dir() and not path.is_symlink()
        }
        shown = sorted(((size, name) for name, size in sizes.items() if size >= 2**20), reverse=True)[:5]
        return (
            f"The home holds {', '.join(f'{megabytes(size)} in {name}' for size, name in shown) or 'next to nothing'}."
        )


def bytes_in(folder: Path) -> int:
    """Return what is freed when a folder is deleted: what else has a name elsewhere stays."""
    total = 0
    for where, _, names in os.walk(folder):
        for name in names:
            try:
                status = os.lstat(os.path.join(where, name))
            except OSError:  # gone by now
                continue
            total += status.st_blocks * 512 if status.st_nlink == 1 else 0
    return total


def bytes_of(path: Path) -> int:
    """Return what is freed when what stands at `path` is deleted: a file, a folder, or a link itself."""
    if path.is_dir() and not path.is_symlink():
        return bytes_in(path)
    try:
        status = path.lstat()
    except OSError:
        return 0
    return status.st_blocks * 512 if status.st_nlink == 1 else 0


def megabytes(size: int) -> str:
    """Return bytes for people."""
    return f"{size / 2**20:.0f} MB"
