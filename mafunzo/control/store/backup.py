"""Online backup of a whole home to one tar file, and restore, with every hash checked.

    artifacts/...            every artifact: manifests and bytes
    jobs/... logs/... *      every other file of the home, as it was when it was read; SQLite files as one consistent copy
    database.db | .jsonl     the database at one moment (see `store.dump`)
    mafunzo-backup.json      written last: the hash, size and mode of each file, files that were hard links of one another

Left out is what lives only while the home runs: locks, addresses, `workers/`; and `backups/`; and symbolic links.
"""

import json
import logging
import os
import secrets
import shutil
import sqlite3
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from importlib import metadata
from io import BytesIO
from pathlib import Path
from typing import IO, Literal

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, ValidationError

from mafunzo.control.store import disk, loading, manifest, table
from mafunzo.control.store.artifact import Artifacts
from mafunzo.control.store.database import Database
from mafunzo.control.store.dump import copy_sqlite, dump
from mafunzo.control.store.home import LOCK_FILE, RESERVE_FILE, Home
from mafunzo.errors import ArtifactCorrupt, Conflict, Faults, InvalidFile, NewerHome, NotFound
from mafunzo.tracking.atomic_json import sync_folder

logger = logging.getLogger(__name__)

INDEX = "mafunzo-backup.json"
FORMAT = 1
STAGING = ".restore-"
LEFT_OUT = {"artifacts", "backups", "database", "workers", LOCK_FILE, RESERVE_FILE, "server.json"}
SQLITE_HEADER = b"SQLite format 3\0"
SQLITE_BESIDE = ("-wal", "-shm", "-journal")


class FileEntry(BaseModel):
    """What one file of the backup must be."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    sha256: str
    size: int
    mode: int


class Index(BaseModel):
    """What stands in the backup. links: a file to the other one whose bytes it shares. folders: the empty ones too."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    format: Literal[1]
    mafunzo_version: str
    created_at: datetime
    database: Literal["database.db", "database.jsonl"]
    files: dict[str, FileEntry]
    links: dict[str, str]
    folders: tuple[str, ...]


def backup(home: Home, database: Database, artifacts: Artifacts, file: Path) -> None:
    """Write the home into the new tar `file`, readable by its owner only: it holds the home's secret.

    The database is as of one moment, with every artifact that it names. Raises `Conflict` when `file` exists,
    `ArtifactCorrupt` naming each stored file that is damaged, and `StorageFull`; each leaves no file behind.
    """
    target = file.absolute()
    if target.exists():
        raise Conflict(f"{target} exists already. Choose another name.")
    if not target.parent.is_dir():
        raise InvalidFile(f"{target.parent} isn't a folder. Make it first.")
    partial = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    try:
        with disk.full_disk_told(f"{target} was being written"), artifacts.held():
            _Writer(home, partial).write(database, artifacts)
            partial.rename(target)
            sync_folder(target.parent)
    finally:
        partial.unlink(missing_ok=True)
    logger.info("Backed up %s to %s", home.root, target)


def restore(file: Path, home: Home, url: str | None = None) -> None:
    """Put the backup `file` into the empty `home`, its database into SQLite there or into the empty one at `url`.

    Everything is checked before the first file takes its place. Raises `Conflict` when the home isn't empty,
    `InvalidFile` for what is no whole backup or would write elsewhere, `ArtifactCorrupt` naming each file whose bytes
    changed, `NewerHome`, and `StorageFull`; each leaves the home empty.
    """
    with home.lock():
        _refuse_used(home)
        staging = Home(home.root / f"{STAGING}{secrets.token_hex(8)}")
        try:
            with disk.full_disk_told(f"{file} was being restored"):
                index = _extract(file.absolute(), staging.root)
                _check(staging.root, index, file)
                _fill_database(staging, index, url)
            _move(staging.root, home.root)
        finally:
            shutil.rmtree(staging.root, ignore_errors=True)
    logger.info("Restored %s from %s", home.root, file)


class _Writer:
    """Adds files to a tar and to its index."""

    def __init__(self, home: Home, target: Path) -> None:
        self._home, self._target = home, target
        self._files: dict[str, FileEntry] = {}
        self._links: dict[str, str] = {}
        self._folders: list[str] = []
        self._names: dict[tuple[int, int], str] = {}

    def write(self, database: Database, artifacts: Artifacts) -> None:
        with (
            disk.new_file(self._target) as file,
            tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar,
        ):
            self._tar = tar
            dumped = self._add_database(database)
            self._add_artifacts(artifacts)
            self._add_others()
            self._add_index(dumped)

    def _add_database(self, database: Database) -> str:
        with tempfile.TemporaryDirectory(dir=self._target.parent, prefix=".mafunzo-") as folder:
            copy = dump(database, Path(folder), "database")
            self._add(copy.name, copy)
            return copy.name

    def _add_artifacts(self, artifacts: Artifacts) -> None:
        """Only those that exist now, each with its bytes: others may be put meanwhile, in whichever order."""
        hashes = artifacts.hashes()
        faults = Faults()
        blobs: dict[str, Path] = {}
        for artifact in hashes:
            path = artifacts.manifest_path(artifact)
            self._add(path.relative_to(self._home.root).as_posix(), path)
            blobs |= {file.sha256: artifacts.blob_path(file.sha256) for file in artifacts.manifest(artifact)}
        for sha256, blob in sorted(blobs.items()):
            name = blob.relative_to(self._home.root).as_posix()
            if not blob.exists():
                faults.add(f"{blob}: missing")
            elif self._add(name, blob) != sha256:
                faults.add(f"{blob}: its bytes were changed")
            else:
                status = blob.stat()
                self._names[(status.st_dev, status.st_ino)] = name
        faults.require_none(
            f"{self._home.root} can't be backed up as it is: stored bytes are damaged. Storing the same files again "
            "mends them; so does deleting what has them.",
            ArtifactCorrupt,
        )

    def _add_others(self) -> None:
        for path in _walk(self._home.root, lambda name: name in LEFT_OUT or name.startswith(STAGING)):
            name = path.relative_to(self._home.root).as_posix()
            try:
                if path.is_symlink():
                    logger.warning("Left the symbolic link %s out of the backup", path)
                elif path.is_dir():
                    self._folders.append(name)
                elif path.is_file() and path != self._target:
                    self._add_live(name, path)
            except FileNotFoundError:
                logger.info("%s was deleted before it was backed up", path)

    def _add_live(self, name: str, path: Path) -> None:
        """Add a file that may be written to meanwhile: as a link to an artifact's that is in the tar, or through a copy.

        Only an artifact's inode stays its own while the backup goes on: any other, a copy's too, may be a new file's next.
        """
        status = path.stat()
        linked = self._names.get((status.st_dev, status.st_ino))
        if linked is not None:
            self._links[name] = linked
            return
        with tempfile.TemporaryDirectory(dir=self._target.parent, prefix=".mafunzo-") as folder:
            copy = Path(folder) / "copy"
            if not (_is_sqlite(path) and _copied_as_database(path, copy)):
                shutil.copyfile(path, copy)
            copy.chmod(status.st_mode & 0o777)
            self._add(name, copy)

    def _add(self, name: str, path: Path) -> str:
        """Add a file that nobody writes to; return its hash."""
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            info = tarfile.TarInfo(name)
            info.size, info.mode, info.mtime = status.st_size, status.st_mode & 0o777, int(status.st_mtime)
            reader = disk.HashingReader(file)
            self._tar.addfile(info, reader)
        entry = FileEntry(sha256=reader.digest.hexdigest(), size=status.st_size, mode=status.st_mode & 0o777)
        self._files[name] = entry
        return entry.sha256

    def _add_index(self, dumped: str) -> None:
        index = Index.model_validate(
            {
                "format": FORMAT,
                "mafunzo_version": metadata.version("mafunzo"),
                "created_at": datetime.now(UTC),
                "database": dumped,
                "files": self._files,
                "links": self._links,
                "folders": self._folders,
            }
        )
        text = index.model_dump_json().encode()
        info = tarfile.TarInfo(INDEX)
        info.size, info.mode = len(text), 0o600
        self._tar.addfile(info, BytesIO(text))


def _walk(root: Path, is_left_out: Callable[[str], bool] = lambda name: False) -> Iterator[Path]:
    """Yield what is below `root`, in order, a folder before what is in it; not what SQLite keeps beside its files.

    `is_left_out` is asked of the names directly in `root`. The database in use must be: closing a file that was only looked
    into drops the locks that this process's connections have on it.
    """
    for path in sorted(root.iterdir()):
        if not is_left_out(path.name) and not _is_beside_sqlite(path):
            yield path
            if path.is_dir() and not path.is_symlink():
                yield from _walk(path)


def _is_beside_sqlite(path: Path) -> bool:
    if not path.name.endswith(SQLITE_BESIDE):
        return False
    beside = path.with_name(path.name.rpartition("-")[0])
    return beside.is_file() and _is_sqlite(beside)


def _is_sqlite(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(SQLITE_HEADER)) == SQLITE_HEADER


def _copied_as_database(source: Path, target: Path) -> bool:
    """Copy a SQLite file that may be in use; say whether it is one, and not just begins like one."""
    try:
        copy_sqlite(source, target)
    except sqlite3.DatabaseError:
        target.unlink(missing_ok=True)
        return False
    return True


def _refuse_used(home: Home) -> None:
    used = [path for path in home.root.rglob("*") if not path.is_dir() and path != home.root / LOCK_FILE]
    if used:
        raise Conflict(f"{home.root} isn't empty: it has {used[0].relative_to(home.root)}. Name an empty home.")


def _extract(file: Path, root: Path) -> Index:
    """Write the tar's files below `root` and return its index, after checking that they are what it says."""
    written: dict[str, FileEntry] = {}
    index: Index | None = None
    try:
        with tarfile.open(file, "r:") as tar:
            for member in tar:
                source = tar.extractfile(member) if member.isreg() and manifest.is_inside(member.name) else None
                if source is None:
                    raise InvalidFile(
                        f"{file} is no backup of Mafunzo's: '{member.name}' would write outside of the home."
                    )
                if member.name == INDEX:
                    index = _read_index(file, source.read())
                else:
                    written[member.name] = _write(source, root / member.name)
    except (tarfile.TarError, OSError) as error:
        if isinstance(error, OSError) and error.errno in disk.FULL:
            raise
        raise InvalidFile(f"{file} can't be read as a backup: {error}.") from error
    if index is None:
        raise InvalidFile(f"{file} was cut off, or is no backup of Mafunzo's: it has no {INDEX}.")
    _compare(file, index, written)
    return index


def _read_index(file: Path, text: bytes) -> Index:
    try:
        body = json.loads(text)
        if isinstance(body, dict) and isinstance(body.get("format"), int) and body["format"] > FORMAT:
            raise NewerHome(f"{file} was written by Mafunzo {body.get('mafunzo_version')}. Run pip install -U mafunzo.")
        return Index.model_validate(body)
    except (ValueError, ValidationError) as error:
        raise InvalidFile(f"{file} is no backup of Mafunzo's: its {INDEX} can't be read.") from error


def _write(source: IO[bytes], target: Path) -> FileEntry:
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    sha256, size = disk.copy_and_hash(source, target, 0o600)
    return FileEntry(sha256=sha256, size=size, mode=0o600)


def _compare(file: Path, index: Index, written: dict[str, FileEntry]) -> None:
    faults, unsafe = Faults(), Faults()
    faults.add(*(f"{name}: missing" for name in sorted(index.files.keys() - written.keys())))
    faults.add(*(f"{name}: not in the index" for name in sorted(written.keys() - index.files.keys())))
    both = sorted(index.files.keys() & written.keys())
    faults.add(
        *(f"{name}: its bytes were changed" for name in both if index.files[name].sha256 != written[name].sha256)
    )
    faults.require_none(f"{file} isn't as it was written; nothing was restored.", ArtifactCorrupt)
    unsafe.add(*(name for name in [*index.links, *index.folders] if not manifest.is_inside(name)))
    unsafe.add(*(f"{name} -> {target}" for name, target in index.links.items() if target not in index.files))
    unsafe.require_none(f"{file} is no backup of Mafunzo's: it would write outside of the home.", InvalidFile)


def _check(root: Path, index: Index, file: Path) -> None:
    """Put links, folders and modes back, then hold every artifact against its hash."""
    for folder in index.folders:
        (root / folder).mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, entry in index.files.items():
        (root / name).chmod(entry.mode & 0o777)
    for name, target in index.links.items():
        (root / name).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.link(root / target, root / name)
    faults = Faults()
    artifacts = Artifacts(root / "artifacts")
    for artifact in artifacts.hashes():
        faults.add(*_artifact_faults(artifacts, artifact, index))
    faults.require_none(f"{file} has damaged artifacts; nothing was restored.", ArtifactCorrupt)


def _artifact_faults(artifacts: Artifacts, artifact: str, index: Index) -> list[str]:
    """The bytes were hashed as they were written: hold that hash against the one that the artifact asks for."""
    try:
        files = artifacts.manifest(artifact)
    except (ArtifactCorrupt, NotFound) as error:
        return [*error.faults] or [error.message]
    root = artifacts.root.parent
    names = {stored.path: artifacts.blob_path(stored.sha256).relative_to(root).as_posix() for stored in files}
    return [
        f"{artifact}, {stored.path}: missing or changed"
        for stored in files
        if names[stored.path] not in index.files or index.files[names[stored.path]].sha256 != stored.sha256
    ]


def _fill_database(staging: Home, index: Index, url: str | None) -> None:
    """Load the dump; nothing that ran when it was made runs here, so no lease is held."""
    dumped = staging.root / index.database
    if not dumped.is_file():
        raise InvalidFile(f"The backup has no {index.database}.")
    with closing(Database(staging, url)) as database:
        loading.load(dumped, database)
        with database.transaction() as connection:
            connection.execute(sa.delete(table.lease))
    dumped.unlink()


def _move(staging: Path, root: Path) -> None:
    """Give the checked files their places; the database comes last, so that a home with one is whole."""
    for path in sorted(staging.iterdir(), key=lambda path: path.name == "database"):
        target = root / path.name
        if target.is_dir():
            shutil.rmtree(target)  # empty folders only: `_refuse_used` has looked
        path.rename(target)
