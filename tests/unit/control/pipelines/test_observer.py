"""What is seen of jobs before anything is decided."""

import fcntl
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from mafunzo.control.launcher.runner import boot_id
from mafunzo.control.launcher.steady_clock import steady_s
from mafunzo.control.pipelines.decide import Process
from mafunzo.control.pipelines.observer import Observer
from mafunzo.entities.job import JobStatus, StepStatus
from mafunzo.entities.pruning import PRUNED
from mafunzo.entities.sweep import Goal, Sweep
from mafunzo.entities.uptime import Uptime
from mafunzo.tracking.step_folder import StepFolder
from tests.support.pipeline_bench import Bench, shell


def observer(bench: Bench) -> Observer:
    return Observer(bench.records, bench.artifacts, bench.launcher, bench.home, lambda: bench.versions)


def test_a_step_that_a_thread_is_at_work_on_is_left_alone(bench: Bench) -> None:
    job = bench.submit("j", shell("one", "true"))
    assert [state.is_busy for state in observer(bench).job_state(job, {("j", "one")}).steps] == [True]
    assert [state.is_busy for state in observer(bench).job_state(job, set()).steps] == [False]


def test_a_running_step_without_a_process_is_lost_and_one_past_its_limit_overdue(bench: Bench) -> None:
    job = bench.submit("j", shell("one", "true"))
    long_ago = datetime.now(UTC) - timedelta(hours=1)
    step = replace(bench.step("j", "one"), status=StepStatus.RUNNING, attempt=1, started_at=long_ago)
    bench.records.steps.update(step)
    (state,) = observer(bench).job_state(job, set()).steps
    assert (state.process, state.failures, state.cut_offs, state.is_overdue) == (Process.LOST, 0, 0, False)


BOOT = Uptime("boot", 5000.0)
HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    ("age", "started_uptime", "is_overdue"),
    [
        pytest.param(HOUR, Uptime("boot", 4990.0), False, id="the clock was put on by an hour"),
        pytest.param(-HOUR, Uptime("boot", 4900.0), True, id="the clock was put back by an hour"),
        pytest.param(HOUR, Uptime("other", 4990.0), True, id="the machine was started anew"),
        pytest.param(timedelta(0), Uptime("other", 10.0), False, id="the machine was started anew, just now"),
        pytest.param(HOUR, None, True, id="the system doesn't tell its uptime"),
    ],
)
def test_a_limit_is_measured_by_what_nobody_sets(
    age: timedelta, started_uptime: Uptime | None, is_overdue: bool, bench: Bench
) -> None:
    job = bench.submit("j", shell("one", "sleep 60"))
    bench.until(lambda: bench.step("j", "one").attempt and StepFolder(bench.folder("j", "one")).process.exists())
    started = {"started_at": datetime.now(UTC) - age, "started_uptime": started_uptime}
    step = bench.step("j", "one")
    bench.records.steps.update(replace(step, spec=replace(step.spec, timeout_s=60.0), **started))
    watching = Observer(bench.records, bench.artifacts, bench.launcher, bench.home, dict, lambda: BOOT)
    assert [state.is_overdue for state in watching.job_state(job, set()).steps] == [is_overdue]
    sweep = Sweep("loss", Goal.MINIMIZE, {}, timeout_s=60.0)
    assert watching.job_state(replace(job, sweep=sweep, **started), set()).is_overdue == is_overdue


def test_what_starts_a_step_notes_the_uptime(bench: Bench) -> None:
    bench.run("j", shell("one", "true"))
    for begun in (bench.records.jobs.get("j"), bench.step("j", "one")):
        assert begun.started_uptime is not None and begun.started_uptime.boot == boot_id()
        assert 0 <= steady_s() - begun.started_uptime.seconds < 600


def test_outputs_of_an_equal_step_are_seen_unless_the_versions_differ(bench: Bench) -> None:
    write = shell("one", "echo x > ${{outputs.out}}")
    bench.run("first", write)
    job = bench.submit("second", write)
    (state,) = observer(bench).job_state(job, set()).steps
    assert (state.source, state.reusable) == ("first/one", bench.step("first", "one").outputs)
    bench.versions["python"] = "4"
    (state,) = observer(bench).job_state(job, set()).steps
    assert state.reusable is None


def test_a_key_is_looked_at_once_until_it_is_forgotten(bench: Bench) -> None:
    bench.submit("j", shell("one", "true"))
    step, seen = bench.step("j", "one"), observer(bench)
    first = seen.key(step, {})
    bench.versions["python"] = "4"
    assert seen.key(step, {}) is first
    seen.forget("other")
    assert seen.key(step, {}) is first
    seen.forget("j", "one")
    assert seen.key(step, {})["versions"] == {"python": "4"}
    assert seen.why(step, first) == "it runs for the first time"


def test_outputs_that_were_pruned_are_made_anew_and_the_step_says_why(bench: Bench) -> None:
    write = shell("one", "echo x > ${{outputs.out}}")
    job = bench.run("first", write)
    marks = {"artifacts": "2026-03-01T10:00:00+00:00"}
    bench.records.jobs.update(replace(job, properties={PRUNED: marks}))
    bench.artifacts.delete(bench.step("first", "one").outputs["out"])
    assert bench.run("second", write).status is JobStatus.COMPLETED
    assert bench.step("second", "one").reason == "its outputs in first were pruned on 2026-03-01"
    assert bench.read("second", "one") == "x\n"


def test_nothing_is_pruned_while_outputs_are_taken_over(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    write = shell("one", "echo x > ${{outputs.out}}")
    bench.run("first", write)
    is_free = []

    def check(artifact: str) -> list[str]:
        with (bench.artifacts.root / "lock").open("r+") as lock, suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_free.append(artifact)
        return []

    monkeypatch.setattr(bench.artifacts, "check", check)
    bench.run("second", write)
    assert bench.statuses("second") == {"one": "cached"} and is_free == []
