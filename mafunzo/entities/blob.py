"""A blob: a file that a client uploaded under a name, as Azure Storage and the clouds like it keep it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True)
class Blob:
    """One blob. `artifact` is the hash under which its bytes are stored: a single file, called as the blob's last part.

    size: bytes. etag: changes with every write. metadata: what the client keeps with it.
    """

    container: str
    name: str
    artifact: str
    size: int
    etag: str
    content_type: str = "application/octet-stream"
    metadata: Mapping[str, str] = field(default_factory=dict)
    modified_at: datetime | None = None

    @property
    def file_name(self) -> str:
        """The last part of the name."""
        return self.name.rsplit("/", 1)[-1]
