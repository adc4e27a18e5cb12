"""Whether data files can be trained on, told before anything is stored or started."""

from collections.abc import Iterable
from pathlib import Path

from mafunzo.dataset.check import check_source, refuse
from mafunzo.dataset.files import open_source


def require_file(file: Path) -> None:
    """Raise `InvalidFile` unless `file` is there, isn't empty and has a known format."""
    open_source(file)


def require_good(files: Iterable[Path], on_bad_row: str) -> None:
    """Raise `InvalidData` naming every bad row of all files, unless the policy is to skip them; `InvalidFile` as above."""
    bad = []
    for file in files:
        bad += check_source(open_source(file)).bad
    if on_bad_row != "skip":
        refuse(bad)
