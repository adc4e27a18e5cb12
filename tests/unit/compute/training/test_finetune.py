"""Fine-tuning as a whole, from folders to a folder."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from mafunzo.compute.model.loading import load_network
from mafunzo.errors import InvalidParameter
from tests.support.tiny_training import random_rows, write_prepared
from tests.support.training_run import FULL, LORA, history, train


@pytest.mark.parametrize("values", [LORA, FULL], ids=["LoRA", "full"])
@pytest.mark.parametrize("optim", ["adamw_torch", "adafactor"])
def test_training_lowers_the_loss_on_held_out_rows(tmp_path, base, prepared, values, optim):
    _, folder = train(tmp_path, base, prepared, **values, optim=optim, num_train_epochs=3)
    losses = history(folder, "eval_loss")
    assert len(losses) == 3
    assert losses[-1] < losses[0] * 0.9


def test_with_no_adapter_trained_yet_the_first_loss_is_the_base_s(tmp_path, base):
    rows = random_rows(4)
    prepared = write_prepared(tmp_path / "p", rows)
    _, folder = train(tmp_path, base, prepared, **LORA)
    network = AutoModelForCausalLM.from_pretrained(base)
    total, count = 0.0, 0
    for ids, labels in rows:
        shifted = torch.tensor(labels[1:])
        out = network(torch.tensor([ids])).logits[0, :-1].detach()
        total += float(torch.nn.functional.cross_entropy(out, shifted, reduction="sum"))
        count += int((shifted != -100).sum())
    assert history(folder, "loss")[0] == pytest.approx(total / count, rel=1e-5)


def test_a_tuned_model_is_the_base_of_the_next(tmp_path, base, prepared):
    _, first = train(tmp_path, base, prepared, "first", **FULL)
    _, second = train(tmp_path, first, prepared, "second", **LORA)
    assert history(second, "loss")[0] < history(first, "loss")[0]


def test_in_16_bits_training_computes_in_bfloat16_with_float32_factors(tmp_path, base, prepared, monkeypatch):
    monkeypatch.setattr("mafunzo.compute.device.precision.instruction_sets", lambda: frozenset({"avx512_bf16"}))
    for name, values in (("lora", LORA), ("full", FULL)):
        _, folder = train(tmp_path, base, prepared, name, **values, precision="16")
        assert json.loads((folder / "finetune_args.json").read_text())["computed_in"] == "bfloat16"
        losses = history(folder, "loss")
        assert losses[-1] < losses[0]
    assert load_network(tmp_path / "full").dtype == torch.bfloat16


def test_all_faults_of_the_parameters_come_at_once(tmp_path, base, prepared):
    with pytest.raises(InvalidParameter) as caught:
        train(tmp_path, base, prepared, max_steps=0, lora_target_modules="q_proj")
    assert len(caught.value.faults) == 2
    assert not (tmp_path / "out").exists()
