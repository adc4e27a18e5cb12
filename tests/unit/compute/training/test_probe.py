"""The probe: real passes of all the run, an evaluation and a checkpoint, measured."""

from dataclasses import replace

import pytest

from mafunzo.compute.training import probe as module
from mafunzo.compute.training.arguments import TrainingArguments
from mafunzo.compute.training.objectives.supervised import Supervised
from mafunzo.compute.training.probe import FEWEST_PASSES, MOST_PASSES, probe
from mafunzo.compute.training.ranks import Ranks
from mafunzo.compute.training.run import TrainingRequest, assemble
from tests.support.tiny_training import learnable_rows, random_rows, write_prepared
from tests.support.training_run import FULL, LORA, ZERO


def run_of(tmp_path, base, prepared, values):
    return assemble(TrainingRequest(base, prepared, tmp_path / "out", TrainingArguments.from_values(values)))


@pytest.mark.parametrize(
    "values", [LORA, FULL, pytest.param(ZERO, marks=pytest.mark.slow)], ids=["LoRA", "full", "DeepSpeed"]
)
def test_every_part_of_a_run_is_measured(tmp_path, base, prepared, values):
    measured = probe(run_of(tmp_path, base, prepared, values), 64)
    costs = measured.costs
    assert min(costs.token_s, costs.step_s, costs.validation_token_s, costs.save_s) > 0
    assert measured.passes == MOST_PASSES
    assert measured.peak_bytes > 2**20 and measured.checkpoint_bytes > 1000


def test_ranks_have_their_passes_of_a_step_in_the_same_turns_and_all_rows_between_them(tmp_path, base, prepared):
    """Some turns without rows, where a step's rows make more passes on the other rank."""
    alone = run_of(tmp_path, base, prepared, LORA | {"gradient_accumulation_steps": 2})
    one, other = (module._drawn_passes(replace(alone, ranks=Ranks(rank, 2)), 30) for rank in range(2))
    assert len(one) == len(other)
    assert not all([*one, *other]), "each rank had as many passes of each step"
    drawn = [ids.tolist() for rows in [*one, *other] for row in rows for ids, _ in row]
    expected = [ids.tolist() for rows in module._drawn_passes(alone, 30) for row in rows for ids, _ in row]
    assert sorted(drawn) == sorted(expected)


def test_without_validation_rows_that_costs_nothing(tmp_path, base):
    prepared = write_prepared(tmp_path / "p", learnable_rows(8))
    assert probe(run_of(tmp_path, base, prepared, LORA), 64).costs.validation_token_s == 0


def test_where_passes_are_slow_a_few_must_do(tmp_path, base, prepared):
    assert probe(run_of(tmp_path, base, prepared, LORA), 64, budget_s=0).passes == FEWEST_PASSES


def test_the_heaviest_pass_is_taken_with_gradients_and_optimizer_states_there(tmp_path, base, monkeypatch):
    """The longest row has a pass of its own, longer than any that the plan makes."""
    rows = [*random_rows(20, shortest=6, longest=8), *random_rows(1, shortest=40, longest=40)]
    run = run_of(tmp_path, base, write_prepared(tmp_path / "p", rows), LORA | {"gradient_accumulation_steps": 2})
    passes: list[tuple[int, bool]] = []
    loss = Supervised.loss

    def watched(self, packed, batch):
        passes.append((batch.n_tokens, bool(run.optimizer.state)))
        return loss(self, packed, batch)

    monkeypatch.setattr(Supervised, "loss", watched)
    probe(run, 16)
    assert passes[0][1] is False
    assert passes[1:3] == [(40, True), (40, True)]


def test_the_heaviest_validation_batch_is_taken_and_a_few_are_measured(tmp_path, base, monkeypatch):
    held_out = [*random_rows(60, shortest=6, longest=8), *random_rows(1, shortest=40, longest=40)]
    prepared = write_prepared(tmp_path / "p", learnable_rows(8), held_out)
    run = run_of(tmp_path, base, prepared, LORA | {"per_device_eval_batch_size": 2})
    sizes: list[int] = []
    validate = module._validate
    monkeypatch.setattr(
        module, "_validate", lambda run, rows, tokens: sizes.append(len(rows)) or validate(run, rows, tokens)
    )
    probe(run, 64)
    assert sizes == [1, module.VALIDATION_BATCHES * 2]  # the last batch has the long row alone
