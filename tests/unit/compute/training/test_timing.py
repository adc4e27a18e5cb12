"""How long a run takes: its work counted exactly, one formula, and the pace of a run that goes on."""

from dataclasses import replace

import pytest

from mafunzo.compute.training import timing
from mafunzo.compute.training.arguments import TrainingArguments
from mafunzo.compute.training.data_order import load_steps
from mafunzo.compute.training.run import Run, TrainingRequest, assemble
from mafunzo.compute.training.timing import Costs, Pace, Work, evaluated_steps, seconds, work_of
from tests.support.tiny_training import random_rows, write_prepared
from tests.support.training_run import LORA

WORK = Work(tokens=1000, steps=10, evaluations=2, validation_tokens=200, saves=2, save_interval_s=600)
COSTS = Costs(token_s=0.1, step_s=0.5, validation_token_s=0.05, save_s=3)


def run_of(tmp_path, base, prepared, **values) -> Run:
    arguments = TrainingArguments.from_values(LORA | values)
    return assemble(TrainingRequest(base, prepared, tmp_path / "out", arguments))


@pytest.mark.parametrize("epochs", [pytest.param(2, id="whole epochs"), pytest.param(1.5, id="a part of one")])
def test_the_tokens_of_all_steps_are_those_that_batches_count(tmp_path, base, epochs):
    rows = [(ids, [*labels[:-2], -100, -100]) for ids, labels in random_rows(23)]  # ends that no batch has
    run = run_of(tmp_path, base, write_prepared(tmp_path / "p", rows), num_train_epochs=epochs)
    steps = load_steps(run.rows, run.order, 0, 50, 0)
    assert work_of(run).tokens == sum(batch.n_tokens for batches in steps for batch in batches)


@pytest.mark.parametrize(
    ("values", "evaluations", "saves"),
    [
        pytest.param({"num_train_epochs": 2}, 2, 2, id="each epoch"),
        pytest.param(
            {"num_train_epochs": 2, "evaluation_strategy": "steps", "eval_steps": 5}, 3, 3, id="and at the end"
        ),
        pytest.param({"evaluation_strategy": "disable"}, 0, 1, id="one checkpoint at the end"),
    ],
)
def test_evaluations_and_their_checkpoints_are_work(tmp_path, base, prepared, values, evaluations, saves):
    run = run_of(tmp_path, base, prepared, **values)
    work = work_of(run)
    assert (work.evaluations, work.saves, len(evaluated_steps(run))) == (evaluations, saves, evaluations)
    rows = run.validation_rows
    assert work.validation_tokens == (evaluations * rows.tokens if rows is not None else 0)


@pytest.mark.parametrize(
    ("work", "expected"),
    [
        pytest.param(WORK, 100 + 5 + 10 + 6, id="each part"),
        pytest.param(
            replace(WORK, save_interval_s=30), 121 + 2 * 2 * 3, id="evaluations 60 s apart: two saves between"
        ),
        pytest.param(replace(WORK, save_interval_s=0), 121 + 8 * 3, id="a checkpoint each step"),
        pytest.param(replace(WORK, save_interval_s=0.01), 121 + 8 * 3, id="never more than one a step"),
    ],
)
def test_seconds_are_work_times_costs(work, expected):
    assert seconds(work, COSTS) == pytest.approx(expected)


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(timing.time, "monotonic", lambda: now[0])
    return now


def test_the_rest_is_known_by_what_was_measured_and_the_first_step_counts_only_alone(tmp_path, base, prepared, clock):
    run = run_of(tmp_path, base, prepared, num_train_epochs=4)  # 4 evaluations
    work = work_of(run)
    pace = Pace(run, Costs(token_s=0.01, step_s=0, validation_token_s=0.005, save_s=7))
    assert pace.remaining_s(0, 0) == pytest.approx(work.tokens * 0.01 + work.validation_tokens * 0.005 + 4 * 7)
    pace.add_step(10, 100)
    assert pace.costs.token_s == 10
    for _ in range(2):
        pace.add_step(10, 2)
    costs = pace.costs
    assert (costs.token_s, costs.validation_token_s) == pytest.approx((0.2, 0.1))
    with pace.evaluation():
        clock[0] += run.validation_rows.tokens * 0.3
    with pace.save():
        clock[0] += 5
    left = pace.remaining_s(work.steps // 2, work.tokens // 2)
    assert left == pytest.approx((work.tokens - work.tokens // 2) * 0.2 + work.validation_tokens / 2 * 0.3 + 2 * 5)
    assert pace.remaining_s(work.steps, work.tokens) == 0
