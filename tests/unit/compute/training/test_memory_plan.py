"""Tests of `mafunzo.compute.training.memory_plan`: what a token of a forward pass takes, and how many have room."""

import json
import weakref
from typing import ClassVar

import pytest
import torch

from mafunzo.compute.training import memory_plan
from mafunzo.compute.training.arguments import TrainingArguments
from mafunzo.compute.training.memory_plan import MOST_TOKENS, forward_tokens, plan_memory
from mafunzo.compute.training.objectives.objective import BatchLoss
from mafunzo.compute.training.objectives.supervised import Supervised
from mafunzo.compute.training.run import TrainingRequest, assemble
from mafunzo.errors import OutOfMemory
from tests.support.tiny_training import random_rows, write_prepared
from tests.support.training_run import LORA, history, train

GIGABYTE = 2**30


@pytest.mark.parametrize(
    ("budget", "tokens"),
    [
        pytest.param(1024 * 100, 1024, id="room for the most"),
        pytest.param(10**12, 1024, id="never more than pays"),
        pytest.param(1023 * 100, 512, id="a power of two, so that a little less plans the same"),
        pytest.param(512 * 100, 512, id="exactly"),
        pytest.param(150, 1, id="a token"),
        pytest.param(-5, 1, id="nothing: rows go one by one"),
    ],
)
def test_the_budget_decides_the_tokens_of_a_pass(budget: float, tokens: int) -> None:
    assert forward_tokens(budget, 100, 1024) == tokens


def run_of(tmp_path, base, prepared, **values):
    arguments = TrainingArguments.from_values({"apply_lora": True, **values})
    return assemble(TrainingRequest(base, prepared, tmp_path / "out", arguments))


def test_what_a_token_takes_is_counted(tmp_path, base):
    """Twice the tokens keep about twice the bytes; recomputed activations are fewer; the weights themselves don't count."""
    short = write_prepared(tmp_path / "short", random_rows(4, shortest=100, longest=101))
    long = write_prepared(tmp_path / "long", random_rows(4, shortest=200, longest=201))
    plans = [plan_memory(run_of(tmp_path, base, prepared)) for prepared in (short, long)]
    assert 0.8 < plans[1].bytes_per_token / plans[0].bytes_per_token < 2
    recomputed = plan_memory(run_of(tmp_path, base, long, gradient_checkpointing=True))
    assert 0 < recomputed.bytes_per_token < plans[1].bytes_per_token / 2
    weights = sum(weight.numel() for weight in run_of(tmp_path, base, long).network.parameters())
    assert plans[1].bytes_per_token * 200 > 0.1 * weights


def test_all_weights_need_gradients_and_the_optimizer_s_state(tmp_path, base, prepared):
    run = run_of(tmp_path, base, prepared, apply_lora=False)
    assert plan_memory(run).state_bytes == 12 * sum(weight.numel() for weight in run.network.parameters())


def test_a_limit_of_one_s_own_makes_smaller_passes(tmp_path, base, prepared, monkeypatch):
    monkeypatch.setattr(memory_plan, "used_bytes", lambda device: 10**9)
    plain = plan_memory(run_of(tmp_path, base, prepared))
    assert plain.forward_tokens == MOST_TOKENS["cpu"]
    limit = 1e9 + plain.state_bytes + 300 * plain.bytes_per_token * memory_plan.HEADROOM
    assert plan_memory(run_of(tmp_path, base, prepared, max_memory_gb=limit / 1e9)).forward_tokens == 256
    assert plan_memory(run_of(tmp_path, base, prepared, max_memory_gb=10_000)).forward_tokens == MOST_TOKENS["cpu"]


def test_a_limit_that_no_row_fits_into_is_refused_with_what_is_needed(tmp_path, base, monkeypatch):
    long = write_prepared(tmp_path / "long", random_rows(4, shortest=200, longest=201))
    monkeypatch.setattr(memory_plan, "used_bytes", lambda device: 10**9)
    with pytest.raises(OutOfMemory) as refusal:
        plan_memory(run_of(tmp_path, base, long, max_memory_gb=1))
    assert (
        "max_memory_gb is 1, and training needs about 1.00 GB: the longest row has 201 tokens" in refusal.value.message
    )


class Mark:
    """An object whose end can be seen."""


class Doubled(torch.autograd.Function):
    """A function that keeps its own result, as an exponential does."""

    marks: ClassVar[list[weakref.ref]] = []

    @staticmethod
    def forward(ctx, x):
        ctx.mark = Mark()
        Doubled.marks.append(weakref.ref(ctx.mark))
        out = x * 2
        ctx.save_for_backward(out)
        return out

    @staticmethod
    def backward(ctx, grad):
        raise AssertionError("planning goes forward only")


def test_what_planning_counts_it_frees(tmp_path, base, prepared, monkeypatch):
    run = run_of(tmp_path, base, prepared)
    weight = next(weight for weight in run.network.parameters() if weight.requires_grad)
    monkeypatch.setattr(Supervised, "loss", lambda *_: BatchLoss(Doubled.apply(weight).sum(), {}))
    plan_memory(run)
    assert [mark() for mark in Doubled.marks] == [None]


def test_what_a_pass_made_is_gone_when_the_next_begins(tmp_path, base, prepared, monkeypatch):
    losses: list[weakref.ref] = []
    loss = Supervised.loss

    def watched(self, packed, batch):
        assert all(earlier() is None for earlier in losses[1:])  # the first is the plan's
        result = loss(self, packed, batch)
        losses.append(weakref.ref(result.loss_sum))
        return result

    monkeypatch.setattr(Supervised, "loss", watched)
    monkeypatch.setattr(memory_plan, "forward_tokens", lambda *_: 1)
    train(tmp_path, base, prepared, "out", **LORA, evaluation_strategy="disable")
    assert len(losses) > 10


def test_planning_draws_no_random_number(tmp_path, base, prepared):
    run = run_of(tmp_path, base, prepared, lora_dropout=0.5)
    before = torch.random.get_rng_state()
    plan_memory(run)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_little_memory_makes_small_passes_and_the_same_losses(tmp_path, base, prepared, monkeypatch, caplog):
    _, plain = train(tmp_path, base, prepared, "plain", **LORA)
    monkeypatch.setattr(memory_plan, "free_bytes", lambda device: 2**20)
    with caplog.at_level("INFO"):
        _, little = train(tmp_path, base, prepared, "little", **LORA)
    tokens = json.loads((little / "finetune_args.json").read_text())["forward_tokens"]
    assert tokens < MOST_TOKENS["cpu"]
    assert f"Memory: up to {tokens:,} tokens in a forward pass" in caplog.text
    for key in ("loss", "grad_norm", "eval_loss"):
        assert history(little, key) == pytest.approx(history(plain, key), rel=1e-4)
