"""What is refused of a dump; `test_dump` loads the others."""

import json
from pathlib import Path

import pytest

from mafunzo.control.store.database import Database
from mafunzo.control.store.loading import load
from mafunzo.errors import InvalidFile, NewerHome


def test_a_dump_of_a_newer_version_is_refused_before_anything_is_changed(target: Database, tmp_path: Path) -> None:
    file = tmp_path / "copy.jsonl"
    file.write_text(json.dumps({"version": 99}) + "\n")
    with pytest.raises(NewerHome, match=r"copy\.jsonl was written by a newer Mafunzo \(database version 99\)"):
        load(file, target)
    file.write_text("{}\n")
    with pytest.raises(InvalidFile, match="names no version"):
        load(file, target)
    target.close()
