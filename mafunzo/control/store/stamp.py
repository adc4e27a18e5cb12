"""When the bytes of an artifact were last hashed, and what its files looked like then: what needs no hashing again for a day.

A stamp is a guess that saves time, never a proof: a file whose size and modification time are as they were is taken for intact,
until the day is over. Losing one costs a hash.
"""

import json
import time
from collections.abc import Mapping
from pathlib import Path

from mafunzo.tracking.atomic_json import write_json

VALID_S = 24 * 3600.0


class Stamps:
    """The stamps under one folder, by artifact: for each file's hash its modification time in ns, and when it was hashed."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def valid(self, digest: str, now: float | None = None) -> dict[str, int]:
        """Return the modification times of files that were hashed within a day."""
        moment = time.time() if now is None else now
        return {
            sha256: int(mtime_ns)
            for sha256, (mtime_ns, hashed_at) in self._read(digest).items()
            if 0 <= moment - hashed_at < VALID_S
        }

    def add(self, digest: str, mtimes_ns: Mapping[str, int], now: float | None = None) -> None:
        """Write down that these files were hashed now and are intact; a full disk isn't told, since a stamp may be lost."""
        moment = time.time() if now is None else now
        stamps = self._read(digest) | {sha256: (mtime_ns, moment) for sha256, mtime_ns in mtimes_ns.items()}
        try:
            self._path(digest).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_json(self._path(digest), stamps)
        except OSError:
            self._path(digest).unlink(missing_ok=True)

    def delete(self, digest: str) -> None:
        """Forget an artifact."""
        self._path(digest).unlink(missing_ok=True)

    def _read(self, digest: str) -> dict[str, tuple[int, float]]:
        try:
            stamps = json.loads(self._path(digest).read_text(encoding="utf-8"))
            return {str(sha256): (int(mtime_ns), float(at)) for sha256, (mtime_ns, at) in stamps.items()}
        except (OSError, ValueError, TypeError, AttributeError):  # none yet, or cut off
            return {}

    def _path(self, digest: str) -> Path:
        return self._root / digest[:2] / f"{digest}.json"
