"""Sweeps of two-line shell trials, as real processes."""

from dataclasses import replace
from typing import Any

import pytest

from mafunzo.entities.asset import WORKSPACE_SCOPE, Asset, AssetKey, AssetType, FolderType
from mafunzo.entities.component import Component
from mafunzo.entities.job import Destination, JobStatus, StepOutputInput
from mafunzo.entities.sweep import BEST_TRIAL, BEST_VALUE, EarlyTermination, Goal, Policy, Sweep
from tests.support.pipeline_bench import Bench, shell

SWEEP = Sweep("loss", Goal.MINIMIZE, {}, max_parallel=2)


def logging(loss: float, then: str = "true") -> Component:
    line = f'{{"step": 1, "loss": {loss}}}'
    return shell(
        "trial",
        f"echo '{line}' >> $MAFUNZO_STEP_FOLDER/metrics.jsonl; {then}; echo {loss} > ${{{{outputs.out}}}}",
        is_deterministic=False,
    )


def submit(bench: Bench, *trials: Component, sweep: Sweep = SWEEP, destination: Destination | None = None) -> None:
    named = {f"trial_{number}": trial for number, trial in enumerate(trials)}
    bench.submit("j", named, sweep=sweep, continue_on_step_failure=True)
    for step in bench.records.steps.of("j"):
        destinations = {} if destination is None else {"out": destination}
        bench.records.steps.update(replace(step, spec=replace(step.spec, destinations=destinations)))


def registered(bench: Bench) -> list[Any]:
    return bench.records.assets.list(WORKSPACE_SCOPE, AssetType.DATA, "swept")


def test_a_sweep_is_its_best_trial_and_registers_only_that(bench: Bench) -> None:
    submit(bench, logging(3), logging(1), logging(2), destination=Destination("uri_file", "swept"))
    job = bench.finish("j")
    assert job.status == JobStatus.COMPLETED and job.outputs == {"out": StepOutputInput("trial_1", "out")}
    assert job.properties == {BEST_TRIAL: "trial_1", BEST_VALUE: 1}
    assert [(one.version, one.properties["step"]) for one in registered(bench)] == [("1", "trial_1")]


def test_a_sweep_whose_result_can_not_be_registered_fails_and_says_so(bench: Bench) -> None:
    key = AssetKey(WORKSPACE_SCOPE, AssetType.DATA, "swept", "1")
    bench.records.assets.add(Asset(key, FolderType.URI_FILE, bench.file("other.txt", "other").artifact))
    submit(bench, logging(1), destination=Destination("uri_file", "swept", "1"))
    job = bench.finish("j")
    assert job.status == JobStatus.FAILED and job.error is not None
    assert "which has other bytes already" in job.error["message"]


def test_no_more_trials_run_than_may_side_by_side(bench: Bench) -> None:
    hold = "until [ -e $MAFUNZO_STEP_FOLDER/../../go ]; do sleep 0.02; done"
    submit(bench, *[logging(n, hold) for n in range(3)], sweep=replace(SWEEP, max_parallel=1))
    bench.until(lambda: bench.statuses("j")["trial_0"] == "running")
    bench.scheduler.tick()
    assert bench.statuses("j") == {"trial_0": "running", "trial_1": "waiting", "trial_2": "waiting"}
    (bench.home.jobs / "j" / "go").touch()
    assert bench.finish("j").status == JobStatus.COMPLETED


def test_another_scheduler_goes_on_with_a_sweep(bench: Bench) -> None:
    hold = "until [ -e $MAFUNZO_STEP_FOLDER/../../go ]; do sleep 0.02; done"
    submit(bench, logging(1), logging(9, hold), logging(5))
    bench.until(lambda: bench.statuses("j")["trial_0"] == "completed" and bench.step("j", "trial_1").attempt == 1)
    bench.scheduler.close()
    bench.scheduler = bench.new_scheduler()
    (bench.home.jobs / "j" / "go").touch()
    job = bench.finish("j")
    assert job.properties[BEST_TRIAL] == "trial_0"
    assert {step.attempt for step in bench.records.steps.of("j")} == {1}


def test_a_trial_that_falls_behind_is_ended_and_leaves_nothing_running(bench: Bench) -> None:
    policy = EarlyTermination(Policy.BANDIT, slack_amount=1)
    submit(bench, logging(1), logging(9, "sleep 600"), sweep=replace(SWEEP, early_termination=policy))
    job = bench.finish("j")
    assert job.status == JobStatus.COMPLETED and bench.statuses("j")["trial_1"] == "canceled"
    assert bench.step("j", "trial_1").reason == (
        "loss 9 after 1 values is worse than 2, what the best trial's slack allows"
    )
    assert bench.leases.list() == [] and bench.leftovers() == []


def test_a_sweep_ends_at_its_limit_with_the_best_so_far(bench: Bench) -> None:
    submit(bench, logging(1), logging(0, "sleep 600"), logging(0), sweep=replace(SWEEP, max_parallel=1, timeout_s=0.01))
    job = bench.finish("j")
    assert job.status == JobStatus.CANCELED and "canceled" in bench.statuses("j").values()
    assert bench.leases.list() == [] and bench.leftovers() == []


@pytest.mark.parametrize(
    ("trials", "told"),
    [
        pytest.param([shell("quiet", "echo x > ${{outputs.out}}")], "No trial logged the metric 'loss'", id="silent"),
        pytest.param(
            [shell("bad", "exit 3; : ${{outputs.out}}")], "Step 'trial_0' ended with exit code 3", id="broken"
        ),
    ],
)
def test_a_sweep_without_a_result_says_why(bench: Bench, trials: list[Component], told: str) -> None:
    submit(bench, *trials)
    job = bench.finish("j")
    assert job.status == JobStatus.FAILED and job.error is not None and job.error["message"].startswith(told)
