"""Multipart uploads: blocks that wait, in `<home>/uploads/<hash of the container>/<hash of the blob>/blocks/<id in hex>`."""

import contextlib
import hashlib
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from mafunzo.entities.blob import Block

ABANDONED_S = 7 * 24 * 3600.0
"""After which blocks of an upload that was never finished are deleted."""


@dataclass(frozen=True)
class Blocks:
    """The waiting blocks of one home, under the folder `uploads`."""

    uploads: Path

    def folder(self, container: str, name: str) -> Path:
        """Return where parts of this blob wait."""
        return self.uploads / _digest(container) / _digest(name)

    def path(self, container: str, name: str, id: str) -> Path:
        """Return the file of a block, whether it is there or not."""
        return self.folder(container, name) / "blocks" / id.encode().hex()

    def put(self, container: str, name: str, id: str, file: BinaryIO) -> None:
        """Keep a file as a block, in place of one of the same id."""
        file.flush()
        target = self.path(container, name, id)
        target.parent.mkdir(parents=True, mode=0o700, exist_ok=True)
        target.unlink(missing_ok=True)
        os.link(file.name, target)

    def list(self, container: str, name: str) -> list[Block]:
        """Return the blocks that wait, by id."""
        with contextlib.suppress(FileNotFoundError):
            paths = (self.folder(container, name) / "blocks").iterdir()
            blocks = [Block(bytes.fromhex(path.name).decode(), path.stat().st_size) for path in paths]
            return sorted(blocks, key=lambda block: block.id)
        return []

    def discard(self, container: str, name: str) -> None:
        """Delete the blocks that wait."""
        shutil.rmtree(self.folder(container, name) / "blocks", ignore_errors=True)
        self.tidy(container, name)

    def discard_all(self, container: str) -> None:
        """Delete the blocks that wait for any blob of a container."""
        shutil.rmtree(self.uploads / _digest(container), ignore_errors=True)

    def tidy(self, container: str, name: str) -> None:
        """Delete the folders of a blob and of its container if nothing waits in them."""
        with contextlib.suppress(OSError):
            self.folder(container, name).rmdir()
            (self.uploads / _digest(container)).rmdir()

    def forget_abandoned(self, now: float | None = None) -> None:
        """Delete the blocks of uploads that nobody has gone on with for a week."""
        before = (time.time() if now is None else now) - ABANDONED_S
        for folder in self.uploads.glob("*/*/blocks"):
            if folder.stat().st_mtime < before:
                shutil.rmtree(folder.parent, ignore_errors=True)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
