"""Manifests: which files and empty folders an artifact has, as sorted JSON under the hash of that JSON."""

import json
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

from mafunzo.errors import ArtifactCorrupt

PREFIX = "sha256:"


@dataclass(frozen=True)
class StoredFile:
    """One file of an artifact: `path` relative with `/`, `sha256` as 64 hex digits, `size` in bytes."""

    path: str
    sha256: str
    size: int
    is_executable: bool = False


@dataclass(frozen=True)
class Manifest:
    """What an artifact is: one file under its own name, or a folder of files and empty folders."""

    kind: Literal["file", "folder"]
    files: tuple[StoredFile, ...]
    empty_folders: tuple[str, ...] = ()

    def as_json(self) -> bytes:
        """Return the canonical text, whose SHA-256 is the artifact's hash."""
        body: dict[str, Any] = {
            "kind": self.kind,
            "files": [
                {"path": f.path, "sha256": f.sha256, "size": f.size} | ({"executable": True} if f.is_executable else {})
                for f in self.files
            ],
            "empty_folders": list(self.empty_folders),
        }
        return json.dumps(body, sort_keys=True, separators=(",", ":")).encode()


def parse(artifact: str, text: bytes) -> Manifest:
    """Return the manifest that an artifact's canonical text says. Raises `ArtifactCorrupt` for one that leads elsewhere."""
    body = json.loads(text)
    files = tuple(
        StoredFile(file["path"], file["sha256"], file["size"], file.get("executable", False)) for file in body["files"]
    )
    unsafe = [path for path in [*(file.path for file in files), *body["empty_folders"]] if not is_inside(path)]
    unsafe += [file.sha256 for file in files if not is_sha256(file.sha256)]
    if unsafe:
        raise ArtifactCorrupt(f"Artifact {artifact} would write outside of its folder.", unsafe)
    return Manifest(body["kind"], files, tuple(body["empty_folders"]))


def is_inside(path: str) -> bool:
    """Return whether a path, relative to a folder, leads to something inside of it."""
    pure = PurePosixPath(path)
    return bool(pure.parts) and not pure.is_absolute() and ".." not in pure.parts and "\0" not in path


def is_sha256(text: str) -> bool:
    """Return whether a text is a SHA-256 as hex digits."""
    return len(text) == 64 and set(text) <= set("0123456789abcdef")
