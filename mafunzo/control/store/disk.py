"""Files on the disk: hashed, linked, copied, made durable and deleted."""

import errno
import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from mafunzo.errors import StorageFull

CHUNK = 1 << 20
FICLONE = 0x40049409  # linux/fs.h: share the extents of another file
FULL = {errno.ENOSPC, errno.EDQUOT}
MOUNTS = Path("/proc/self/mountinfo")
OF_THE_MACHINE = {errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EROFS}
NO_LINK = {errno.EXDEV, errno.EMLINK, errno.EPERM, errno.ENOTSUP}


class HashingReader:
    """Hashes what is read through it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        """Read and hash; as of a file."""
        chunk = self._file.read(size)
        self.digest.update(chunk)
        return chunk


def hash_file(path: Path) -> tuple[str, int]:
    """Return a file's SHA-256 and its size in bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest(), file.tell()


def link_final(source: Path, target: Path) -> bool:
    """Make `target` another name of `source`, read-only and on the disk; return whether the file systems allow it."""
    if not link(source, target):
        return False
    target.chmod(0o444)
    with target.open("rb") as file:
        os.fsync(file.fileno())
    return True


def link(source: Path, target: Path) -> bool:
    """Make `target` another name of `source`; return whether the file systems allow it."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in NO_LINK:
            raise
        return False
    return True


def copy_and_hash(source: IO[bytes], target: Path, mode: int) -> tuple[str, int]:
    """Copy into the new file `target`, on the disk when this returns; return the hash of what was written, and its size."""
    reader = HashingReader(source)
    with new_file(target, mode) as writer:
        shutil.copyfileobj(reader, writer, CHUNK)
        return reader.digest.hexdigest(), writer.tell()


@contextmanager
def new_file(path: Path, mode: int = 0o600) -> Iterator[IO[bytes]]:
    """Give a file that isn't there yet to write into; it is on the disk, with its mode, when the context ends."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        yield file
        file.flush()
        os.fchmod(descriptor, mode)
        os.fsync(descriptor)


def clone_or_copy(source: Path, target: Path) -> None:
    """Copy a file; the copy shares its blocks where the file system can."""
    with source.open("rb") as reader, target.open("xb") as writer:
        try:
            fcntl.ioctl(writer.fileno(), FICLONE, reader.fileno())
        except OSError:
            shutil.copyfileobj(reader, writer, CHUNK)


def delete_file(path: Path) -> int:
    """Delete a file and return the bytes that this frees: none while another hard link holds them."""
    status = path.stat()
    path.unlink()
    return status.st_size if status.st_nlink == 1 else 0


def remove_tree(path: Path) -> None:
    """Delete what stands at `path`, a folder with all that is in it, read-only or not; nothing where there is none.

    A program of a user's may have left it: a link is deleted itself, and what it leads to stays as it is. Raises `OSError`
    where a file system is mounted in it, of which nothing is deleted, and for what can't be deleted.
    """
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    if mounts := _mounts_in(path):
        raise OSError(errno.EBUSY, "A file system is mounted there. Unmount it", str(mounts[0]))
    try:
        shutil.rmtree(path)
    except (FileNotFoundError, PermissionError):  # it changed meanwhile, or is read-only
        _unlock(path)
        if path.exists():
            shutil.rmtree(path)


def _unlock(path: Path) -> None:
    """Let its owner change a folder and those in it."""
    if path.is_dir():
        path.chmod(0o700)
    for folder, names, _ in os.walk(path):
        for name in names:
            if not (inner := Path(folder, name)).is_symlink():
                inner.chmod(0o700)


def _mounts_in(path: Path) -> list[Path]:
    """Return where file systems are mounted in a folder, itself included; none where the system doesn't tell."""
    try:
        lines = MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:  # not Linux
        return []
    points = (Path(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), line.split(" ")[4])) for line in lines)
    root = path.parent.resolve() / path.name
    return [point for point in points if point.is_relative_to(root)]


def is_of_the_machine(error: BaseException) -> bool:
    """Return whether an error says nothing of what it came from: the disk is full or broken, or no file can be opened."""
    return isinstance(error, StorageFull) or (isinstance(error, OSError) and error.errno in {*FULL, *OF_THE_MACHINE})


@contextmanager
def full_disk_told(what: str) -> Iterator[None]:
    """Raise `StorageFull` where the disk is full; `what` says what was going on."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        place = Path(error.filename) if error.filename else None
        where = f" at {place}" if place else ""
        raise StorageFull(
            f"The disk is full{where} while {what}. What was written is taken back; free some space and try again."
        ) from error
