"""The newest comparisons of mirrored requests, one a line: `<home>/workers/<endpoint>/mirror-<deployment>.jsonl`."""

import json
from dataclasses import asdict
from pathlib import Path

from mafunzo.control.store.home import Home
from mafunzo.entities.mirror import Comparison
from mafunzo.tracking.regular_file import read_regular

FILE_BYTES = 2 * 2**20
"""So long a file is put aside for the next: twice as much stays at most."""


def mirror_files(home: Home, endpoint: str, deployment: str) -> tuple[Path, Path]:
    """Return the file of a mirror's comparisons, and the one before it."""
    folder = home.workers / endpoint
    return folder / f"mirror-{deployment}.jsonl", folder / f"mirror-{deployment}.older.jsonl"


def append(home: Home, endpoint: str, comparison: Comparison) -> None:
    """Keep a comparison."""
    newest, older = mirror_files(home, endpoint, comparison.mirror)
    newest.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if newest.exists() and newest.stat().st_size > FILE_BYTES:
        newest.replace(older)
    with newest.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(comparison)) + "\n")


def read(home: Home, endpoint: str, deployment: str) -> list[Comparison]:
    """Return the comparisons that are kept, the oldest first; a line that was cut off by a crash is left out."""
    newest, older = mirror_files(home, endpoint, deployment)
    lines = [line for file in (older, newest) for line in (read_regular(file) or "").splitlines()]
    return [comparison for line in lines if (comparison := _parsed(line)) is not None]


def forget(home: Home, endpoint: str, deployment: str) -> None:
    """Delete the comparisons of a mirror."""
    for file in mirror_files(home, endpoint, deployment):
        file.unlink(missing_ok=True)


def _parsed(line: str) -> Comparison | None:
    try:
        return Comparison(**json.loads(line))
    except (ValueError, TypeError):
        return None
