"""Uploaded files: each stored by its content, once, under as many names as it was given.

A blob comes whole, or in blocks that are put together when all are there. Blocks wait in `<home>/uploads/<blob>/<block>`.
"""

import contextlib
import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from mafunzo.entities.blob import Blob
from mafunzo.errors import InvalidParameter, NotFound
from mafunzo.store.artifact import Artifacts
from mafunzo.store.home import Home
from mafunzo.store.record import Records

CHUNK_BYTES = 2**20
ABANDONED_S = 7 * 24 * 3600.0
"""After which blocks of an upload that was never finished are deleted."""


class Blobs:
    """The blobs of one home."""

    def __init__(self, records: Records, artifacts: Artifacts, home: Home) -> None:
        self._records = records
        self._artifacts = artifacts
        self._uploads = home.root / "uploads"

    @contextmanager
    def draft(self) -> Iterator[BinaryIO]:
        """Give a file to write an upload into, chunk by chunk, for `put` or `put_block`; it is gone afterwards."""
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
        content_type: str = "",
        metadata: Mapping[str, str] | None = None,
    ) -> Blob:
        """Store a draft as a blob and return it; raises `StorageFull`."""
        file.flush()
        folder = self._folder(container, name) / secrets.token_hex(8)
        folder.mkdir(parents=True, mode=0o700)
        try:
            source = folder / _file_name(name)
            os.link(file.name, source)
            artifact = self._artifacts.put(source)
            blob = Blob(
                container=container,
                name=name,
                artifact=artifact,
                size=source.stat().st_size,
                etag=f'"0x{secrets.token_hex(8).upper()}"',
                content_type=content_type or "application/octet-stream",
                metadata=dict(metadata or {}),
                modified_at=datetime.now(UTC),
            )
            self._records.put_blob(blob)
            return blob
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            with contextlib.suppress(OSError):  # blocks of another upload may wait there
                folder.parent.rmdir()

    def put_block(self, container: str, name: str, block: str, file: BinaryIO) -> None:
        """Keep a draft as one block of a blob that isn't whole yet."""
        file.flush()
        folder = self._folder(container, name) / "blocks"
        folder.mkdir(parents=True, mode=0o700, exist_ok=True)
        target = folder / _digest(block)
        target.unlink(missing_ok=True)
        os.link(file.name, target)

    def put_blocks(
        self,
        container: str,
        name: str,
        blocks: Iterable[str],
        content_type: str = "",
        metadata: Mapping[str, str] | None = None,
    ) -> Blob:
        """Put blocks together, in this order, as a blob; raises `InvalidParameter` for a block that isn't there."""
        folder = self._folder(container, name) / "blocks"
        paths = [folder / _digest(block) for block in blocks]
        missing = [path for path in paths if not path.exists()]
        if missing:
            raise InvalidParameter(
                f"{len(missing)} of {len(paths)} blocks of '{name}' weren't uploaded. Upload it again."
            )
        with self.draft() as whole:
            for path in paths:
                with path.open("rb") as part:
                    shutil.copyfileobj(part, whole, CHUNK_BYTES)
            blob = self.put(container, name, whole, content_type, metadata)
        shutil.rmtree(folder.parent)
        return blob

    def get(self, container: str, name: str) -> Blob:
        """Return a blob; raises `NotFound`."""
        found = self._records.find_blob(container, name)
        if found is None:
            raise NotFound(f"Container '{container}' has no blob '{name}'.")
        return found

    def path(self, blob: Blob) -> Path:
        """Return the stored bytes of a blob, to be read only."""
        return self._artifacts.open_file(blob.artifact, blob.file_name)

    def set_metadata(self, container: str, name: str, metadata: Mapping[str, str]) -> Blob:
        """Replace a blob's metadata and return it; raises `NotFound`."""
        blob = replace(self.get(container, name), metadata=dict(metadata), modified_at=datetime.now(UTC))
        self._records.put_blob(blob)
        return blob

    def list(self, container: str, prefix: str = "") -> list[Blob]:
        """Return the blobs whose names begin with `prefix`, by name."""
        return self._records.list_blobs(container, prefix)

    def delete(self, container: str, name: str) -> None:
        """Delete a blob; its bytes go with the next collection, unless something else holds them. Raises `NotFound`."""
        if not self._records.delete_blob(container, name):
            raise NotFound(f"Container '{container}' has no blob '{name}'.")

    def artifact(self, container: str, name: str) -> str:
        """Return the artifact of the blob `name`, or of the folder of all blobs below `name/`; raises `NotFound`."""
        blob = self._records.find_blob(container, name)
        if blob is not None:
            return blob.artifact
        prefix = f"{name.rstrip('/')}/"
        below = self._records.list_blobs(container, prefix)
        if not below:
            raise NotFound(f"Container '{container}' has neither a blob '{name}' nor any below it.")
        return self._artifacts.assemble({found.name.removeprefix(prefix): self._stored(found) for found in below})

    def publish(self, container: str, prefix: str, artifact: str) -> None:
        """Show an artifact's files as blobs under `prefix/`, where they aren't yet. No bytes are copied."""
        shown = {blob.name for blob in self.list(container, f"{prefix}/")}
        for file in self._artifacts.manifest(artifact):
            name = f"{prefix}/{file.path}"
            if name in shown:
                continue
            alone = self._artifacts.assemble({_file_name(name): (artifact, file.path)})
            self._records.put_blob(
                Blob(
                    container=container,
                    name=name,
                    artifact=alone,
                    size=file.size,
                    etag=f'"0x{file.sha256[:16].upper()}"',
                    content_type="application/octet-stream",
                    modified_at=datetime.now(UTC),
                )
            )

    def withdraw(self, container: str, prefix: str) -> set[str]:
        """Delete all blobs under `prefix/`, and return the artifacts that they were."""
        found = self.list(container, f"{prefix}/")
        for blob in found:
            self._records.delete_blob(container, blob.name)
        return {blob.artifact for blob in found}

    def forget_abandoned(self, now: float | None = None) -> None:
        """Delete the blocks of uploads that nobody has gone on with for a week."""
        before = (time.time() if now is None else now) - ABANDONED_S
        for folder in self._uploads.glob("*/blocks"):
            if folder.stat().st_mtime < before:
                shutil.rmtree(folder.parent, ignore_errors=True)

    def _stored(self, blob: Blob) -> tuple[str, str]:
        return blob.artifact, blob.file_name

    def _folder(self, container: str, name: str) -> Path:
        return self._uploads / _digest(f"{container}/{name}")


def _file_name(name: str) -> str:
    last = name.rsplit("/", 1)[-1]
    if last in ("", ".", "..") or "\0" in last:
        raise InvalidParameter(f"'{name}' can't name a blob: its last part isn't a file's name.")
    return last


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
