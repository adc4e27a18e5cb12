"""What a run leaves behind for good."""

import json
import math

import matplotlib.image
import peft
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from mafunzo.compute.model.loading import load_network
from tests.support.tiny_training import learnable_rows
from tests.support.training_run import FULL, LORA, history, logits, overfitting, train


def test_an_adapter_folder_is_what_peft_loads(tmp_path, base, prepared):
    _, folder = train(tmp_path, base, prepared, **LORA)
    theirs = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(folder)).eval()
    ours = load_network(base, folder)
    torch.testing.assert_close(logits(ours), logits(theirs), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logits(load_network(base, folder, merge=True)), logits(ours), rtol=1e-4, atol=1e-4)
    assert not list(folder.glob("model*.safetensors"))


def test_a_whole_model_folder_is_what_transformers_loads(tmp_path, base, prepared):
    _, folder = train(tmp_path, base, prepared, **FULL)
    theirs = AutoModelForCausalLM.from_pretrained(folder)
    torch.testing.assert_close(logits(load_network(folder)), logits(theirs))
    assert not torch.allclose(logits(theirs), logits(load_network(base)), atol=1e-2)


@pytest.mark.parametrize("values", [LORA, FULL], ids=["LoRA", "full"])
def test_the_output_has_everything_that_outlives_the_run(tmp_path, base, prepared, values):
    results, folder = train(tmp_path, base, prepared, **values)
    assert json.loads((folder / "all_results.json").read_text()) == results
    arguments = json.loads((folder / "finetune_args.json").read_text())
    assert arguments["learning_rate"] == values["learning_rate"]
    assert arguments["weight_decay"] == 0.0
    assert AutoTokenizer.from_pretrained(folder).chat_template
    picture = matplotlib.image.imread(folder / "loss.png")
    assert picture.shape[0] > 300 and picture.std() > 0.01
    state = json.loads((folder / "trainer_state.json").read_text())
    assert state["global_step"] == 6 and state["best_metric"] == min(history(folder, "eval_loss"))
    assert (folder / "checkpoint-6").is_dir()
    pickles = [p for p in folder.rglob("*") if p.suffix in {".bin", ".pt", ".pth", ".pkl"}]
    assert not pickles


@pytest.mark.parametrize("values", [LORA, FULL], ids=["LoRA", "full"])
def test_the_best_weights_are_the_result_not_the_last(tmp_path, base, values):
    _, folder = train(tmp_path, base, overfitting(tmp_path), **values, num_train_epochs=4)
    losses = history(folder, "eval_loss")
    best = 6 * (1 + losses.index(min(losses)))
    assert best != 24
    state = json.loads((folder / "trainer_state.json").read_text())
    assert state["best_model_checkpoint"] == f"checkpoint-{best}"
    name = "adapter_model.safetensors" if values is LORA else "model.safetensors"
    assert (folder / name).read_bytes() == (folder / f"checkpoint-{best}" / name).read_bytes()


def test_the_flos_and_tokens_are_counted(tmp_path, base, prepared):
    results, folder = train(tmp_path, base, prepared, **LORA)
    tokens = sum(len(ids) for ids, _ in learnable_rows(24))
    assert results["num_tokens"] == tokens
    weights = load_network(base, folder).num_parameters(exclude_embeddings=True)
    assert results["total_flos"] == pytest.approx(6.0 * tokens * weights)
    assert math.isfinite(results["train_tokens_per_second"])
