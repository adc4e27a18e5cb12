"""Content-addressed storage: a file or folder is stored once under the SHA-256 of its content, and is immutable.

    blobs/ab/<sha256>            the bytes of one file, read-only, shared by all artifacts that have it
    manifests/ab/<sha256>.json   an artifact: its files' paths, hashes and sizes as sorted JSON, under the hash of that JSON
    stamps/ab/<sha256>.json      when an artifact's bytes were last hashed, see `stamp.py`
    partial/<random>/            staging area of writes; what no process writes to was interrupted
    lock                         shared by readers and writers, exclusive for garbage collection

A symbolic link is followed when it leads to a file inside of the folder, and refused otherwise. Of a file's mode only the
owner's right to execute is kept. Empty folders are kept.
"""

import fcntl
import hashlib
import os
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Literal

from mafunzo.control.store import disk
from mafunzo.control.store.manifest import PREFIX, Manifest, StoredFile, is_inside, is_sha256, parse
from mafunzo.control.store.stamp import Stamps
from mafunzo.errors import ArtifactCorrupt, Conflict, Faults, InvalidFile, InvalidParameter, NotFound
from mafunzo.tracking.atomic_json import sync_folder

GRACE_S = 3600.0


class Artifacts:
    """The artifacts under one folder; usable from several threads and processes at once."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        for name in ("blobs", "manifests", "partial"):
            (self.root / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        self._stamps = Stamps(self.root / "stamps")

    def put(self, path: Path, is_final: bool = False) -> str:
        """Store a file (with its name) or a folder tree and return its hash, `sha256:<64 hex digits>`.

        Durable once it returns, and idempotent: bytes that are stored already are verified by their hash, or written anew.
        is_final: nobody writes to these files any more, so they become the stored bytes themselves, read-only where they
        are, instead of being copied (where a hard link can be made).
        Raises `InvalidFile` for a missing path and for what can't be stored, naming each, and `StorageFull`; either
        leaves nothing behind.
        """
        source = path.absolute()
        sources, empty_folders = _scan(source)
        with self.held(), self._partial(source) as partial:
            files = tuple(self._stage(sources[name], name, partial, is_final) for name in sorted(sources))
            kind: Literal["file", "folder"] = "folder" if source.is_dir() else "file"
            artifact = self._publish(Manifest(kind, files, empty_folders), partial)
            self._stamp(artifact, files)  # all of them have just been hashed
            return artifact

    def assemble(self, files: Mapping[str, tuple[str, str]]) -> str:
        """Return the artifact of a folder made of stored files: its paths to (artifact, path in it). No bytes are copied.

        Raises `NotFound`, and `InvalidParameter` for a path that would lead out of the folder.
        """
        with self.held(), self._partial(self.root) as partial:
            stored_files = []
            for path in sorted(files):
                if not is_inside(path):
                    raise InvalidParameter(f"'{path}' would lie outside of the folder. Use a path inside of it.")
                stored_files.append(replace(self._stored(*files[path]), path=path))
            return self._publish(Manifest("folder", tuple(stored_files), ()), partial)

    def extract(self, artifact: str, path: str, name: str) -> str:
        """Return the artifact of one file of a stored artifact, called `name`. No bytes are copied. Raises `NotFound`."""
        with self.held(), self._partial(self.root) as partial:
            return self._publish(Manifest("file", (replace(self._stored(artifact, path), path=name),), ()), partial)

    def exists(self, artifact: str) -> bool:
        """Say whether the artifact is stored; `verify` says whether it is intact."""
        return self.manifest_path(artifact).exists()

    def describe(self, artifact: str) -> Manifest:
        """Return what the artifact is. Raises `NotFound`, and `ArtifactCorrupt` when its manifest was changed."""
        path = self.manifest_path(artifact)
        try:
            text = path.read_bytes()
        except FileNotFoundError as error:
            raise NotFound(f"No artifact {artifact} in {self.root}.") from error
        if PREFIX + hashlib.sha256(text).hexdigest() != artifact:
            raise ArtifactCorrupt(f"Artifact {artifact} is damaged.", [f"{path}: the manifest was changed"])
        return parse(artifact, text)

    def manifest(self, artifact: str) -> tuple[StoredFile, ...]:
        """Return the artifact's files by path. Raises as `describe`."""
        return self.describe(artifact).files

    def size(self, artifact: str) -> int:
        """Return the bytes of the artifact's files together. Raises as `describe`."""
        return sum(file.size for file in self.manifest(artifact))

    def open_file(self, artifact: str, relative: str) -> Path:
        """Return the stored bytes of one file, to be read only; its name there is its hash.

        Raises `NotFound`, and `ArtifactCorrupt` when they are missing or of another size.
        """
        file = self._stored(artifact, relative)
        if fault := self._size_fault(file):
            raise _corrupt(artifact, [f"{file.path}: {fault}"])
        return self.blob_path(file.sha256)

    def checkout(self, artifact: str, to: Path, is_writable: bool = False) -> Path:
        """Lay the artifact out in the folder `to` and return the path of it: `to`, or the file in it for a single file.

        Files are hard links to the stored bytes, read-only; with `is_writable`, or on another file system, they are
        copies (which share their blocks where the file system can). Raises `Conflict` when `to` holds something that
        would be overwritten, `NotFound`, `ArtifactCorrupt` when stored bytes are missing, and `StorageFull`; each
        leaves nothing behind.
        """
        with self.held():
            manifest = self.describe(artifact)
            faults = [f"{file.path}: {fault}" for file in manifest.files if (fault := self._size_fault(file))]
            if faults:
                raise _corrupt(artifact, faults)
            with disk.full_disk_told(f"{to} was being written"):
                return self._lay_out(manifest, to.absolute(), is_writable)

    def verify(self, artifact: str) -> list[str]:
        """Read every byte of the artifact again and return what is wrong, a line a file; empty when it is intact."""
        try:
            files = self.manifest(artifact)
        except NotFound as error:
            return [error.message]
        except ArtifactCorrupt as error:
            return list(error.faults)
        faults = [(file, self._fault(file)) for file in files]
        self._stamp(artifact, [file for file, fault in faults if not fault])
        return [f"{file.path}: {fault}" for file, fault in faults if fault]

    def check(self, artifact: str) -> list[str]:
        """Return what is wrong with the artifact, as `verify` does, but read again only what may have changed.

        That is what has another modification time than when it was last hashed, or wasn't hashed for a day. What is as it was
        costs a look at each file, where hashing reads its bytes (1.4 GB/s on a core with SHA instructions).
        """
        try:
            files = self.manifest(artifact)
        except (NotFound, ArtifactCorrupt):
            return self.verify(artifact)
        known = self._stamps.valid(artifact.removeprefix(PREFIX))
        unsure = [file for file in files if self._size_fault(file) or self._mtime_ns(file) != known.get(file.sha256)]
        faults = [(file, self._fault(file)) for file in unsure]
        self._stamp(artifact, [file for file, fault in faults if not fault])
        return [f"{file.path}: {fault}" for file, fault in faults if fault]

    def seems_whole(self, artifact: str) -> bool:
        """Return whether all files of the artifact are there and of their size: a look, without reading them."""
        try:
            return not any(self._size_fault(file) for file in self.manifest(artifact))
        except (NotFound, ArtifactCorrupt):
            return False

    def require_intact(self, artifact: str) -> None:
        """Read every byte of the artifact again; raises `ArtifactCorrupt`, which names what is wrong, or `NotFound`."""
        self.describe(artifact)
        if faults := self.verify(artifact):
            raise _corrupt(artifact, faults)

    def require_checked(self, artifact: str) -> None:
        """Raise `ArtifactCorrupt` where `check` has something to say, or `NotFound`."""
        self.describe(artifact)
        if faults := self.check(artifact):
            raise _corrupt(artifact, faults)

    def hashes(self) -> list[str]:
        """Return the hash of every stored artifact."""
        return sorted(PREFIX + path.stem for path in (self.root / "manifests").glob("*/*.json"))

    def delete(self, artifact: str) -> int:
        """Delete one artifact, and the blobs that no other references; return the bytes freed. Raises `NotFound`."""
        with self.held(fcntl.LOCK_EX):
            if not self.exists(artifact):
                raise NotFound(f"No artifact {artifact} in {self.root}.")
            return self._sweep([artifact])

    def delete_chosen(self, choose: Callable[[], Iterable[str]]) -> int:
        """Delete the artifacts that `choose` returns while nothing is put, checked out or reused; return the bytes freed.

        What it decides by, it has to read itself, since that may have changed until then. Raises as `collect`.
        """
        with self.held(fcntl.LOCK_EX):
            return self._sweep([artifact for artifact in choose() if self.exists(artifact)])

    def put_at(self, artifact: str) -> float:
        """Return when the artifact was last put, in seconds since the epoch. Raises `FileNotFoundError`."""
        return self.manifest_path(artifact).stat().st_mtime

    def collect(self, keep: Set[str], grace_s: float = GRACE_S) -> int:
        """Collect garbage: delete every artifact not in `keep` and last put more than `grace_s` seconds ago.

        Also deletes what interrupted writes left. The grace is for artifacts that were put after `keep` was gathered,
        or whose record isn't written yet. Waits for every put and checkout that is under way. Returns the bytes freed;
        a file that is still linked from a job's folder frees its bytes with that folder. Raises `ArtifactCorrupt`, and
        deletes nothing, when the manifest of an artifact that stays is damaged: delete or put that one again first.
        """
        with self.held(fcntl.LOCK_EX):
            before = time.time() - grace_s
            old = [
                artifact
                for artifact in self.hashes()
                if artifact not in keep and self.manifest_path(artifact).stat().st_mtime <= before
            ]
            return self._sweep(old)

    # Writing

    def _stage(self, source: Path, name: str, partial: Path, is_final: bool) -> StoredFile:
        """Have the bytes of `source` either in the store, intact, or in `partial` under their hash."""
        try:
            is_executable = bool(source.stat().st_mode & stat.S_IXUSR)
            digest, size = disk.hash_file(source)
            file = StoredFile(name, digest, size, is_executable)
            staged = partial / digest
            if not staged.exists() and self._fault(file):
                self.blob_path(digest).parent.mkdir(mode=0o700, exist_ok=True)
                may_link = is_final and not is_executable and not source.is_symlink()
                if not (may_link and disk.link_final(source, staged)):
                    with source.open("rb") as reader:
                        copied, _ = disk.copy_and_hash(reader, staged, 0o444)
                    if copied != digest:
                        raise InvalidFile(
                            f"{source} was written to while it was being stored. Store it once it is whole."
                        )
            return file
        except (
            FileNotFoundError,
            PermissionError,
        ) as error:  # a file that vanishes or may not be read is the user's to mend
            raise InvalidFile(f"{source} can't be read: {error.strerror}.") from error

    def _publish(self, manifest: Manifest, partial: Path) -> str:
        """Commit: rename the staged blobs, then the manifest, which makes the artifact exist."""
        text = manifest.as_json()
        digest = hashlib.sha256(text).hexdigest()
        target = self.manifest_path(PREFIX + digest)
        target.parent.mkdir(mode=0o700, exist_ok=True)
        staged_manifest = partial / "manifest.json"
        disk.copy_and_hash(BytesIO(text), staged_manifest, 0o444)
        new = {file.sha256 for file in manifest.files if (partial / file.sha256).exists()}
        for sha256 in new:
            (partial / sha256).rename(self.blob_path(sha256))
        for folder in {*(self.blob_path(sha256).parent for sha256 in new), self.root / "blobs"}:
            sync_folder(folder)
        staged_manifest.rename(target)
        for folder in (target.parent, target.parent.parent):
            sync_folder(folder)
        return PREFIX + digest

    @contextmanager
    def _partial(self, source: Path) -> Iterator[Path]:
        folder = self.root / "partial" / secrets.token_hex(16)
        try:
            with disk.full_disk_told(f"{source} was being stored"):
                folder.mkdir(mode=0o700)
                yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _stored(self, artifact: str, path: str) -> StoredFile:
        files = {file.path: file for file in self.manifest(artifact)}
        if path not in files:
            raise NotFound(f"Artifact {artifact} has no file '{path}'. It has: {', '.join(list(files)[:10])}.")
        return files[path]

    def _fault(self, file: StoredFile) -> str:
        """Return what is wrong with the stored bytes of `file`, or an empty text."""
        blob = self.blob_path(file.sha256)
        try:
            digest, size = disk.hash_file(blob)
        except FileNotFoundError:
            return "missing"
        except OSError as error:
            return f"unreadable ({error.strerror})"
        if size != file.size:
            return f"has {size} bytes, expected {file.size}"
        return "" if digest == file.sha256 else "its bytes were changed"

    def _size_fault(self, file: StoredFile) -> str:
        """Return what is wrong with the stored bytes of `file` at a look, or an empty text."""
        try:
            size = self.blob_path(file.sha256).stat().st_size
        except FileNotFoundError:
            return "missing"
        return f"has {size} bytes, expected {file.size}" if size != file.size else ""

    def _mtime_ns(self, file: StoredFile) -> int:
        return self.blob_path(file.sha256).stat().st_mtime_ns

    def _stamp(self, artifact: str, files: Sequence[StoredFile]) -> None:
        """Write down that these files have just been hashed."""
        if files:
            self._stamps.add(artifact.removeprefix(PREFIX), {file.sha256: self._mtime_ns(file) for file in files})

    # Laying out

    def _lay_out(self, manifest: Manifest, to: Path, is_writable: bool) -> Path:
        if manifest.kind == "file":
            (file,) = manifest.files
            target = to / file.path
            if target.exists() or target.is_symlink():
                raise Conflict(f"{target} exists already. Delete it, or choose another folder.")
            to.mkdir(parents=True, exist_ok=True)
            self._place(file, target, is_writable)
            return target
        if to.exists() and (not to.is_dir() or any(to.iterdir())):
            raise Conflict(f"{to} exists already and isn't empty. Delete it, or choose another folder.")
        to.parent.mkdir(parents=True, exist_ok=True)
        partial = to.with_name(f".{to.name}.{secrets.token_hex(8)}")
        try:
            partial.mkdir()
            for folder in manifest.empty_folders:
                (partial / folder).mkdir(parents=True)
            for file in manifest.files:
                (partial / file.path).parent.mkdir(parents=True, exist_ok=True)
                self._place(file, partial / file.path, is_writable)
            partial.rename(to)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return to

    def _place(self, file: StoredFile, target: Path, is_writable: bool) -> None:
        """Link or copy. An executable file is always copied: its bytes may be shared with one that isn't."""
        blob = self.blob_path(file.sha256)
        if not is_writable and not file.is_executable and disk.link(blob, target):
            return
        partial = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
        try:
            disk.clone_or_copy(blob, partial)
            partial.chmod((0o644 if is_writable else 0o444) | (0o111 if file.is_executable else 0))
            partial.rename(target)
        finally:
            partial.unlink(missing_ok=True)

    # Deleting

    def _sweep(self, artifacts: list[str]) -> int:
        """Sweep artifacts, then the blobs that no remaining one references. The caller excludes every other use.

        Raises `ArtifactCorrupt` before anything is deleted when it isn't known what a remaining one has.
        """
        remaining = set(self.hashes()) - set(artifacts)
        used = {file.sha256 for artifact in remaining for file in self.manifest(artifact)}
        for artifact in artifacts:
            self.manifest_path(artifact).unlink()
            self._stamps.delete(artifact.removeprefix(PREFIX))
        freed = sum(disk.delete_file(blob) for blob in (self.root / "blobs").glob("*/*") if blob.name not in used)
        for partial in (self.root / "partial").iterdir():
            freed += sum(disk.delete_file(path) for path in partial.iterdir())
            shutil.rmtree(partial)
        return freed

    # Places and locks

    def blob_path(self, sha256: str) -> Path:
        """Return where the bytes with that hash are, or would be."""
        return self.root / "blobs" / sha256[:2] / sha256

    def manifest_path(self, artifact: str) -> Path:
        """Return where the artifact's manifest is, or would be. Raises `NotFound` for what is no hash of an artifact."""
        digest = artifact.removeprefix(PREFIX)
        if not artifact.startswith(PREFIX) or not is_sha256(digest):
            raise NotFound(f"'{artifact}' is no artifact, expected sha256: and 64 hex digits.")
        return self.root / "manifests" / digest[:2] / f"{digest}.json"

    @contextmanager
    def held(self, how: int = fcntl.LOCK_SH) -> Iterator[None]:
        """A shared lock against garbage collection by any process: for a put together with the record that names it."""
        descriptor = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, how)
            yield
        finally:
            os.close(descriptor)


def _corrupt(artifact: str, faults: Sequence[str]) -> ArtifactCorrupt:
    return ArtifactCorrupt(f"Artifact {artifact} is damaged.", faults)


def _scan(source: Path) -> tuple[Mapping[str, Path], tuple[str, ...]]:
    """Return the files to store by their path in the artifact, and the empty folders. Raises `InvalidFile`."""
    if source.is_file():
        if fault := _unstorable(source, source):
            raise InvalidFile(f"{_printable(source)} can't be stored: {fault}.")
        return {source.name: source}, ()
    if not source.is_dir():
        raise InvalidFile(f"{_printable(source)} doesn't exist, or is neither a file nor a folder.")
    files: dict[str, Path] = {}
    empty_folders: list[str] = []
    faults = Faults()
    for folder, folders, names in os.walk(
        source, onerror=lambda error: faults.add(f"{_printable(Path(error.filename))}: {error.strerror}")
    ):
        here = Path(folder)
        if not folders and not names and here != source:
            empty_folders.append(here.relative_to(source).as_posix())
        for name in [*names, *(name for name in folders if (here / name).is_symlink())]:
            if fault := _unstorable(here / name, source):
                faults.add(f"{_printable(here / name)}: {fault}")
            files[(here / name).relative_to(source).as_posix()] = here / name
    if faults:
        raise InvalidFile(f"{_printable(source)} can't be stored.", sorted(faults))
    return files, tuple(sorted(empty_folders))


def _unstorable(path: Path, root: Path) -> str:
    """Return why `path` can't be stored as part of `root`, or an empty text."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return "its name isn't UTF-8"
    if path.is_symlink():
        real = path.resolve()
        if not real.is_relative_to(root.resolve()):
            return "a symbolic link that leads out of the folder; put a copy in its place"
        if not real.is_file():
            return "a symbolic link to something that isn't a file; put a copy in its place"
    return "" if path.is_file() else "neither a file nor a folder"


def _printable(path: Path) -> str:
    """Return a path as text that can be written anywhere, even when its name isn't UTF-8."""
    return str(path).encode(errors="backslashreplace").decode()
