"""Tests of `mafunzo prune`: what it prints, and that only --yes deletes."""

import json
import os
import tempfile
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mafunzo import Workspace
from mafunzo.control.workspace.pruning import PruneReport
from mafunzo.entities.pruning import PRUNED, Kept, PruneKind, Removal
from mafunzo.entrypoints.cli.prune import report_lines
from tests.support.command_line import Shell
from tests.support.finished_job import add_finished_job


@pytest.fixture(autouse=True)
def old_job(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A job that ended 90 days ago, with a log; return it."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("MAFUNZO_CACHE", str(tmp_path / "cache"))
    add_finished_job(workspace.home)
    job = workspace.records.jobs.get("job1")
    workspace.records.jobs.update(replace(job, ended_at=datetime.now(UTC) - timedelta(days=90)))
    log = workspace.home.jobs / "job1" / "finetune" / "1" / "log.txt"
    log.write_text("x" * 8000)
    return log


def test_without_yes_it_says_what_would_go_and_how(shell: Shell, old_job: Path) -> None:
    text = shell("prune")
    assert "logs: 1 logs of ended jobs, 8.2 kB\n     8.2 kB  job1\n" in text
    assert "Nothing is deleted yet. To free 8.2 kB: the same command with --yes" in text
    assert old_job.exists()


@pytest.mark.parametrize("option", ["--yes", "--apply"])
def test_with_yes_it_is_deleted_and_the_job_says_so(option: str, shell: Shell, old_job: Path) -> None:
    assert shell("prune", "--older-than", "30d", option).endswith("Freed 8.2 kB.\n")
    assert not old_job.exists()
    assert f"pruned      logs on {datetime.now(UTC):%Y-%m-%d}" in shell("job", "show", "job1")
    assert "loss" in shell("job", "metrics", "job1")
    assert shell("job", "logs", "job1") == f"The logs of job1 were pruned on {datetime.now(UTC):%Y-%m-%d}.\n"
    assert set(json.loads(shell("job", "list", "--json"))[0]["properties"][PRUNED]) == {"logs"}
    assert "Nothing goes." in shell("prune")


def test_kinds_and_ages_choose(shell: Shell, old_job: Path) -> None:
    assert shell("prune", "--kind", "caches", "--kind", "environments").startswith("caches: 0 downloads")
    assert "logs: 0" in shell("prune", "--older-than", "100d", "--kind", "logs")
    assert "isn't an age" in shell("prune", "--older-than", "soon", code=2)
    assert old_job.exists()


def test_json_has_the_whole_report(shell: Shell) -> None:
    report = json.loads(shell("prune", "--json"))
    assert report["is_applied"] is False and report["kinds"] == list(PruneKind)
    assert [(one["kind"], one["name"]) for one in report["removals"]] == [("logs", "job1")]


def test_long_lists_are_cut_and_what_is_kept_and_what_failed_are_told() -> None:
    removals = tuple(Removal(PruneKind.LOGS, f"job{number}", number) for number in range(12))
    kept = (Kept(PruneKind.JOBS, "j", "model m:1 came from it"),)
    report = PruneReport(datetime.now(UTC), (PruneKind.LOGS,), removals, kept, True, 5, ("/x: busy",))
    lines = report_lines(report)
    assert lines[1].strip() == "11 B  job11" and "  and 2 more; --json lists all" in lines
    assert lines[-3:] == ["  jobs j: model m:1 came from it", "error: /x: busy", "Freed 5 B."]


def test_what_could_not_be_deleted_makes_it_fail(shell: Shell, old_job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> None:
        raise OSError(16, "busy", str(path))

    monkeypatch.setattr("mafunzo.control.workspace.pruning.remove_tree", fail)
    assert f"error: {old_job}: [Errno 16] busy" in shell("prune", "--yes", code=1)
    assert os.path.exists(old_job)
