"""Sweeps as nodes of pipelines, of two-line shell trials, as real processes."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from mafunzo.entities.asset import WORKSPACE_SCOPE, AssetType
from mafunzo.entities.component import Component
from mafunzo.entities.job import Destination, JobStatus
from mafunzo.entities.sweep import (
    BEST_TRIAL,
    BEST_VALUE,
    Distribution,
    EarlyTermination,
    Goal,
    Policy,
    Sampling,
    Sweep,
)
from tests.support.pipeline_bench import Bench, shell

HOLD = "until [ -e $MAFUNZO_STEP_FOLDER/../../go ]; do sleep 0.02; done"
USE = shell("use", "cat ${{inputs.data_found}} > ${{outputs.out}}")


def grid(*values: int, **more: Any) -> Sweep:
    space = {"x": Distribution("choice", values)}
    return replace(Sweep("loss", Goal.MINIMIZE, space, Sampling.GRID, len(values), 2), **more)


def trial(before: str = "true", then: str = "true") -> Component:
    """Logs `x` as its loss, and writes it."""
    log = 'echo "{\\"step\\": 1, \\"loss\\": ${{inputs.x}}}" >> $MAFUNZO_STEP_FOLDER/metrics.jsonl'
    return shell("trial", f"{before}; {log}; {then}; echo ${{{{inputs.x}}}} > ${{{{outputs.out}}}}")


def submit(bench: Bench, name: str, sweep: Sweep, command: Component | None = None, **request: Any) -> None:
    """A sweep `look`, and a step that takes what its best trial has written."""
    bindings: Mapping[str, Mapping[str, Any]] = {"look": {"sweep": sweep}, "use": {"data_found": "look.out"}}
    bench.submit(name, {"look": command or trial(), "use": USE}, bindings=bindings, **request)


def test_the_best_trials_output_goes_on(bench: Bench) -> None:
    submit(bench, "j", grid(3, 1, 2))
    assert bench.finish("j").status == JobStatus.COMPLETED
    assert bench.read("j", "use") == "1\n"
    look = bench.step("j", "look")
    assert look.properties == {BEST_TRIAL: "look.trial_1", BEST_VALUE: 1}
    assert look.outputs == bench.step("j", "look.trial_1").outputs and look.started_at is not None
    assert look.reason == "look.trial_1 did best: loss 1"


def test_a_trial_that_fails_does_not_end_the_others(bench: Bench) -> None:
    submit(bench, "j", grid(3, 1, 2), trial(before="[ ${{inputs.x}} != 1 ] || exit 3"))
    assert bench.finish("j").status == JobStatus.COMPLETED
    assert bench.statuses("j")["look.trial_1"] == "failed" and bench.read("j", "use") == "2\n"


@pytest.mark.parametrize(
    ("command", "told"),
    [
        pytest.param(
            trial(before="exit 3"), "Trial 'look.trial_0': Step 'look.trial_0' ended with exit code 3", id="broken"
        ),
        pytest.param(shell("trial", "echo ${{inputs.x}} > ${{outputs.out}}"), "logged the metric 'loss'", id="silent"),
    ],
)
def test_a_sweep_without_a_result_fails_its_job_and_says_why(bench: Bench, command: Component, told: str) -> None:
    submit(bench, "j", grid(1, 2), command)
    job = bench.finish("j")
    assert job.status == JobStatus.FAILED and job.error is not None
    assert told in job.error["message"] and job.error["step"] == "look"
    assert bench.statuses("j")["use"] == "skipped"


def test_no_more_trials_run_than_may_and_other_steps_run_beside_them(bench: Bench) -> None:
    bindings = {"look": {"sweep": grid(1, 2, 3, max_parallel=1)}}
    beside = shell("beside", "echo x > ${{outputs.out}}")
    bench.submit("j", {"look": trial(then=HOLD), "beside": beside}, bindings=bindings)
    bench.until(
        lambda: bench.statuses("j")["beside"] == "completed" and bench.statuses("j")["look.trial_0"] == "running"
    )
    bench.scheduler.tick()
    statuses = bench.statuses("j")
    assert [statuses[f"look.trial_{n}"] for n in range(3)] == ["running", "waiting", "waiting"]
    assert statuses["look"] == "waiting" and bench.step("j", "look").reason == "0 of 3 trials have ended"
    (bench.home.jobs / "j" / "go").touch()
    assert bench.finish("j").status == JobStatus.COMPLETED


def test_a_trial_that_falls_behind_is_ended_early(bench: Bench) -> None:
    policy = EarlyTermination(Policy.BANDIT, slack_amount=1)
    submit(bench, "j", grid(1, 9, early_termination=policy), trial(then="[ ${{inputs.x}} = 1 ] || sleep 600"))
    assert bench.finish("j").status == JobStatus.COMPLETED
    assert bench.statuses("j")["look.trial_1"] == "canceled" and bench.read("j", "use") == "1\n"
    assert bench.leases.list() == [] and bench.leftovers() == []


def test_a_sweep_that_takes_longer_than_it_may_fails_and_leaves_nothing_running(bench: Bench) -> None:
    command = trial(then="[ ${{inputs.x}} = 1 ] || sleep 600")
    submit(bench, "j", grid(1, 2, 3, timeout_s=0.01), command, continue_on_step_failure=True)
    job = bench.finish("j")
    assert job.status == JobStatus.FAILED and job.error is not None
    assert "its trials ran longer than its limit of 0.01 s" in job.error["message"]
    assert bench.statuses("j")["use"] == "skipped" and "running" not in bench.statuses("j").values()
    assert bench.leases.list() == [] and bench.leftovers() == []


def test_a_canceled_job_ends_its_trials(bench: Bench) -> None:
    submit(bench, "j", grid(1, 2, 3), trial(then="sleep 600"))
    bench.until(lambda: bench.statuses("j")["look.trial_1"] == "running")
    bench.records.jobs.request_cancel("j")
    assert bench.finish("j").status == JobStatus.CANCELED
    assert set(bench.statuses("j").values()) == {"canceled"} and bench.leftovers() == []


@pytest.mark.parametrize(
    ("sampling", "count"),
    [
        pytest.param(Sampling.RANDOM, 2, marks=pytest.mark.slow),
        (Sampling.SOBOL, 2),
        pytest.param(Sampling.BAYESIAN, 12, marks=pytest.mark.slow),
    ],
)
def test_the_same_sweep_again_takes_every_trial_from_the_cache(bench: Bench, sampling: Sampling, count: int) -> None:
    space = {"x": Distribution("uniform", (0.0, 1.0))}
    sweep = Sweep("loss", Goal.MINIMIZE, space, sampling, max_trials=count, max_parallel=1)
    for job in ("first", "again"):
        submit(bench, job, sweep)
        bench.finish(job)
    drawn = [[step.spec.literals.get("x") for step in bench.records.steps.of(job)] for job in ("first", "again")]
    assert drawn[0] == drawn[1] and len(set(drawn[0])) == count + 1
    statuses = bench.statuses("again")
    assert {statuses[f"look.trial_{n}"] for n in range(count)} == {"cached"} and statuses["use"] == "cached"
    assert bench.step("again", "look").properties == bench.step("first", "look").properties


def test_a_sweep_with_more_trials_takes_those_that_it_had_from_the_cache(bench: Bench) -> None:
    sweep = Sweep("loss", Goal.MINIMIZE, {"x": Distribution("uniform", (0.0, 1.0))}, max_trials=2)
    submit(bench, "first", sweep)
    bench.finish("first")
    submit(bench, "more", replace(sweep, max_trials=3))
    bench.finish("more")
    trials = [bench.statuses("more")[f"look.trial_{n}"] for n in range(3)]
    assert trials == ["cached", "cached", "completed"]


def test_a_trial_is_not_taken_from_a_step_that_logged_nothing(bench: Bench) -> None:
    bench.run("plain", {"trial": trial(before="export MAFUNZO_STEP_FOLDER=/tmp")}, {"x": "1"})
    (bench.folder("plain", "trial") / "metrics.jsonl").unlink(missing_ok=True)
    submit(bench, "j", grid(1), trial(before="export MAFUNZO_STEP_FOLDER=/tmp"))
    bench.finish("j")
    assert bench.statuses("j")["look.trial_0"] == "completed"


def test_another_scheduler_goes_on_with_the_trials(bench: Bench) -> None:
    submit(bench, "j", grid(1, 9, 5), trial(then=f"[ ${{{{inputs.x}}}} = 1 ] || {{ {HOLD}; }}"))
    bench.until(lambda: bench.statuses("j")["look.trial_0"] == "completed" and bench.step("j", "look.trial_1").attempt)
    bench.scheduler.close()
    bench.scheduler = bench.new_scheduler()
    (bench.home.jobs / "j" / "go").touch()
    assert bench.finish("j").status == JobStatus.COMPLETED and bench.read("j", "use") == "1\n"
    assert {step.attempt for step in bench.records.steps.of("j") if step.spec.trial_of} == {1}


def test_only_the_best_trials_output_is_registered(bench: Bench) -> None:
    submit(bench, "j", grid(2, 1))
    for step in bench.records.steps.of("j"):
        if step.name.startswith("look"):
            spec = replace(step.spec, destinations={"out": Destination("uri_file", "swept")})
            bench.records.steps.update(replace(step, spec=spec))
    bench.finish("j")
    registered = bench.records.assets.list(WORKSPACE_SCOPE, AssetType.DATA, "swept")
    assert [(one.version, one.properties["step"]) for one in registered] == [("1", "look")]


def test_a_step_that_fails_ends_the_trials_beside_it(bench: Bench) -> None:
    bindings = {"look": {"sweep": grid(1, 2, 3)}}
    bench.submit(
        "j", {"bad": shell("bad", "exit 3; : ${{outputs.out}}"), "look": trial(then="sleep 600")}, bindings=bindings
    )
    job = bench.finish("j")
    assert job.status == JobStatus.FAILED and job.error is not None and job.error["step"] == "bad"
    assert set(bench.statuses("j").values()) <= {"failed", "canceled", "skipped"} and bench.leftovers() == []
