"""When training is validated, and when it stops by that."""

import json
from dataclasses import replace

import pytest

from mafunzo.compute.training.arguments import TrainingArguments
from mafunzo.compute.training.data_order import DataOrder
from mafunzo.compute.training.run import TrainingRequest, assemble
from mafunzo.compute.training.state import History, TrainingState
from mafunzo.compute.training.trainer import Trainer
from mafunzo.compute.training.validation import is_due, make_validator, note_loss, stops_early
from tests.support.tiny_training import random_rows, write_prepared
from tests.support.training_run import LORA, history, overfitting, train


@pytest.mark.parametrize(
    ("values", "at"),
    [
        pytest.param({"evaluation_strategy": "epoch", "num_train_epochs": 2}, [6, 12], id="epoch"),
        pytest.param({"evaluation_strategy": "steps", "eval_steps": 4}, [4, 6], id="steps"),
        pytest.param({"evaluation_strategy": "steps", "evaluation_steps_interval": 0.34}, [2, 4, 6], id="interval"),
        pytest.param({"evaluation_strategy": "epoch", "max_steps": 2}, [2], id="max_steps"),
        pytest.param({"evaluation_strategy": "disable"}, [], id="disable"),
    ],
)
def test_evaluation_happens_when_it_was_asked_for(tmp_path, base, prepared, values, at):
    _, folder = train(tmp_path, base, prepared, **LORA, **values)
    state = json.loads((folder / "trainer_state.json").read_text())
    assert [entry["step"] for entry in state["log_history"] if "eval_loss" in entry] == at
    saved = sorted(int(path.name.split("-")[1]) for path in folder.glob("checkpoint-*"))
    assert saved == (at or [6])


def test_training_stops_early_when_the_loss_no_longer_falls(tmp_path, base):
    values = LORA | {"apply_early_stopping": True, "early_stopping_patience": 2, "num_train_epochs": 20}
    _, folder = train(tmp_path, base, overfitting(tmp_path), **values)
    losses = history(folder, "eval_loss")
    assert len(losses) == losses.index(min(losses)) + 3 < 20


def order(n_rows: int = 12) -> DataOrder:
    """Three steps an epoch, six in all."""
    return DataOrder(n_rows, batch=2, accumulation=2, epochs=2, max_steps=-1, seed=1)


@pytest.mark.parametrize(
    ("values", "steps"),
    [
        pytest.param({"evaluation_strategy": "epoch"}, [3, 6], id="each epoch"),
        pytest.param({"evaluation_strategy": "steps", "eval_steps": 4}, [4, 6], id="every four steps, and the last"),
        pytest.param(
            {"evaluation_strategy": "steps", "evaluation_steps_interval": 0.7, "eval_steps": 5},
            [2, 4, 6],
            id="a share of an epoch, which wins over steps",
        ),
        pytest.param(
            {"evaluation_strategy": "steps", "evaluation_steps_interval": 0.01},
            [1, 2, 3, 4, 5, 6],
            id="a share of less than a step is a step",
        ),
    ],
)
def test_validation_is_due_by_its_strategy_and_at_the_end(values, steps):
    arguments = TrainingArguments.from_values(values)
    assert [step for step in range(1, 7) if is_due(step, arguments, order())] == steps


@pytest.mark.parametrize(
    ("losses", "threshold", "best_step", "stops"),
    [
        pytest.param([3, 2, 1], 0.0, 3, False, id="it falls"),
        pytest.param([3, 2, 2.5, 2.4], 0.0, 2, True, id="twice no better than the best"),
        pytest.param([3, 2, 2.5, 1.9], 0.0, 4, False, id="it falls again in time"),
        pytest.param([3, 2.9, 2.8], 0.5, 3, True, id="it falls by too little, and is the best all the same"),
    ],
)
def test_early_stopping_waits_for_its_patience(losses, threshold, best_step, stops):
    arguments = TrainingArguments.from_values({"apply_early_stopping": True, "early_stopping_patience": 2})
    state = TrainingState()
    for step, loss in enumerate(losses, 1):
        state.step = step
        note_loss(state, loss, threshold)
    assert (state.best_step, stops_early(state, arguments)) == (best_step, stops)
    assert not stops_early(state, TrainingArguments.from_values({}))


def test_the_trainer_takes_any_validator(tmp_path, base, prepared):
    """A network in, numbers out: the best step is the one whose `eval_loss` is the lowest."""
    request = TrainingRequest(base, prepared, tmp_path / "out", TrainingArguments.from_values(LORA | {"max_steps": 4}))
    run = assemble(replace(request, arguments=replace(request.arguments, evaluation_strategy="steps", eval_steps=1)))
    state = TrainingState()
    losses = iter([4.0, 2.0, 3.0, 5.0])
    networks = []

    def validator(packed):
        networks.append(packed)
        return {"eval_loss": next(losses), "eval_of_my_own": 1.0}

    request.output.mkdir()
    Trainer(run, state, History(run, state), validator).train()
    assert networks == [run.packed] * 4
    assert (state.best_step, state.best_loss) == (2, 2.0)
    assert [entry["step"] for entry in state.history if "eval_of_my_own" in entry] == [1, 2, 3, 4]


def test_a_batch_with_more_tokens_than_a_pass_of_training_is_several_passes_with_the_same_loss(tmp_path, base):
    prepared = write_prepared(tmp_path / "p", random_rows(8), random_rows(8, shortest=10, longest=30, seed=1))
    arguments = TrainingArguments.from_values(LORA)
    run = assemble(TrainingRequest(base, prepared, tmp_path / "out", arguments))
    sizes = []
    forward = run.stepper.forward
    run.stepper.forward = lambda loss: sizes.append(loss.args[1].n_tokens) or forward(loss)
    whole = make_validator(run, lambda: 1000)(run.packed)
    assert len(sizes) == 1
    parts = make_validator(run, lambda: 40)(run.packed)
    assert len(sizes) > 3 and max(sizes[1:]) <= 40
    assert parts["eval_loss"] == pytest.approx(whole["eval_loss"], rel=1e-5)
    assert parts["eval_mean_token_accuracy"] == whole["eval_mean_token_accuracy"]
