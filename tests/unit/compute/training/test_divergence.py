"""A loss that rises for long, told from one that is only noisy, and what becomes of the weights then."""

import json
import random

import pytest
import torch
from safetensors.torch import load_file

from mafunzo.compute.training.divergence import FEWEST_STEPS, block_steps, diverges, note, whole_blocks
from mafunzo.compute.training.objectives.objective import BatchLoss
from mafunzo.compute.training.objectives.supervised import Supervised
from mafunzo.compute.training.state import TrainingState
from mafunzo.compute.training.trainer import Trainer
from tests.support.tiny_training import learnable_rows, write_prepared
from tests.support.training_run import FULL, train

STEPS = FULL | {"max_steps": 60, "save_interval_s": 0}


@pytest.fixture
def rising(monkeypatch) -> list[float]:
    """Have these added to the losses of steps, which have one pass each; gradients stay as they are."""
    offsets = [0.0] * 20 + [0.2 * step for step in range(40)]
    inner, step = Supervised.loss, [0]

    def loss(self, packed, batch):
        result = inner(self, packed, batch)
        if not (torch.is_grad_enabled() and step[0]):
            return result
        return BatchLoss(result.loss_sum + offsets[step[0] - 1] * batch.n_targets, result.counts)

    def counted(self, batches):
        step[0] += 1
        return take(self, batches)

    take = Trainer.step
    monkeypatch.setattr(Supervised, "loss", loss)
    monkeypatch.setattr(Trainer, "step", counted)
    return offsets


def seen_at(losses: list[float], best_step: int | None = None) -> list[int]:
    """Return after which steps a run with these losses is taken for diverging."""
    state, steps = TrainingState(), []
    for state.step, loss in enumerate(losses, 1):
        if note(state, loss, len(losses)) and diverges(whole_blocks(state), best_step):
            steps.append(state.step)
    return steps


def noisy(means: list[float], spread: float = 0.3, seed: int = 0) -> list[float]:
    """Ten losses around each mean."""
    draw = random.Random(seed)
    return [max(0.0, draw.gauss(mean, spread)) for mean in means for _ in range(10)]


@pytest.mark.parametrize(
    ("means", "steps"),
    [
        pytest.param([3, 2, 1.5, 1.4, 1.3, 1.2], [], id="falls"),
        pytest.param([3, 2, 2, 2, 2, 2, 2, 2], [], id="stays"),
        pytest.param([3, 2, 3, 5, 7], [50], id="rises for three blocks"),
        pytest.param([3, 2, 3, 5, 7, 7, 7], [50, 60, 70], id="and stays high"),
        pytest.param([3, 2, 5, 4, 3, 2, 1], [], id="a spike from which it comes down"),
        pytest.param([3, 2, 5, 5, 2, 1.5], [], id="a rise of two blocks"),
        pytest.param([3, 2, 2.05, 2.05, 2.05, 2.05], [], id="too little"),
        pytest.param([3, 4, 5], [], id="too short to say"),
    ],
)
def test_a_loss_that_rises_for_long_is_told(means, steps):
    assert seen_at(noisy(means)) == steps


@pytest.mark.parametrize("seed", range(20))
def test_noise_of_small_data_is_no_divergence(seed):
    assert seen_at(noisy([2.0] * 30, spread=1.0, seed=seed)) == []
    assert seen_at(noisy([3.0 - 0.05 * block for block in range(30)], spread=1.0, seed=seed)) == []


def test_a_validation_loss_that_reached_a_new_low_meanwhile_stands_against_it():
    losses = noisy([3, 2, 3, 5, 7])
    assert seen_at(losses, best_step=20) == [50]
    assert seen_at(losses, best_step=45) == []


def test_blocks_grow_with_the_run():
    assert [block_steps(total) for total in (5, 400, 401, 4000)] == [FEWEST_STEPS, 10, 11, 100]


def test_a_run_without_validation_that_diverges_says_so_and_keeps_the_best_checkpoint(tmp_path, base, caplog, rising):
    prepared = write_prepared(tmp_path / "p", learnable_rows(24))
    with caplog.at_level("INFO"):
        results, folder = train(tmp_path, base, prepared, **STEPS)
    (line,) = [one.getMessage() for one in caplog.records if "It may have diverged" in one.getMessage()]
    assert line.startswith("The training loss rises: ") and "lower learning_rate or add a warm-up" in line
    told = json.loads((folder / "finetune_args.json").read_text())["diverged"]
    step = int(told.partition("the result is of step ")[2].partition(",")[0])
    assert told.endswith("the best by the training loss") and 20 <= step < results["diverged_at_step"]
    names = {path.name for path in folder.glob("checkpoint-*")}
    assert names == {f"checkpoint-{step}", "checkpoint-60"}
    saved, result = (
        load_file(folder / f"checkpoint-{step}" / "model.safetensors"),
        load_file(folder / "model.safetensors"),
    )
    assert all(saved[name].equal(result[name].float()) for name in result)


@pytest.mark.slow
def test_a_run_with_validation_that_diverges_keeps_the_best_by_that(tmp_path, base, rising):
    backwards = [(ids[::-1], [-100, -100, *ids[::-1][2:]]) for ids, _ in learnable_rows(8, seed=3)]
    prepared = write_prepared(tmp_path / "p", learnable_rows(24), backwards)
    values = STEPS | {"evaluation_strategy": "steps", "eval_steps": 5}
    results, folder = train(tmp_path, base, prepared, **values)
    told = json.loads((folder / "finetune_args.json").read_text())["diverged"]
    assert results["best_step"] < results["diverged_at_step"]
    assert told.endswith(f"the result is of step {results['best_step']:.0f}, the best by the validation loss")


@pytest.mark.slow
def test_a_loss_that_falls_again_is_told_too(tmp_path, base, caplog, rising):
    prepared = write_prepared(tmp_path / "p", learnable_rows(24))
    rising[20:] = [4.0] * 10 + [6.0] * 10 + [8.0] * 10 + [0.0] * 30
    with caplog.at_level("INFO"):
        results, _ = train(tmp_path, base, prepared, **STEPS | {"max_steps": 80})
    texts = [one.getMessage() for one in caplog.records]
    assert any("It may have diverged" in text for text in texts)
    assert any(text.startswith("The training loss falls again, to ") for text in texts)
    assert "diverged_at_step" not in results


def test_a_run_that_goes_well_says_nothing_of_it(tmp_path, base, prepared):
    results, folder = train(tmp_path, base, prepared, **FULL, max_steps=45)
    assert "diverged_at_step" not in results
    assert "diverged" not in json.loads((folder / "finetune_args.json").read_text())
