"""Files that cross between machines that share no path: told by their content, sent in blocks, put in place whole.

Whoever receives keeps each content once (`Cache`), under its hash; a folder is laid out of it by hard links, as nothing that
crosses is changed where it arrives.
"""

import hashlib
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from mafunzo.errors import ArtifactCorrupt

BLOCK_BYTES = 16 * 2**20
KEPT_S = 7 * 24 * 3600.0
"""How long a node keeps what it was sent and hasn't used since."""


class SentFile(NamedTuple):
    """A file of a folder, by its path in it and its content."""

    path: str
    sha256: str
    size: int


def files_of(root: Path, parts: Iterable[Path]) -> list[SentFile]:
    """Return the files below some folders of `root`, or that these are, as they are sent; a link counts as what it leads to."""
    paths = [path for part in parts for path in ([part] if part.is_file() else sorted(part.rglob("*")))]
    return [
        SentFile(path.relative_to(root).as_posix(), sha256_of(path), path.stat().st_size)
        for path in paths
        if path.is_file()
    ]


def sha256_of(path: Path) -> str:
    """Return the hash of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def blocks_of(size: int) -> Iterator[tuple[int, int]]:
    """Yield where the blocks of a file begin, and how many bytes they have."""
    for start in range(0, size, BLOCK_BYTES):
        yield start, min(BLOCK_BYTES, size - start)


def read_block(path: Path, start: int, size: int) -> bytes:
    """Return a block of a file."""
    with path.open("rb") as file:
        file.seek(start)
        return file.read(size)


class Cache:
    """What a machine was sent, by content. Several processes may use it at once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        root.mkdir(parents=True, exist_ok=True, mode=0o700)

    def missing(self, files: Iterable[SentFile]) -> set[str]:
        """Return the hashes of those contents that aren't here; those that are count as used now."""
        hashes = {file.sha256 for file in files}
        here = {sha256 for sha256 in hashes if self._place(sha256).exists()}
        for sha256 in here:
            os.utime(self._place(sha256))
        return hashes - here

    def write(self, sha256: str, owner: str, start: int, block: bytes) -> None:
        """Take in a block of a content, in any order; `owner` tells apart those who send the same one."""
        descriptor = os.open(self._draft(sha256, owner), os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.pwrite(descriptor, block, start)
        finally:
            os.close(descriptor)

    def finish(self, sha256: str, owner: str) -> None:
        """Put a content in its place, whose blocks are all here; raises `ArtifactCorrupt` for other bytes than were sent."""
        draft = self._draft(sha256, owner)
        draft.touch()  # of a content without a block
        if sha256_of(draft) != sha256:
            draft.unlink()
            raise ArtifactCorrupt(f"What arrived as {sha256} has other bytes than were sent.")
        draft.replace(self._place(sha256))

    def lay_out(self, root: Path, files: Iterable[SentFile]) -> None:
        """Have files in a folder, as links to what is here."""
        for file in files:
            target = root / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(self._place(file.sha256), target)
            except OSError:  # another file system, or more links than one allows
                shutil.copyfile(self._place(file.sha256), target)

    def forget_unused(self) -> None:
        """Delete what wasn't used for long."""
        before = time.time() - KEPT_S
        for path in self._root.iterdir():
            with suppress(FileNotFoundError):  # another process was first
                if path.stat().st_mtime < before:
                    path.unlink()

    def _place(self, sha256: str) -> Path:
        return self._root / sha256

    def _draft(self, sha256: str, owner: str) -> Path:
        return self._root / f".{sha256}.{owner}"
