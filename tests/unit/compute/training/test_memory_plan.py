"""Tests of `mafunzo.compute.training.memory_plan`: what a token of a forward pass takes, and how many have room."""

import json
import weakref
from dataclasses import replace
from typing import ClassVar

import pytest
import torch
from transformers import Adafactor, AutoModelForCausalLM, LlamaConfig

from mafunzo import cgroup
from mafunzo.compute.training import memory_plan
from mafunzo.compute.training.arguments import TrainingArguments
from mafunzo.compute.training.head_loss import CHUNK, PART
from mafunzo.compute.training.live_memory import PassMemory
from mafunzo.compute.training.memory_plan import (
    MOST_TOKENS,
    Costs,
    fit,
    forward_tokens,
    head_positions,
    optimizer_bytes,
    plan_memory,
)
from mafunzo.compute.training.objectives.objective import BatchLoss
from mafunzo.compute.training.objectives.supervised import Supervised
from mafunzo.compute.training.run import TrainingRequest, assemble
from mafunzo.errors import OutOfMemory
from tests.support.tiny_training import SIZES, random_rows, write_prepared
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
    assert forward_tokens(lambda n: n * 100, budget, 1024) == tokens


def run_of(tmp_path, base, prepared, **values):
    arguments = TrainingArguments.from_values({"apply_lora": True, **values})
    return assemble(TrainingRequest(base, prepared, tmp_path / "out", arguments))


def deep_base(folder, layers=8):
    """A base of which recomputed layers save most."""
    config = LlamaConfig(**SIZES | {"num_hidden_layers": layers})
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def test_what_a_token_takes_is_counted(tmp_path):
    """Twice the tokens keep about twice the bytes; recomputed activations are fewer; the weights themselves don't count."""
    base = deep_base(tmp_path / "base")
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
    limit = 1e9 + plain.state_bytes + 300 * plain.bytes_per_token * memory_plan.FRAGMENTATION["cpu"]
    assert plan_memory(run_of(tmp_path, base, prepared, max_memory_gb=limit / 1e9)).forward_tokens == 256
    assert plan_memory(run_of(tmp_path, base, prepared, max_memory_gb=10_000)).forward_tokens == MOST_TOKENS["cpu"]


def test_a_limit_that_no_row_fits_into_is_refused_with_what_is_needed(tmp_path, base, monkeypatch):
    long = write_prepared(tmp_path / "long", random_rows(4, shortest=200, longest=201))
    monkeypatch.setattr(memory_plan, "used_bytes", lambda device: 10**9)
    with pytest.raises(OutOfMemory) as refusal:
        plan_memory(run_of(tmp_path, base, long, max_memory_gb=1))
    assert (
        "max_memory_gb is 1, and training needs about 1.00 GB, all layers computed again: the longest row has 201 tokens"
        in refusal.value.message
    )


COSTS = Costs(PassMemory.of_line(0, 1000), PassMemory.of_line(0, 280), layers=10)


@pytest.mark.parametrize(
    ("budget", "longest", "step_tokens", "expected"),
    [
        pytest.param(1024 * 1000, 300, 4000, (1024, 0), id="all has room"),
        pytest.param(512 * 1000, 300, 4000, (512, 0), id="a useful pass has room"),
        pytest.param(512 * 920, 300, 4000, (512, 1), id="as few layers as needed"),
        pytest.param(512 * 300, 300, 4000, (512, 9), id="nearly all"),
        pytest.param(512 * 100, 300, 4000, (128, 10), id="too little even so: smaller passes"),
        pytest.param(700 * 600, 700, 4000, (512, 5), id="a longer row needs room of its own"),
        pytest.param(200 * 1000, 100, 200, (128, 0), id="a step of few tokens needs no more than those"),
    ],
)
def test_layers_are_recomputed_as_few_as_let_a_pass_be_useful(budget, longest, step_tokens, expected):
    fewest = max(longest, min(512, step_tokens))
    assert fit(COSTS.peak, COSTS.layers, budget, fewest, 1024) == expected


def test_layers_are_recomputed_where_a_row_has_no_room_and_the_losses_stay(tmp_path, monkeypatch, caplog):
    base = deep_base(tmp_path / "base")
    prepared = write_prepared(tmp_path / "rows", random_rows(8, shortest=200, longest=201))
    _, plain = train(tmp_path, base, prepared, "plain", **LORA)
    whole = plan_memory(run_of(tmp_path, base, prepared, **LORA))
    room = whole.state_bytes + 512 * whole.bytes_per_token * memory_plan.FRAGMENTATION["cpu"]
    monkeypatch.setattr(memory_plan, "free_bytes", lambda device: room / memory_plan.SHARE)
    run = run_of(tmp_path, base, prepared, **LORA)
    plan = plan_memory(run)
    recomputed = [layer.gradient_checkpointing for layer in run.network.model.layers]
    assert plan.recomputed_layers == sum(recomputed) > 0 and plan.forward_tokens >= 512 > 201
    with caplog.at_level("INFO"):
        _, little = train(tmp_path, base, prepared, "little", **LORA)
    assert f"{plan.recomputed_layers} of 8 layers computed again" in caplog.text
    assert history(little, "loss") == pytest.approx(history(plain, "loss"), rel=1e-5)


def test_attention_weights_of_all_rows_and_layers_stay_within_their_share(tmp_path, base, monkeypatch):
    prepared = write_prepared(tmp_path / "rows", random_rows(8, shortest=200, longest=201))
    plan = plan_memory(run_of(tmp_path, base, prepared, **LORA))
    # 2 layers of 4 heads, float32, four rows a step
    assert plan.attention_bytes == 2 * sum(4 * (n * (n + 128) // 2) * 4 for n in (201, 201, 201, 201))
    monkeypatch.setattr(memory_plan, "free_bytes", lambda device: (plan.state_bytes + 8 * 10_000) / memory_plan.SHARE)
    assert 0 < plan_memory(run_of(tmp_path, base, prepared, **LORA)).attention_bytes <= 10_000


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        pytest.param("adamw_torch", (6, 5), 2 * 30 * 4, id="AdamW"),
        pytest.param("adafactor", (6, 5), 11 * 4, id="Adafactor's rows and columns"),
        pytest.param("adafactor", (3, 6, 5), 3 * 11 * 4, id="of each matrix"),
        pytest.param("adafactor", (7,), 7 * 4, id="and of a vector each number"),
    ],
)
def test_an_optimizer_s_state_is_what_it_holds(name, shape, expected):
    weight = torch.nn.Parameter(torch.ones(shape))
    assert optimizer_bytes(weight, name) == expected
    weight.grad = torch.ones(shape)
    kind = (
        torch.optim.AdamW([weight], lr=0.1) if name != "adafactor" else Adafactor([weight], lr=0.1, relative_step=False)
    )
    kind.step()
    held = [value for value in kind.state[weight].values() if torch.is_tensor(value) and value.dim()]
    assert sum(value.nbytes for value in held) == expected


@pytest.mark.parametrize(
    "values",
    [
        pytest.param({}, id="AdamW"),
        pytest.param({"optim": "sgd"}, id="SGD, nothing"),
        pytest.param({"optim": "sgd", "momentum": 0.9}, id="SGD's momentum"),
        pytest.param({"optim": "muon"}, id="Muon's momentum, and AdamW's of embeddings and norms"),
    ],
)
def test_the_state_is_planned_as_large_as_it_becomes(tmp_path, base, prepared, values):
    run = run_of(tmp_path, base, prepared, apply_lora=False, **values)
    planned = plan_memory(run).state_bytes
    for weight in run.network.parameters():
        weight.grad = torch.zeros_like(weight)
    gradients = sum(weight.nbytes for weight in run.network.parameters())
    run.optimizer.step()
    states = [value for state in run.optimizer.state.values() for value in state.values() if value is not None]
    assert planned - gradients == sum(state.nbytes for state in states if state.dim())


def test_what_a_resumed_run_holds_of_the_state_is_not_counted_twice(tmp_path, base, prepared):
    run = run_of(tmp_path, base, prepared, apply_lora=False)
    weights = sum(weight.numel() for weight in run.network.parameters())
    for weight in run.network.parameters():
        weight.grad = torch.zeros_like(weight)
    run.optimizer.step()
    assert 0 <= plan_memory(run).state_bytes - 4 * weights < 100


@pytest.mark.parametrize("version", [1, 2])
def test_a_machine_of_8_gb_is_planned_within(version, tmp_path, base, monkeypatch):
    root, membership = tmp_path / "cgroup", tmp_path / "membership"
    group = root / ("memory/box" if version == 1 else "box")
    group.mkdir(parents=True)
    names = ("limit_in_bytes", "usage_in_bytes") if version == 1 else ("max", "current")
    (group / f"memory.{names[0]}").write_text("8000000000")
    (group / f"memory.{names[1]}").write_text("7000000000")
    membership.write_text("4:memory:/box\n" if version == 1 else "0::/box\n")
    monkeypatch.setattr(cgroup, "ROOT", root)
    monkeypatch.setattr(cgroup, "MEMBERSHIP", membership)
    prepared = write_prepared(tmp_path / "rows", random_rows(8, shortest=200, longest=201))
    run = run_of(tmp_path, base, prepared, **LORA)
    counted = iter(
        [PassMemory.of_line(0, 2_000_000), PassMemory.of_line(0, 290_000)]
    )  # whole, and all layers recomputed
    monkeypatch.setattr(memory_plan, "_pass_memory", lambda *_: next(counted))
    monkeypatch.setattr(memory_plan, "recomputable_layers", lambda _: 20)
    monkeypatch.setattr(memory_plan, "recomputed_layers", lambda _: 0)
    monkeypatch.setattr(memory_plan, "recompute_layers", lambda *_: None)
    plan = plan_memory(run)
    assert plan.free_bytes <= 1_000_000_000
    assert plan.peak_bytes - memory_plan.used_bytes(run.device) < 0.75e9
    assert plan.forward_tokens >= 512 and plan.recomputed_layers > 0


@pytest.mark.parametrize(
    ("values", "is_copied"),
    [
        pytest.param({"evaluation_strategy": "disable"}, False, id="at the end alone"),
        pytest.param({"evaluation_strategy": "steps", "eval_steps": 2}, True, id="after an evaluation"),
        pytest.param({"evaluation_strategy": "disable", "save_interval_s": 0}, True, id="by the clock"),
    ],
)
def test_a_checkpoint_s_copy_counts_where_training_goes_on_meanwhile(tmp_path, base, prepared, values, is_copied):
    run = run_of(tmp_path, base, prepared, apply_lora=False, **values)
    weights = sum(weight.nbytes for weight in run.network.parameters())
    assert memory_plan._surroundings(run, 19, 0, 256).copy == (3 * weights if is_copied else 0)


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
        return grad * 2


def test_what_planning_counts_it_frees(tmp_path, base, prepared, monkeypatch):
    run = run_of(tmp_path, base, prepared)
    weight = next(weight for weight in run.network.parameters() if weight.requires_grad)
    monkeypatch.setattr(Supervised, "loss", lambda *_: BatchLoss(Doubled.apply(weight).sum(), {}))
    plan_memory(run)
    assert Doubled.marks and all(mark() is None for mark in Doubled.marks)


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


def test_the_plan_is_recorded_beside_what_was_measured(tmp_path, base, prepared):
    results, folder = train(tmp_path, base, prepared, "out", **LORA)
    recorded = json.loads((folder / "finetune_args.json").read_text())["memory_plan"]
    assert recorded["recomputed_layers"] == 0 and recorded["layers"] == 2
    written = json.loads((folder / "all_results.json").read_text())
    assert written["planned_peak_memory_bytes"] == results["planned_peak_memory_bytes"] == recorded["peak_bytes"] > 5e7
    assert written["peak_memory_bytes"] > 5e7


def test_a_budget_after_an_end_for_want_of_memory_makes_smaller_passes_and_refuses_nothing(
    tmp_path, base, prepared, monkeypatch
):
    monkeypatch.setattr(memory_plan, "used_bytes", lambda device: 10**9)
    run = run_of(tmp_path, base, prepared)
    plain = plan_memory(run)
    assert plain.budget_bytes == 0 and "was ended" not in str(plain)
    budget = round(
        1e9 + plain.state_bytes + plain.head_bytes + 400 * plain.bytes_per_token * memory_plan.FRAGMENTATION["cpu"]
    )
    for told, tokens in ((budget, {128, 256}), (1, {1})):
        run = run_of(tmp_path, base, prepared)
        plan = plan_memory(replace(run, request=replace(run.request, memory_budget_bytes=told)))
        assert plan.forward_tokens in tokens and plan.budget_bytes == told
        assert "may be taken, as an earlier attempt was ended for want of memory" in str(plan)
    assert (plan.recomputed_layers, plan.head_chunk) == (2, PART)


@pytest.mark.parametrize(
    ("budget", "positions"),
    [
        pytest.param(10**9, CHUNK, id="as many as pay"),
        pytest.param(100 * 1000 * 4 + 3 * PART * 1000 * 4, 64, id="a power of two that has room"),
        pytest.param(0, PART, id="a part at least"),
    ],
)
def test_logits_at_a_time_follow_from_budget_and_vocabulary(budget, positions):
    assert head_positions(budget, vocabulary=1000, element_bytes=4) == positions


def test_what_a_pass_of_any_length_keeps_is_counted_once(tmp_path, base, monkeypatch):
    """The gradient of a trained head is kept from the forward pass, as large for one token as for a thousand."""
    run = run_of(
        tmp_path, base, write_prepared(tmp_path / "rows", random_rows(4, shortest=100, longest=101)), apply_lora=False
    )
    memory, head = memory_plan._pass_memory(run, 0), run.network.get_output_embeddings().weight
    moment = int(memory.logits.nonzero()[0][-1])
    assert memory.fixed[moment] == pytest.approx(2 * head.numel() * 4, rel=0.1)  # a product is added to what was there


def test_a_probe_that_memory_has_no_room_for_takes_fewer_tokens(tmp_path, base, monkeypatch):
    prepared = write_prepared(tmp_path / "long", random_rows(4, shortest=200, longest=201))
    inner, most = Supervised.loss, [20]

    def loss(self, packed, batch):
        if len(batch.ids_T) > most[0]:
            raise MemoryError
        return inner(self, packed, batch)

    monkeypatch.setattr(Supervised, "loss", loss)
    assert plan_memory(run_of(tmp_path, base, prepared)).bytes_per_token > 0
    most[0] = 5
    with pytest.raises(OutOfMemory, match=r"Out of memory before the first step, in a pass of 16 tokens: the network"):
        plan_memory(run_of(tmp_path, base, prepared))


def test_what_the_counted_passes_took_is_given_back_before_the_first_step(tmp_path, base, prepared, monkeypatch):
    """Else the process would hold it beside what the plan counts with."""
    events: list[str] = []
    inner = memory_plan._run_pass
    monkeypatch.setattr(memory_plan, "_run_pass", lambda *args: events.append("pass") or inner(*args))
    monkeypatch.setattr(memory_plan, "release", lambda device: events.append("release"))
    plan_memory(run_of(tmp_path, base, prepared))
    assert events[-1] == "release" and events.count("release") == 1 and "pass" in events
