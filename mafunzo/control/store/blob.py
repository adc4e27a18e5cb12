"""Uploaded files, content-addressed: each stored once, under as many names as it was given.

A blob comes whole, or by multipart upload: in blocks that wait, until they are put together, in
`<home>/uploads/<hash of the container>/<hash of the blob>/blocks/<id in hex>`.
"""

import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO

from mafunzo.control.store.artifact import Artifacts
from mafunzo.control.store.home import Home
from mafunzo.control.store.manifest import StoredFile
from mafunzo.control.store.records import Records
from mafunzo.entities.blob import UNCONDITIONAL, Blob, Block, BlockUse, Condition, Container
from mafunzo.errors import BlocksMissing, ContainerNotFound, InvalidParameter, NotFound

CHUNK_BYTES = 2**20
PART_LIMIT_BYTES = 255
"""How long a part of a blob's name may be, as each becomes the name of a file or folder."""


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
        with suppress(FileNotFoundError):
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
        with suppress(OSError):
            self.folder(container, name).rmdir()
            (self.uploads / _digest(container)).rmdir()

    def forget_abandoned(self, now: float | None = None) -> None:
        """Delete the blocks of uploads that nobody has gone on with for a week."""
        before = (time.time() if now is None else now) - ABANDONED_S
        for folder in self.uploads.glob("*/*/blocks"):
            if folder.stat().st_mtime < before:
                shutil.rmtree(folder.parent, ignore_errors=True)


class Blobs:
    """The blobs of one home, in their containers."""

    def __init__(self, records: Records, artifacts: Artifacts, home: Home) -> None:
        self._records = records
        self._artifacts = artifacts
        self._uploads = home.root / "uploads"
        self.blocks = Blocks(self._uploads)

    def create_container(self, name: str, metadata: Mapping[str, str] | None = None) -> Container:
        """Make a container and return it; raises `Conflict` when the name is taken."""
        container = Container(name, _new_etag(), dict(metadata or {}), datetime.now(UTC))
        self._records.containers.add(container)
        return container

    def ensure_container(self, name: str) -> None:
        """Make a container unless it is there."""
        if self._records.containers.find(name) is None:
            self.create_container(name)

    def container(self, name: str) -> Container:
        """Return a container; raises `ContainerNotFound`."""
        container = self._records.containers.find(name)
        if container is None:
            raise ContainerNotFound(f"There is no container '{name}'. Create it first.")
        return container

    def containers(self, prefix: str = "", limit: int | None = None, after: str = "") -> list[Container]:
        """Return the containers by name: all, or `limit` of those whose names begin with `prefix` and come after a name."""
        return self._records.containers.page(prefix, limit, after)

    def delete_container(self, name: str) -> None:
        """Delete a container and all blobs in it; raises `ContainerNotFound`."""
        self.container(name)
        self._records.containers.delete(name)
        self.blocks.discard_all(name)

    @contextmanager
    def draft(self) -> Iterator[BinaryIO]:
        """Give a file to write an upload into, chunk by chunk, for `put` or `blocks.put`; it is gone afterwards."""
        self._uploads.mkdir(mode=0o700, exist_ok=True)
        path = self._uploads / f".draft-{secrets.token_hex(16)}"
        try:
            path.touch(mode=0o600, exist_ok=False)
            with path.open("r+b") as file:
                yield file
        finally:
            path.unlink(missing_ok=True)

    def put(
        self,
        container: str,
        name: str,
        file: BinaryIO,
        condition: Condition = UNCONDITIONAL,
        blocks: Sequence[Block] = (),
        **attributes: Any,
    ) -> Blob:
        """Store a draft as a blob and return it; raises `StorageFull`, and as `Condition.check_write`.

        attributes: `content_type`, `metadata` and `settings`, as in `Blob`.
        """
        file.flush()
        folder = self.blocks.folder(container, name) / secrets.token_hex(8)
        folder.mkdir(parents=True, mode=0o700)
        try:
            source = folder / _file_name(name)
            os.link(file.name, source)
            now = datetime.now(UTC)
            blob = Blob(
                container=container,
                name=name,
                artifact=self._artifacts.put(source),
                size=source.stat().st_size,
                etag=_new_etag(),
                modified_at=now,
                blocks=tuple(blocks),
                created_at=now,
                **attributes,
            )
            return self._records.blobs.write(container, name, lambda _: blob, condition)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            self.blocks.tidy(container, name)

    def put_blocks(
        self,
        container: str,
        name: str,
        uses: Sequence[BlockUse],
        condition: Condition = UNCONDITIONAL,
        **attributes: Any,
    ) -> Blob:
        """Put blocks together, in this order, as a blob; raises as `put`, and `BlocksMissing`."""
        there = self._records.blobs.find(container, name)
        condition.check_write(there)
        parts = [self._part(container, name, use, there) for use in uses]
        missing = sum(part is None for part in parts)
        if missing:
            raise BlocksMissing(f"{missing} of {len(parts)} blocks of '{name}' weren't uploaded. Upload it again.")
        with self.draft() as whole:
            for part in filter(None, parts):
                part.copy_to(whole)
            blocks = [Block(use.id, part.size) for use, part in zip(uses, parts, strict=True) if part]
            blob = self.put(container, name, whole, condition, blocks, **attributes)
        self.blocks.discard(container, name)
        return blob

    def change(self, container: str, name: str, condition: Condition = UNCONDITIONAL, **attributes: Any) -> Blob:
        """Replace what is said of a blob (see `put`) and return it; raises `NotFound`, and as `Condition.check_write`."""

        def changed(there: Blob | None) -> Blob:
            if there is None:
                raise _no_blob(container, name)
            return replace(there, etag=_new_etag(), modified_at=datetime.now(UTC), **attributes)

        return self._records.blobs.write(container, name, changed, condition)

    def delete(self, container: str, name: str, condition: Condition = UNCONDITIONAL) -> None:
        """Delete a blob; its bytes go with the next collection, unless something else holds them.

        Raises `NotFound`, and as `Condition.check_write`.
        """
        if not self._records.blobs.delete(container, name, condition):
            raise _no_blob(container, name)

    def get(self, container: str, name: str) -> Blob:
        """Return a blob; raises `NotFound`."""
        blob = self._records.blobs.find(container, name)
        if blob is None:
            raise _no_blob(container, name)
        return blob

    def find(self, container: str, name: str) -> Blob | None:
        """Return a blob, or None."""
        return self._records.blobs.find(container, name)

    def path(self, blob: Blob) -> Path:
        """Return the stored bytes of a blob, to be read only."""
        return self._artifacts.open_file(blob.artifact, blob.file_name)

    def list(self, container: str, prefix: str = "") -> list[Blob]:
        """Return the blobs whose names begin with `prefix`, by name."""
        return self._records.blobs.list(container, prefix)

    def scan(self, container: str, prefix: str, after: str, delimiter: str, size: int) -> Iterator[Blob]:
        """Yield blobs by name, read as they are needed; see `BlobRecords.scan`."""
        return self._records.blobs.scan(container, prefix, after, delimiter, size)

    def artifact(self, container: str, name: str) -> str:
        """Return the artifact of the blob `name`, or of the folder of all blobs below `name/`; raises `NotFound`.

        An empty name is the folder of all blobs.
        """
        blob = self._records.blobs.find(container, name) if name else None
        if blob is not None:
            return blob.artifact
        prefix = f"{name.rstrip('/')}/" if name else ""
        below = self._records.blobs.list(container, prefix)
        if not below:
            raise NotFound(f"Container '{container}' has neither a blob '{name}' nor any below it.")
        return self._artifacts.assemble(
            {blob.name.removeprefix(prefix): (blob.artifact, blob.file_name) for blob in below}
        )

    def publish(self, container: str, prefix: str, artifact: str, view_of: str = "") -> None:
        """Show an artifact's files as blobs under `prefix/`, where they aren't yet. No bytes are copied.

        view_of: what they show, with which `withdraw_views` deletes them.
        """
        self.ensure_container(container)
        names = {blob.name for blob in self.list(container, f"{prefix}/")}
        for file in self._artifacts.manifest(artifact):
            name = f"{prefix}/{file.path}"
            if name not in names:
                self._show(container, name, artifact, file, view_of)

    def place(self, container: str, name: str, artifact: str) -> None:
        """Show an artifact that is a file as the blob `name`, a folder's files under `name/`. No bytes are copied.

        Blobs of these names that have other bytes are replaced. An empty name is the container itself.
        """
        self.ensure_container(container)
        manifest = self._artifacts.describe(artifact)
        prefix = f"{name}/" if name else ""
        for file in manifest.files:
            self._show(container, name if manifest.kind == "file" else f"{prefix}{file.path}", artifact, file)

    def withdraw(self, container: str, prefix: str) -> set[str]:
        """Delete all blobs under `prefix/`, and return the artifacts that they were."""
        blobs = self.list(container, f"{prefix}/")
        for blob in blobs:
            self._records.blobs.delete(container, blob.name)
        return {blob.artifact for blob in blobs}

    def withdraw_views(self, view_of: str) -> set[str]:
        """Delete all blobs that were published as views of something, and return the artifacts that they were."""
        return {blob.artifact for blob in self._records.blobs.delete_views(view_of)}

    def _show(self, container: str, name: str, artifact: str, file: StoredFile, view_of: str = "") -> None:
        """Show one file of an artifact as a blob; where it is shown already, nothing changes."""
        alone = self._artifacts.extract(artifact, file.path, _file_name(name))
        there = self._records.blobs.find(container, name)
        if there is None or there.artifact != alone:
            now = datetime.now(UTC)
            blob = Blob(container, name, alone, file.size, _new_etag(), modified_at=now, view_of=view_of)
            self._records.blobs.write(container, name, lambda _: blob)

    def _part(self, container: str, name: str, use: BlockUse, there: Blob | None) -> "_Part | None":
        """Return where a block's bytes are, or None."""
        waiting = self.blocks.path(container, name, use.id)
        if use.may_wait and waiting.exists():
            return _Part(waiting, 0, waiting.stat().st_size)
        if there is None or not use.may_be_committed:
            return None
        offsets = accumulate((block.size for block in there.blocks), initial=0)
        parts = (
            _Part(self.path(there), at, b.size) for at, b in zip(offsets, there.blocks, strict=False) if b.id == use.id
        )
        return next(parts, None)


@dataclass(frozen=True)
class _Part:
    """A stretch of a file, in bytes."""

    path: Path
    offset: int
    size: int

    def copy_to(self, whole: BinaryIO) -> None:
        with self.path.open("rb") as source:
            source.seek(self.offset)
            left = self.size
            while left and (chunk := source.read(min(CHUNK_BYTES, left))):
                left -= whole.write(chunk)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _no_blob(container: str, name: str) -> NotFound:
    return NotFound(f"Container '{container}' has no blob '{name}'.")


def _new_etag() -> str:
    return f'"0x{secrets.token_hex(8).upper()}"'


def _file_name(name: str) -> str:
    """Return the last part of a blob's name; raises `InvalidParameter` where it can't be a file's."""
    last = name.rsplit("/", 1)[-1]
    if last in ("", ".", "..") or "\0" in last:
        raise InvalidParameter(f"'{name}' can't name a blob: its last part isn't a file's name.")
    if any(len(part.encode()) > PART_LIMIT_BYTES for part in name.split("/")):
        raise InvalidParameter(f"'{name}' can't name a blob: a part of it has more than {PART_LIMIT_BYTES} bytes.")
    return last
