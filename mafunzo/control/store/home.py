"""The home folder: its layout, its exclusive lock, and its secret.

database/  artifacts/  jobs/  workers/  logs/  backups/  server.lock  secret.key  reserve
"""

import base64
import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from mafunzo.control.store.disk import copy_and_hash
from mafunzo.errors import HomeInUse, InvalidFile, RefusedError

if TYPE_CHECKING:
    from cryptography.fernet import Fernet

FOLDERS = ("database", "artifacts", "jobs", "workers", "logs", "backups")
LOCK_FILE = "server.lock"
SECRET_FILE = "secret.key"
RESERVE_FILE = "reserve"
"""See `space.py`."""


class Home:
    """A home folder; making one creates its folders, readable by their owner only."""

    def __init__(self, root: Path) -> None:
        """Raises `InvalidFile` when `root` can't be a folder of ours."""
        self.root = root.absolute()
        folders = [self.root / name for name in FOLDERS]
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            for folder in folders:
                folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise InvalidFile(
                f"{self.root} can't be a home folder: {error.strerror}. Name another one with MAFUNZO_HOME."
            ) from error
        self.database, self.artifacts, self.jobs, self.workers, self.logs, self.backups = folders

    def __repr__(self) -> str:
        return f"Home({str(self.root)!r})"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the home for one server. Raises `HomeInUse`, with the holder's pid; the lock ends with its process."""
        path = self.root / LOCK_FILE
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise HomeInUse(
                    f"{self.root} is in use by a server with pid {_pid_in(path) or 'unknown'}. "
                    "Stop it with 'mafunzo down', or name another home with MAFUNZO_HOME."
                ) from error
            with suppress(OSError):  # on a full disk: the lock counts, not what is said of its holder
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            try:
                yield
            finally:
                os.ftruncate(descriptor, 0)
        finally:
            os.close(descriptor)

    def holder(self) -> int | None:
        """Return the pid of the server that holds the home now, or None."""
        path = self.root / LOCK_FILE
        if not path.exists():
            return None
        with path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return _pid_in(path)
        return None

    def secret(self) -> bytes:
        """Return the home's secret (32 random bytes), made on first use and readable by its owner only.

        Raises `RefusedError` when others may read it, because then it no longer is one.
        """
        path = self.root / SECRET_FILE
        if not path.exists():
            _write_once(path, secrets.token_bytes(32))
        if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise RefusedError(f"{path} can be read by other users of this machine. Run: chmod 600 {path}")
        return path.read_bytes()

    def seal(self, text: str) -> str:
        """Return a text encrypted and authenticated under the secret: an endpoint's keys, which must be listed again."""
        return self._fernet().encrypt(text.encode()).decode()

    def unseal(self, sealed: str) -> str:
        """Return the text that `seal` was given. Raises `RefusedError` when it was sealed under another secret."""
        from cryptography.fernet import InvalidToken

        try:
            return self._fernet().decrypt(sealed.encode()).decode()
        except InvalidToken as error:
            raise RefusedError(
                f"The keys in the database of {self.root} were encrypted under another secret than its {SECRET_FILE}. "
                "Put that file back from a backup, or give the endpoints new keys."
            ) from error

    def _fernet(self) -> "Fernet":
        from cryptography.fernet import Fernet

        return Fernet(base64.urlsafe_b64encode(self.secret()))


def _pid_in(path: Path) -> int | None:
    text = path.read_text().strip()
    return int(text) if text.isdigit() else None


def _write_once(path: Path, content: bytes) -> None:
    """Write `content` unless `path` exists by now: of several processes, the first wins, and none reads half a file."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        copy_and_hash(BytesIO(content), partial, 0o600)
        with suppress(FileExistsError):
            os.link(partial, path)
    finally:
        partial.unlink(missing_ok=True)
