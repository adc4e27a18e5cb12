"""Every rule of running jobs, without a process."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from mafunzo.control.pipelines.decide import (
    CUT_OFF_LIMIT,
    MEMORY_KILL_LIMIT,
    Action,
    Begin,
    Cancel,
    Collect,
    Fail,
    Finish,
    Holder,
    JobState,
    Process,
    Retry,
    Reuse,
    Skip,
    Start,
    State,
    StepState,
    TakeBest,
    Wait,
    decide,
)
from mafunzo.entities.job import Job, JobStatus, LiteralInput, Resources, Step, StepOutputInput, StepSpec, StepStatus
from mafunzo.entities.sweep import EarlyTermination, Goal, Policy, Sweep

MACHINE = Resources(cpus=2, memory_mb=8000)
NOW = datetime(2026, 1, 1, tzinfo=UTC)
WAITING, RUNNING, COMPLETED, CACHED = StepStatus.WAITING, StepStatus.RUNNING, StepStatus.COMPLETED, StepStatus.CACHED
FAILED, SKIPPED, CANCELED = StepStatus.FAILED, StepStatus.SKIPPED, StepStatus.CANCELED


def step(name: str, status: StepStatus = WAITING, after: str = "", cpus: int = 1, **seen: Any) -> StepState:
    """A step that takes the output `o` of each step that `after` names."""
    spec = StepSpec(
        name=name,
        component=seen.pop("component", "c:1"),
        is_trusted=seen.pop("is_trusted", False),
        code="",
        command="",
        inputs={"n": LiteralInput(1), **{one: StepOutputInput(one, "o") for one in after.split()}},
        resources=Resources(
            cpus=cpus,
            gpus=seen.pop("gpus", 0),
            memory_mb=seen.pop("memory_mb", 0),
            processes=seen.pop("processes", 1),
        ),
        retries=seen.pop("retries", 0),
        trial_of=seen.pop("trial_of", ""),
        sweep=seen.pop("sweep", None),
    )
    attempt, reason = seen.pop("attempt", 0 if status == WAITING else 1), seen.pop("reason", "")
    retry_at = NOW + timedelta(seconds=seen.pop("retry_in_s")) if "retry_in_s" in seen else None
    return StepState(Step(job="j", spec=spec, status=status, attempt=attempt, reason=reason, retry_at=retry_at), **seen)


def job(*steps: StepState, name: str = "j", **said: Any) -> JobState:
    status = JobStatus.RUNNING if any(one.step.status != WAITING for one in steps) else JobStatus.QUEUED
    made = Job(**{"name": name, "display_name": "", "experiment": "", "component": "", "status": status, **said})
    return JobState(made, tuple(replace(one, step=replace(one.step, job=name)) for one in steps))


def actions(*jobs: JobState, free: Resources = MACHINE, holders: tuple[Holder, ...] = ()) -> list[Action]:
    return decide(State(jobs, MACHINE, holders), free, NOW)


def told(*jobs: JobState, **more: Any) -> list[str]:
    """The actions as `start a`, `finish failed`."""
    return [
        f"{type(action).__name__.lower()} {action.status if isinstance(action, Finish) else action.job.name if isinstance(action, Begin) else action.step.name}"
        for action in actions(*jobs, **more)
    ]


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        pytest.param([step("a"), step("b", after="a")], ["start a"], id="a step waits for the one before it"),
        pytest.param([step("a"), step("b")], ["start a", "start b"], id="branches start side by side"),
        pytest.param([step("a"), step("b"), step("c")], ["start a", "start b", "wait c"], id="as many as fit"),
        pytest.param([step("a", CACHED), step("b", after="a")], ["start b"], id="reused is done"),
        pytest.param([step("a", COMPLETED), step("b", RUNNING), step("c", after="a b")], [], id="both must be done"),
        pytest.param([step("a", RUNNING, process=Process.RUNNING)], [], id="nothing to do"),
        pytest.param([step("a", RUNNING, process=Process.SUCCEEDED)], ["collect a"], id="collect"),
        pytest.param([step("a", RUNNING, is_busy=True)], [], id="what is worked on is left alone"),
        pytest.param([step("a", is_busy=True), step("b", after="a")], [], id="also before it starts"),
        pytest.param([step("a", COMPLETED, is_busy=True)], [], id="a job isn't finished while a step is worked on"),
        pytest.param([step("a", COMPLETED), step("b", CACHED)], ["finish completed"], id="finished"),
        pytest.param([step("a", FAILED), step("b", SKIPPED)], ["finish failed"], id="failed"),
        pytest.param([step("a", RUNNING, process=Process.FAILED, failures=1)], ["fail a"], id="no retries"),
        pytest.param([step("a", RUNNING, process=Process.FAILED, failures=2, retries=2)], ["retry a"], id="last retry"),
        pytest.param([step("a", RUNNING, process=Process.FAILED, failures=3, retries=2)], ["fail a"], id="no more"),
        pytest.param([step("a", RUNNING, process=Process.LOST, cut_offs=1)], ["retry a"], id="lost"),
        pytest.param([step("a", RUNNING, process=Process.KILLED, cut_offs=1)], ["retry a"], id="killed"),
        pytest.param([step("a", RUNNING, process=Process.LOST)], ["retry a"], id="never began"),
        pytest.param(
            [step("a", RUNNING, process=Process.LOST, cut_offs=CUT_OFF_LIMIT + 1)], ["fail a"], id="cut off for ever"
        ),
        pytest.param([step("a", FAILED), step("b", RUNNING), step("c")], ["cancel b", "skip c"], id="one failed"),
        pytest.param(
            [step("a", RUNNING, process=Process.FAILED, failures=1), step("b")], ["fail a"], id="no start beside"
        ),
        pytest.param([step("a", memory_mb=9000), step("b")], ["fail a", "start b"], id="will never fit"),
        pytest.param([step("a", attempt=1, retry_in_s=1)], [], id="too early to try again"),
        pytest.param([step("a", attempt=1, retry_in_s=0)], ["start a"], id="time to try again"),
        pytest.param([step("a", attempt=1, retry_in_s=3600)], ["start a"], id="the clock was put back by an hour"),
        pytest.param(
            [step("a", attempt=1, cpus=2, retry_in_s=1), step("b", cpus=2)],
            ["start b"],
            id="until then others have the machine",
        ),
    ],
)
def test_steps_of_one_job(steps: list[StepState], expected: list[str]) -> None:
    assert told(job(*steps, status=JobStatus.RUNNING)) == expected


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        pytest.param([step("a", FAILED), step("b")], ["start b"], id="an independent branch starts"),
        pytest.param([step("a", FAILED), step("b", RUNNING)], [], id="an independent branch runs on"),
        pytest.param(
            [step("a", FAILED), step("b", after="a"), step("c", after="b")], ["skip b"], id="what follows doesn't"
        ),
        pytest.param(
            [step("a", FAILED), step("b", SKIPPED), step("c", after="b")], ["skip c"], id="nor what follows that"
        ),
        pytest.param([step("a", FAILED), step("b", COMPLETED)], ["finish failed"], id="the job failed all the same"),
    ],
)
def test_a_job_that_continues_on_failure(steps: list[StepState], expected: list[str]) -> None:
    assert told(job(*steps, continue_on_step_failure=True)) == expected


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        pytest.param([step("a", RUNNING), step("b")], ["cancel a", "cancel b"], id="all are ended"),
        pytest.param([step("a", RUNNING, process=Process.LOST)], ["cancel a"], id="also what was lost"),
        pytest.param([step("a", RUNNING, is_busy=True), step("b")], ["cancel b"], id="once it is not worked on"),
        pytest.param([step("a", CANCELED), step("b", COMPLETED)], ["finish canceled"], id="canceled"),
        pytest.param([step("a", COMPLETED), step("b", COMPLETED)], ["finish completed"], id="too late"),
        pytest.param([step("a", FAILED), step("b", RUNNING)], ["cancel b"], id="also with a failure"),
        pytest.param([step("a", attempt=1, retry_in_s=60)], ["cancel a"], id="also while it waits to be tried again"),
    ],
)
def test_a_job_that_is_to_be_canceled(steps: list[StepState], expected: list[str]) -> None:
    assert told(job(*steps, is_cancel_requested=True)) == expected


SWEEP = Sweep("loss", Goal.MINIMIZE, {}, max_parallel=2, early_termination=EarlyTermination(Policy.MEDIAN))


def trials(*steps: StepState, is_overdue: bool = False, **said: Any) -> JobState:
    return replace(job(*steps, continue_on_step_failure=True, sweep=SWEEP, **said), is_overdue=is_overdue)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        pytest.param([step("a"), step("b"), step("c")], ["start a", "start b"], id="as many as may run side by side"),
        pytest.param([step("a", RUNNING), step("b"), step("c")], ["start b"], id="one beside one"),
        pytest.param([step("a", RUNNING), step("b", is_busy=True), step("c")], [], id="what is worked on counts"),
        pytest.param([step("a", COMPLETED), step("b", FAILED), step("c")], ["start c"], id="a failure ends no other"),
        pytest.param(
            [step("a", attempt=1, retry_in_s=9), step("b"), step("c")],
            ["start b", "start c"],
            id="one that waits to be tried again takes no place",
        ),
        pytest.param(
            [
                step("a", COMPLETED, values=(1,)),
                step("b", COMPLETED, values=(1,)),
                step("c", RUNNING, process=Process.RUNNING, values=(9,)),
                step("d"),
            ],
            ["cancel c"],
            id="one falls behind",
        ),
        pytest.param(
            [
                step("a", COMPLETED, values=(1,)),
                step("b", COMPLETED, values=(1,)),
                step("c", RUNNING, process=Process.SUCCEEDED, values=(9,)),
            ],
            ["collect c"],
            id="what is through isn't ended",
        ),
        pytest.param(
            [step("a", COMPLETED, values=(1,)), step("b", CANCELED, values=(9,))],
            ["finish completed"],
            id="ended early",
        ),
        pytest.param([step("a", FAILED), step("b", COMPLETED, values=(9,))], ["finish completed"], id="one is enough"),
        pytest.param([step("a", FAILED), step("b", COMPLETED)], ["finish failed"], id="none logged the metric"),
        pytest.param([step("a", FAILED, values=(1,))], ["finish failed"], id="none is done"),
    ],
)
def test_trials_of_a_sweep(steps: list[StepState], expected: list[str]) -> None:
    assert told(trials(*steps, status=JobStatus.RUNNING)) == expected


def test_a_sweep_beyond_its_limit_is_ended_with_all_its_trials() -> None:
    running, waiting = actions(trials(step("a", RUNNING), step("b"), is_overdue=True))
    assert isinstance(running, Cancel) and isinstance(waiting, Cancel)
    assert running.reason == "the job ran longer than its limit"
    assert told(trials(step("a", COMPLETED, values=(1,)), step("b", CANCELED), is_overdue=True)) == ["finish canceled"]
    assert told(trials(step("a", COMPLETED, values=(1,)), is_overdue=True)) == ["finish completed"]


def test_a_sweep_that_has_ended_names_its_best_trial_or_says_what_none_did() -> None:
    (found,) = actions(trials(step("a", COMPLETED, values=(2,)), step("b", COMPLETED, values=(3, 1))))
    assert isinstance(found, Finish) and found.best is not None and found.best.step.name == "b"
    (none,) = actions(trials(step("a", COMPLETED), step("b", FAILED)))
    assert (
        isinstance(none, Finish) and none.failed is None and none.reason.startswith("No trial logged the metric 'loss'")
    )
    (broken,) = actions(trials(step("a", FAILED), step("b", CANCELED)))
    assert isinstance(broken, Finish) and broken.failed is not None and broken.failed.name == "a"


def trial(number: int, status: StepStatus = WAITING, **seen: Any) -> StepState:
    return step(f"look.{number}", status, trial_of="look", **seen)


def look(**seen: Any) -> StepState:
    """The step that ends the sweep of those trials, and takes the best one's outputs."""
    return step("look", sweep=SWEEP, **seen)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        pytest.param(
            [trial(0), trial(1), trial(2), look()], ["start look.0", "start look.1"], id="as many as may run at once"
        ),
        pytest.param(
            [step("a"), trial(0), trial(1), look(), step("b", after="look")],
            ["start a", "start look.0", "wait look.1"],
            id="beside other steps, which none of them is counted with",
        ),
        pytest.param(
            [trial(0, FAILED), trial(1), look(reason="1 of 2 trials have ended")],
            ["start look.1"],
            id="a failure ends none",
        ),
        pytest.param(
            [trial(0, FAILED), trial(1, RUNNING, process=Process.RUNNING), look()], ["follow look"], id="so far"
        ),
        pytest.param(
            [trial(0, COMPLETED, values=(1,), is_busy=True), look()], ["follow look"], id="its work isn't over"
        ),
        pytest.param([trial(0, FAILED), trial(1, COMPLETED, values=(1,)), look()], ["takebest look"], id="the best"),
        pytest.param([trial(0, FAILED), trial(1, CANCELED), look()], ["fail look"], id="none is done"),
        pytest.param([trial(0, COMPLETED), look()], ["fail look"], id="none has logged the metric"),
        pytest.param(
            [trial(0, FAILED), trial(1, COMPLETED), step("look", COMPLETED, sweep=SWEEP)],
            ["finish completed"],
            id="a trial that failed fails no job",
        ),
        pytest.param(
            [step("a", FAILED), trial(0), trial(1, RUNNING), look()],
            ["skip look.0", "cancel look.1", "skip look"],
            id="another step failed",
        ),
        pytest.param(
            [step("a", FAILED), trial(0, after="a"), look(after="a"), step("b", after="look")],
            ["skip look.0", "skip look", "skip b"],
            id="the step before it failed",
        ),
        pytest.param([trial(0, RUNNING), look(is_overdue=True)], ["fail look"], id="longer than it may"),
        pytest.param(
            [
                trial(0, COMPLETED, values=(1,)),
                trial(1, COMPLETED, values=(1,)),
                trial(2, RUNNING, process=Process.RUNNING, values=(9,)),
                look(reason="2 of 3 trials have ended"),
            ],
            ["cancel look.2"],
            id="one falls behind",
        ),
    ],
)
def test_a_sweep_within_a_pipeline(steps: list[StepState], expected: list[str]) -> None:
    assert told(job(*steps, status=JobStatus.RUNNING)) == expected


def test_the_trials_of_a_step_that_failed_end_where_the_others_go_on() -> None:
    steps = [trial(0, RUNNING), trial(1), step("look", FAILED, sweep=SWEEP), step("a", RUNNING)]
    assert told(job(*steps, continue_on_step_failure=True)) == ["cancel look.0", "skip look.1"]


def test_two_sweeps_of_a_pipeline_are_two() -> None:
    other = [step(f"other.{n}", COMPLETED, trial_of="other", values=(n,)) for n in range(2)]
    decided = actions(job(trial(0, COMPLETED, values=(-5,)), look(), *other, step("other", sweep=SWEEP)))
    assert [(one.step.name, one.best.step.name) for one in decided if isinstance(one, TakeBest)] == [
        ("look", "look.0"),
        ("other", "other.0"),
    ]


def test_reuse_needs_no_part_of_the_machine() -> None:
    full = Resources(cpus=0)
    (action,) = actions(job(step("a", reusable={"o": "sha256:1"}, source="k/a")), free=full)
    assert isinstance(action, Reuse) and action.outputs == {"o": "sha256:1"} and action.source == "k/a"


def test_a_job_begins_with_its_first_step() -> None:
    running = job(step("a", RUNNING), status=JobStatus.QUEUED)
    assert told(running) == ["begin j"]


def test_a_job_without_steps_is_complete() -> None:
    assert told(job()) == ["finish completed"]


def test_the_second_job_says_what_it_waits_for() -> None:
    first = job(step("a", RUNNING, cpus=2, process=Process.RUNNING), name="one")
    held = (Holder("one/a", Resources(cpus=2)),)
    (action,) = actions(first, job(step("a", cpus=2), name="two"), job(name="three"), free=Resources(0), holders=held)[
        :1
    ]
    assert isinstance(action, Wait)
    assert action.reason == "waits for 2 cores; one/a holds 2 cores; position 1 in the queue"


def test_a_reason_is_told_once() -> None:
    known = "waits for 2 cores; position 1 in the queue"
    assert actions(job(step("a", cpus=2, reason=known)), free=Resources(cpus=1)) == []


def test_a_job_that_runs_already_has_no_position() -> None:
    (action,) = actions(job(step("a", COMPLETED), step("b", cpus=2)), free=Resources(cpus=1))
    assert isinstance(action, Wait) and action.reason == "waits for 2 cores"


def test_nothing_overtakes_a_step_that_waits_for_the_whole_machine() -> None:
    big, small = job(step("a", cpus=2), name="big"), job(step("a", cpus=1), name="small")
    assert told(big, small, free=Resources(cpus=1)) == ["wait a", "wait a"]


def test_what_needs_another_part_of_the_machine_does_not_wait() -> None:
    large = job(step("a", memory_mb=8000), name="large")
    small = job(step("b", memory_mb=0), name="small")
    assert told(large, small, free=Resources(cpus=2, memory_mb=4000)) == ["wait a", "start b"]


def test_the_more_urgent_job_goes_first() -> None:
    first, second = job(step("a", cpus=2), name="urgent"), job(step("a", cpus=2), name="other")
    started, waiting = actions(first, second)
    assert isinstance(started, Start) and started.step.job == "urgent"
    assert isinstance(waiting, Wait) and waiting.step.job == "other"


def test_zero_cores_are_all_and_too_many_are_all() -> None:
    assert told(job(step("a", cpus=0)), free=Resources(cpus=1)) == ["wait a"]
    assert told(job(step("a", cpus=64))) == ["start a"]


def test_reasons_name_the_cause() -> None:
    retry, skip, cancel, fail = (
        actions(job(step("a", RUNNING, process=Process.FAILED, failures=1, retries=2)))[0],
        actions(job(step("a", FAILED), step("b", after="a")))[0],
        actions(job(step("a", FAILED), step("b", RUNNING)))[0],
        actions(job(step("a", memory_mb=9000)))[0],
    )
    assert isinstance(retry, Retry) and retry.reason == "attempt 1 failed; retry 1 of 2; starts again in 1 s"
    assert isinstance(skip, Skip) and skip.reason == "step 'a' failed"
    assert isinstance(cancel, Cancel) and cancel.reason == "step 'a' failed"
    assert isinstance(fail, Fail) and fail.reason == "it needs 1 core, 9000 MB, this machine has 2 cores, 8000 MB"


@pytest.mark.parametrize(
    ("process", "ends", "delay_s"),
    [
        pytest.param(Process.FAILED, {"failures": 1}, 1, id="failed once"),
        pytest.param(Process.FAILED, {"failures": 3}, 4, id="failed again and again"),
        pytest.param(Process.FAILED, {"failures": 20}, 60, id="a minute at most"),
        pytest.param(Process.KILLED, {"cut_offs": 2, "failures": 5}, 2, id="killed twice"),
        pytest.param(Process.LOST, {"cut_offs": 1}, 1, id="lost once"),
        pytest.param(Process.LOST, {}, 0, id="never began, so at once"),
    ],
)
def test_each_attempt_waits_longer_than_the_one_before(process: Process, ends: dict[str, int], delay_s: int) -> None:
    (retry,) = actions(job(step("a", RUNNING, process=process, retries=30, **ends)))
    assert isinstance(retry, Retry) and retry.at == NOW + timedelta(seconds=delay_s)
    assert retry.reason.partition("; starts again in ")[2] == (f"{delay_s} s" if delay_s else "")


def test_a_finished_job_names_the_step_that_failed() -> None:
    (action,) = actions(job(step("a", COMPLETED), step("b", FAILED), step("c", SKIPPED)))
    assert isinstance(action, Finish) and action.failed is not None and action.failed.name == "b"


def test_a_process_that_ended_is_collected_while_another_step_starts() -> None:
    collected, started = actions(job(step("a", RUNNING, process=Process.SUCCEEDED), step("b")), free=Resources(cpus=1))
    assert isinstance(collected, Collect) and isinstance(started, Start)


# Out of memory

TRAINING = {"component": "finetune:1", "is_trusted": True, "process": Process.OUT_OF_MEMORY, "peak_memory_mb": 8000.0}


@pytest.mark.parametrize(
    ("seen", "budget_mb", "wait_s"),
    [
        pytest.param({"memory_kills": 1}, 6000, 1, id="three quarters of what it took"),
        pytest.param({"memory_kills": 2, "peak_memory_mb": 6000.0}, 4500, 2, id="and less again"),
        pytest.param({"memory_kills": 1, "processes": 2}, 3000, 1, id="shared by its processes"),
        pytest.param({"memory_kills": MEMORY_KILL_LIMIT}, 6000, 4, id="the last time"),
        pytest.param({"memory_kills": 1, "failures": 5}, 6000, 1, id="its failures are another matter"),
    ],
)
def test_training_that_the_system_ended_for_memory_goes_on_with_less(seen, budget_mb, wait_s):
    (action,) = actions(job(step("a", RUNNING, **{**TRAINING, **seen})))
    assert isinstance(action, Retry) and action.at == NOW + timedelta(seconds=wait_s)
    assert action.step.memory_budget_mb == budget_mb
    assert action.reason.startswith(
        f"attempt 1 was ended by the system because memory ran out, at {seen.get('peak_memory_mb', 8000):,.0f} MB; it goes on "
        f"from its newest checkpoint with {budget_mb:,} MB for each process ({seen['memory_kills']} of 3 times)"
    )


def test_training_that_is_ended_for_memory_again_and_again_fails_with_what_to_do():
    state = step("a", RUNNING, **TRAINING, memory_kills=MEMORY_KILL_LIMIT + 1)
    (action,) = actions(job(replace(state, step=replace(state.step, memory_budget_mb=2531))))
    assert isinstance(action, Fail)
    assert action.reason.startswith(
        "the system ended it 4 times because memory ran out, at the last with 2,531 MB for each process. End other work"
    )


@pytest.mark.parametrize(
    ("seen", "kind"),
    [
        pytest.param({"component": "evaluate:1"}, Fail, id="another component has no plan"),
        pytest.param({"is_trusted": False}, Fail, id="nor has a user's own of that name"),
        pytest.param({"gpus": 1}, Fail, id="on a GPU the plan is about another memory"),
        pytest.param({"component": "evaluate:1", "retries": 1}, Retry, id="as its retries say"),
        pytest.param({"component": "evaluate:1", "retries": 1, "failures": 1}, Fail, id="which count all failures"),
    ],
)
def test_a_step_without_a_memory_plan_fails_as_any_other(seen, kind):
    (action,) = actions(job(step("a", RUNNING, **{**TRAINING, "memory_kills": 1, **seen})))
    assert isinstance(action, kind) and action.step.memory_budget_mb == 0
    assert not (isinstance(action, Fail) and action.reason)
