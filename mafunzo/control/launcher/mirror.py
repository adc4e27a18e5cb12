"""The mirror of what a step writes on another machine: its outputs, in the step's own folder here.

Checkpoints come while it runs, each once it is whole there, and appear whole here; those that are deleted there go here too.
All else comes when the step has ended.
"""

import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

from mafunzo.control.launcher.transfer import SentFile, blocks_of, sha256_of
from mafunzo.errors import ArtifactCorrupt
from mafunzo.tracking.step_folder import OUTPUTS, StepFolder

MANIFEST = "manifest.json"


class Source(Protocol):
    """The other machine's folder."""

    def files(self, part: str) -> list[SentFile]:
        """Return the files below a part of the folder."""

    def read(self, path: str, start: int, size: int) -> bytes:
        """Return a block of one; raises `FileNotFoundError` where it was deleted meanwhile."""


class Mirror:
    """Mirrors a folder of another machine; checkpoints in a thread of its own, so that they hold nobody up."""

    def __init__(self, folder: Path, source: Callable[[], Source]) -> None:
        self._folder, self._source = folder, source
        self._pool = ThreadPoolExecutor(max_workers=1)
        self._work: Future[None] | None = None

    def follow(self, checkpoints: Iterable[str]) -> None:
        """Have the checkpoints that are there be here, soon, and no others. Raises what went wrong with those before."""
        if self._work is not None:
            if not self._work.done():
                return
            self._work.result()
        self._work = self._pool.submit(self._take_checkpoints, tuple(checkpoints))

    def finish(self, checkpoints: Iterable[str]) -> None:
        """Have everything here that the step has written."""
        self.wait()
        self._take_checkpoints(tuple(checkpoints))
        here = self._checkpoints()
        for file in self._source().files(OUTPUTS):
            if not any(file.path.startswith(f"{checkpoint}/") for checkpoint in here):
                self._take(file, self._folder / file.path)

    def wait(self) -> None:
        """Wait for what is under way; raises what went wrong with it."""
        work, self._work = self._work, None
        if work is not None:
            work.result()

    def _checkpoints(self) -> set[str]:
        return {path.relative_to(self._folder).as_posix() for path in StepFolder(self._folder).checkpoints}

    def _take_checkpoints(self, checkpoints: tuple[str, ...]) -> None:
        here = self._checkpoints()
        for name in checkpoints:
            if name not in here:
                self._take_checkpoint(name)
        for name in here - set(checkpoints):
            shutil.rmtree(self._folder / name)

    def _take_checkpoint(self, name: str) -> None:
        target = self._folder / name
        draft = target.with_name(f".{target.name}.tmp")
        shutil.rmtree(draft, ignore_errors=True)
        try:
            for file in self._source().files(name):
                self._take(file, draft / Path(file.path).relative_to(name))
            is_whole = (draft / MANIFEST).exists()  # what is deleted loses it first
        except FileNotFoundError:
            is_whole = False  # deleted there meanwhile, for a newer one
        if is_whole:
            draft.rename(target)
        else:
            shutil.rmtree(draft, ignore_errors=True)

    def _take(self, file: SentFile, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        source = self._source()
        with target.open("wb") as writer:
            for start, size in blocks_of(file.size):
                writer.write(source.read(file.path, start, size))
        if sha256_of(target) != file.sha256:
            raise ArtifactCorrupt(f"{file.path} arrived with other bytes than the node has.")
