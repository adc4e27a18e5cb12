"""Blobs: files that a client uploaded under names, as Azure Storage and the clouds like it keep them, in containers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from mafunzo.errors import BlobExists, OverwriteForbidden, PreconditionFailed

HOME_DATASTORE = "workspaceblobstore"
HOME_CONTAINER = "azureml-blobstore"
"""The home's own datastore, by the name that users write, and the container that it is: clients hold addresses with both."""
REGISTRY_CONTAINER = "azureml-registry"
"""The container in which the files of the registry's models are shown."""
_NOT_MET = "What the request says of the blob doesn't hold."


@dataclass(frozen=True)
class Container:
    """What holds blobs. etag: changes with every write to it. metadata: what the client keeps with it."""

    name: str
    etag: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    modified_at: datetime | None = None


@dataclass(frozen=True)
class Block:
    """A part of a blob that was uploaded by itself; `size` is in bytes."""

    id: str
    size: int


@dataclass(frozen=True)
class BlockUse:
    """A block that a blob is put together from: one that waits, or one that the blob was put together from before."""

    id: str
    may_wait: bool = True
    may_be_committed: bool = True


@dataclass(frozen=True)
class Blob:
    """One blob. `artifact` is the hash under which its bytes are stored: a single file, called as the blob's last part.

    size: bytes. etag: changes with every write. metadata: what the client keeps with it. settings: what else it says of the
    bytes, by the header that says it again to whoever reads them. blocks: what it was put together from, in order; none
    where it came whole. view_of: what it shows a file of (a job, say), with which it is withdrawn; empty for an upload.
    """

    container: str
    name: str
    artifact: str
    size: int
    etag: str
    content_type: str = "application/octet-stream"
    metadata: Mapping[str, str] = field(default_factory=dict)
    modified_at: datetime | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    blocks: tuple[Block, ...] = ()
    created_at: datetime | None = None
    view_of: str = ""

    @property
    def file_name(self) -> str:
        """The last part of the name."""
        return self.name.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class Condition:
    """Preconditions of a conditional request about a blob (RFC 9110, section 13); `*` is any blob at all.

    may_overwrite: whether a write may replace a blob that is there.
    """

    match: frozenset[str] = frozenset()
    none_match: frozenset[str] = frozenset()
    modified_since: datetime | None = None
    unmodified_since: datetime | None = None
    may_overwrite: bool = True

    def check_write(self, there: Blob | None) -> None:
        """Raise `BlobExists`, `OverwriteForbidden` or `PreconditionFailed` unless `there`, if any, may be written over."""
        if there is not None and "*" in self.none_match:
            raise BlobExists(f"The blob '{there.name}' exists already.")
        if there is not None and not self.may_overwrite:
            raise OverwriteForbidden("The signature allows new blobs only.")
        if self._is_stale(there) or (there is not None and self.is_known(there)):
            raise PreconditionFailed(_NOT_MET)

    def check_read(self, there: Blob) -> None:
        """Raise `PreconditionFailed` unless `there` is the blob that the client means."""
        if self._is_stale(there):
            raise PreconditionFailed(_NOT_MET)

    def _is_stale(self, there: Blob | None) -> bool:
        """Return whether the client means an earlier blob than `there`."""
        if self.match and (there is None or not _names(self.match, there)):
            return True
        return there is not None and self.unmodified_since is not None and _second(there) > self.unmodified_since

    def is_known(self, there: Blob) -> bool:
        """Return whether the client has this blob already."""
        if self.none_match:
            return _names(self.none_match, there)
        return self.modified_since is not None and _second(there) <= self.modified_since


UNCONDITIONAL = Condition()


def _names(etags: frozenset[str], blob: Blob) -> bool:
    return "*" in etags or blob.etag.strip('"') in etags


def _second(blob: Blob) -> datetime:
    """Return when the blob was written, as exactly as HTTP says it."""
    assert blob.modified_at is not None
    return blob.modified_at.replace(microsecond=0)
