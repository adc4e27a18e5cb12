"""Tests of `mafunzo.entities.pruning`: what goes and what stays, as tables of contents and plans."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from mafunzo.entities.job import Job
from mafunzo.entities.pruning import (
    PRUNED,
    Contents,
    Item,
    Kept,
    PastJob,
    PruneKind,
    StoredArtifact,
    plan,
    prune_request,
    pruned_at,
    pruned_text,
)
from mafunzo.errors import InvalidParameter

NOW = datetime(2026, 3, 1, tzinfo=UTC)
BEFORE = NOW - timedelta(days=30)
OLD, YOUNG = NOW - timedelta(days=40), NOW - timedelta(days=2)
ALL = set(PruneKind)
SIZES = {PruneKind.JOBS: 100, PruneKind.LOGS: 10}
JOB = PastJob("old", OLD, frozenset({"a"}), SIZES)
STORED = {"a": StoredArtifact(OLD - timedelta(days=1), {"blob": 1000})}


def goes(contents: Contents, kinds: set[PruneKind] = ALL) -> dict[tuple[str, str], int]:
    chosen = plan(contents, kinds, BEFORE, BEFORE)
    return {(str(removal.kind), removal.name): removal.size_bytes for removal in chosen.removals}


def test_of_an_old_job_go_its_files_its_logs_and_what_only_it_names() -> None:
    contents = Contents([JOB], STORED)
    assert goes(contents) == {("jobs", "old"): 100, ("logs", "old"): 10, ("artifacts", "a"): 1000}
    assert goes(contents, {PruneKind.LOGS}) == {("logs", "old"): 10}


@pytest.mark.parametrize(
    "job",
    [
        pytest.param(replace(JOB, ended_at=None), id="open"),
        pytest.param(replace(JOB, ended_at=YOUNG), id="young"),
        pytest.param(replace(JOB, needed_by="model m:1 came from it"), id="in a lineage"),
    ],
)
def test_a_job_that_is_open_young_or_in_a_lineage_stays_whole(job: PastJob) -> None:
    assert goes(Contents([job], STORED)) == {}


@pytest.mark.parametrize(
    ("other", "holders", "reason"),
    [
        pytest.param(PastJob("runs", None, frozenset({"a"})), {}, "job runs needs it", id="an open job"),
        pytest.param(PastJob("new", YOUNG, frozenset({"a"})), {}, "job new needs it", id="a young job"),
        pytest.param(None, {"a": "data rows:1 needs it"}, "data rows:1 needs it", id="a data version"),
    ],
)
def test_an_artifact_that_something_else_needs_stays_and_is_told(
    other: PastJob | None, holders: dict[str, str], reason: str
) -> None:
    jobs = [JOB, other] if other else [JOB]
    chosen = plan(Contents(jobs, STORED, holders), {PruneKind.ARTIFACTS}, BEFORE, BEFORE)
    assert chosen.removals == () and chosen.kept == (Kept(PruneKind.ARTIFACTS, "a", reason),)


def test_a_kept_job_is_told_with_what_needs_it() -> None:
    job = replace(JOB, needed_by="model m:1 came from it")
    chosen = plan(Contents([job], STORED), ALL, BEFORE, BEFORE)
    assert chosen.kept == (Kept(PruneKind.JOBS, "old", "model m:1 came from it"),)
    assert plan(Contents([job]), {PruneKind.CACHES}, BEFORE, BEFORE).kept == ()


@pytest.mark.parametrize(
    ("put_at", "is_named", "is_gone"),
    [
        pytest.param(OLD - timedelta(days=1), False, True, id="left by a deleted job"),
        pytest.param(NOW, False, False, id="no row names it yet"),
        pytest.param(OLD, True, True, id="put as its job ended"),
        pytest.param(NOW, True, False, id="put again since"),
    ],
)
def test_an_artifact_that_was_put_lately_stays(put_at: datetime, is_named: bool, is_gone: bool) -> None:
    stored = {"a": StoredArtifact(put_at, {"blob": 1})}
    assert bool(goes(Contents([JOB] if is_named else [], stored), {PruneKind.ARTIFACTS})) is is_gone


def test_a_blob_is_counted_once_and_not_while_another_artifact_has_it() -> None:
    stored = {
        name: StoredArtifact(OLD, {"shared": 5, "of two": 7, name: 1} if name != "stays" else {"shared": 5})
        for name in ("a", "b", "stays")
    }
    contents = Contents([JOB, replace(JOB, name="b", artifacts=frozenset({"b"}))], stored, {"stays": "blob x is it"})
    assert goes(contents, {PruneKind.ARTIFACTS}) == {("artifacts", "a"): 8, ("artifacts", "b"): 1}


def test_a_job_whose_artifacts_were_pruned_holds_what_is_left_of_them_at_no_age() -> None:
    assert goes(Contents([replace(JOB, ended_at=BEFORE, is_pruned=True)], STORED), {PruneKind.ARTIFACTS})
    assert goes(Contents([replace(JOB, ended_at=YOUNG, is_pruned=True)], STORED), {PruneKind.ARTIFACTS})


def test_what_can_be_made_again_goes_by_its_last_use_unless_it_is_in_use() -> None:
    items = [
        Item(PruneKind.CACHES, "/old", 5, OLD),
        Item(PruneKind.CACHES, "/young", 5, YOUNG),
        Item(PruneKind.ENVIRONMENTS, "/used", 5, OLD, "job j needs it"),
    ]
    chosen = plan(Contents(items=items), ALL, BEFORE, BEFORE)
    assert chosen.names(PruneKind.CACHES) == ["/old"] and chosen.size_bytes(PruneKind.CACHES) == 5
    assert chosen.kept == (Kept(PruneKind.ENVIRONMENTS, "/used", "job j needs it"),)


def test_a_request_has_kinds_and_an_age() -> None:
    assert prune_request("30d", ["logs"]) == ({PruneKind.LOGS}, 30 * 24 * 3600.0)
    assert prune_request(timedelta(hours=1), "logs") == ({PruneKind.LOGS}, 3600.0)


def test_all_that_is_wrong_with_a_request_is_told_at_once() -> None:
    with pytest.raises(InvalidParameter) as refusal:
        prune_request("a month", ["log", "jobs"])
    assert [fault.partition(",")[0] for fault in refusal.value.faults] == ["'a month' isn't an age", "'log' is no kind"]
    assert "Did you mean logs?" in refusal.value.faults[1]
    with pytest.raises(InvalidParameter, match=r"-1 s, expected 0 s to 100 years"):
        prune_request(timedelta(seconds=-1), ["logs"])
    with pytest.raises(InvalidParameter, match="No kind is named"):
        prune_request("1d", [])


def test_a_job_says_what_was_pruned_and_when() -> None:
    job = Job("j", "j", "e", "c:1")
    assert pruned_text(job) == "" and pruned_at(job, PruneKind.LOGS) is None
    marks = {
        "jobs": "2026-03-01T10:00:00+00:00",
        "logs": "2026-03-01T10:00:00+00:00",
        "artifacts": "2026-04-01T10:00:00+00:00",
    }
    job = replace(job, properties={PRUNED: marks})
    assert pruned_text(job) == "files, logs on 2026-03-01; artifacts on 2026-04-01"
    assert pruned_at(job, PruneKind.JOBS, PruneKind.ARTIFACTS) == datetime(2026, 4, 1, 10, tzinfo=UTC)
