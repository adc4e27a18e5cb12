"""Tests of `mafunzo.control.store.job_files`: what in a job's folder is a log, what a record, and what is left over."""

from pathlib import Path

from mafunzo.control.store.job_files import leftovers_in, logs_in


def test_logs_and_leftovers_are_told_from_records(tmp_path: Path) -> None:
    attempt = tmp_path / "job" / "step" / "1"
    (attempt / "logs").mkdir(parents=True)
    (attempt / "outputs").mkdir()
    (attempt.parent / "not-an-attempt").mkdir()
    (attempt.parent / "not-an-attempt" / "log.txt").touch()
    for name in ("log.txt", "log.3.txt", "log.x.txt", "metrics.jsonl", "exit.json", "process.json", "error.json"):
        (attempt / name).touch()
    for path in (tmp_path / "job" / "stream.txt", tmp_path / "job" / "job.json", attempt.parent / "key.json"):
        path.touch()
    job = tmp_path / "job"
    assert {path.name for path in logs_in(job)} == {"log.txt", "log.3.txt", "logs", "stream.txt"}
    assert {path.name for path in leftovers_in(job)} == {"outputs", "log.x.txt"}


def test_links_are_not_followed_and_what_is_gone_is_empty(tmp_path: Path) -> None:
    (tmp_path / "elsewhere" / "1").mkdir(parents=True)
    (tmp_path / "elsewhere" / "1" / "log.txt").touch()
    (tmp_path / "job" / "one").mkdir(parents=True)
    (tmp_path / "job" / "step").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "job" / "one" / "1").symlink_to(tmp_path / "elsewhere" / "1")
    assert list(logs_in(tmp_path / "job")) == list(leftovers_in(tmp_path / "job")) == []
    assert list(logs_in(tmp_path / "gone")) == []
