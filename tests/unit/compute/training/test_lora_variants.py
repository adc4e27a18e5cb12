"""Variants of LoRA train as peft's: they start alike from the same seed, have the same losses, and serve what they trained."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft.optimizers import create_loraplus_optimizer
from torch.nn.functional import cross_entropy

from mafunzo.compute.model.loading import load_network
from mafunzo.errors import FailedError, InvalidParameter
from tests.support.tiny_training import learnable_rows, write_prepared
from tests.support.training_run import LORA, history, logits, train

STEPS, SEED, RATE = 20, 3, 0.01
TOLERANCE = 1e-4
"""Between losses of some 4 nats in float32, after 20 steps whose sums are taken in another order."""
SHAPE = {"lora_r": 4, "lora_alpha": 8}
VARIANTS = {
    "rank-stabilized, ranks and alphas of their own": (
        {"use_rslora": True, "rank_pattern": '{"q_proj": 2}', "alpha_pattern": '{"layers.0.mlp.up_proj": 5}'},
        {"use_rslora": True, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"layers.0.mlp.up_proj": 5}},
    ),
    "LoRA+ of a normal start on some layers": (
        {
            "loraplus_lr_ratio": 4.0,
            "weight_decay": 0.1,
            "init_lora_weights": "gaussian",
            "layers_to_transform": "1",
            "lora_target_modules": "q_proj,k_proj,down_proj",
            "exclude_modules": "k_proj",
        },
        {
            "init_lora_weights": "gaussian",
            "layers_to_transform": [1],
            "target_modules": ["q_proj", "k_proj", "down_proj"],
            "exclude_modules": ["k_proj"],
        },
    ),
    "DoRA with LoRA+": (
        {"use_dora": True, "loraplus_lr_ratio": 2.0, "lora_target_modules": "q_proj,down_proj"},
        {"use_dora": True, "target_modules": ["q_proj", "down_proj"]},
    ),
    "PiSSA": ({"init_lora_weights": "pissa"}, {"init_lora_weights": "pissa"}),
    "PiSSA found fast, rank-stabilized, on a pattern": (
        {"init_lora_weights": "pissa_niter_4", "use_rslora": True, "lora_target_modules": r".*\.(o|gate|down)_proj"},
        {"init_lora_weights": "pissa_niter_4", "use_rslora": True, "target_modules": r".*\.(o|gate|down)_proj"},
    ),
}
SLOW = ("LoRA+ of a normal start on some layers", "PiSSA found fast, rank-stabilized, on a pattern")
ROWS = learnable_rows(4)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [pytest.param(*both, id=name, marks=[pytest.mark.slow] if name in SLOW else []) for name, both in VARIANTS.items()],
)
def test_a_variant_trains_as_peft_s_and_is_served_as_it_was_trained(tmp_path, base, ours, theirs):
    prepared = write_prepared(tmp_path / "p", ROWS, ROWS)
    values = LORA | SHAPE | {
        "learning_rate": RATE,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "max_steps": STEPS,
        "evaluation_strategy": "steps",
        "eval_steps": STEPS,
        "seed": SEED,
    } | ours  # fmt: skip
    network = peft_network(base, theirs)
    losses = peft_losses(network, values)
    _, output = train(tmp_path, base, prepared, **values)
    assert history(output, "loss") == pytest.approx(losses, abs=TOLERANCE)
    assert losses[-1] < losses[0] - 0.1, "nothing was learned, so that equal losses say nothing"
    served, merged = (load_network(base, output, merge=is_merged) for is_merged in (False, True))
    with torch.no_grad():
        assert history(output, "eval_loss")[-1] == pytest.approx(float(loss_of(served)), abs=1e-5)
    torch.testing.assert_close(logits(merged), logits(served), rtol=1e-4, atol=1e-4)
    plain = peft.PeftModel.from_pretrained(load_network(base), str(output)).eval()
    torch.testing.assert_close(logits(plain), logits(served), rtol=1e-4, atol=1e-4)


def peft_network(base: Path, options: Mapping[str, Any]) -> peft.PeftModel:
    network = load_network(base)
    torch.manual_seed(SEED)
    config = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    return peft.get_peft_model(network, peft.LoraConfig(**config | options)).train()


def peft_losses(network: peft.PeftModel, values: Mapping[str, Any]) -> list[float]:
    """Train with the slow, obvious loop, and return the loss of each step."""
    decay, ratio = values.get("weight_decay", 0.0), values.get("loraplus_lr_ratio")
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=RATE, weight_decay=decay)
    if ratio:
        options = {"lr": RATE, "loraplus_lr_ratio": ratio, "loraplus_weight_decay": decay}
        optimizer = create_loraplus_optimizer(network, torch.optim.AdamW, **options)
    losses = []
    for _ in range(STEPS):
        loss = loss_of(network)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


def loss_of(network: torch.nn.Module) -> torch.Tensor:
    """The mean over all labels of all rows."""
    sums = [
        cross_entropy(network(torch.tensor([ids])).logits[0, :-1], torch.tensor(labels[1:]), reduction="sum")
        for ids, labels in ROWS
    ]
    return sum(sums) / sum(label != -100 for _, labels in ROWS for label in labels[1:])


def test_training_that_goes_on_from_a_checkpoint_of_pissa_is_the_same_to_the_bit(tmp_path, base, prepared):
    values = LORA | {"init_lora_weights": "pissa", "evaluation_strategy": "steps", "eval_steps": 2}
    values["lr_scheduler_type"] = "constant"
    _, whole = train(tmp_path, base, prepared, "whole", **values, max_steps=4)
    _, first = train(tmp_path, base, prepared, "first", **values, max_steps=2)
    _, rest = train(tmp_path, base, prepared, "first", **values, max_steps=4, resume_from_checkpoint=True)
    assert first == rest
    assert history(rest, "loss") == history(whole, "loss")
    assert (rest / "adapter_model.safetensors").read_bytes() == (whole / "adapter_model.safetensors").read_bytes()


def test_what_would_train_nothing_is_refused_before_the_first_step(tmp_path, base, prepared):
    with pytest.raises(InvalidParameter, match="0 at each of the 1 steps, and nothing would be trained: the warm-up"):
        train(tmp_path, base, prepared, **LORA, max_steps=1, warmup_steps=1)
    with pytest.raises(InvalidParameter, match="init_lora_weights pissa can't start from the weights") as caught:
        train(tmp_path, base, prepared, **LORA | {"lora_r": 33}, init_lora_weights="pissa", layers_to_transform="0")
    assert "model.layers.0.self_attn.q_proj has 32 singular values, and its rank is 33." in caught.value.faults[0]


@pytest.mark.parametrize("start", ["true", "pissa"])
def test_an_adapter_that_is_as_it_began_is_no_result(tmp_path, base, prepared, start, monkeypatch):
    monkeypatch.setattr("torch.optim.AdamW.step", lambda self: None)
    with pytest.raises(FailedError, match="Training changed nothing: after 2 steps the adapter is as it began"):
        train(tmp_path, base, prepared, **LORA, max_steps=2, init_lora_weights=start)
    assert not (tmp_path / "out" / "adapter_model.safetensors").exists()
