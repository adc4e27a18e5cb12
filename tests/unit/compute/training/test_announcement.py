"""What is said before the first step."""

import json

from tests.support.tiny_training import learnable_rows, write_prepared
from tests.support.training_run import LORA, train


def test_before_the_first_step_it_says_what_it_trains(tmp_path, base, prepared, caplog):
    with caplog.at_level("INFO"):
        train(tmp_path, base, prepared, **LORA, number_of_gpu_to_use_finetuning=2, num_nodes_finetune=2)
    text = caplog.text
    for words in (
        "LoRA r=4 on 14 layers",
        "Rows: 24 to train on",
        "Steps: 2 of 16 rows (4 x 4), 1.00 epochs",
        "Computes in float32 on cpu",
        "Asked for 4 GPUs, one process trains (GPUs here: 0): steps of 16 rows keep the effective batch",
        "trained pieces in [[ ]]: w",
        "Estimate: about",
    ):
        assert words in text


def test_without_validation_rows_the_last_weights_are_kept_and_that_is_said(tmp_path, base, caplog):
    prepared = write_prepared(tmp_path / "p", learnable_rows(8))
    with caplog.at_level("INFO"):
        _, folder = train(tmp_path, base, prepared, **LORA)
    assert "no validation rows" in caplog.text
    last = (folder / "checkpoint-2" / "adapter_model.safetensors").read_bytes()
    assert (folder / "adapter_model.safetensors").read_bytes() == last


def test_a_cpu_without_bfloat16_computes_in_float32_and_says_so(tmp_path, base, prepared, monkeypatch, caplog):
    monkeypatch.setattr("mafunzo.compute.device.precision.instruction_sets", lambda: frozenset({"avx2"}))
    with caplog.at_level("INFO"):
        _, folder = train(tmp_path, base, prepared, **LORA, precision="16")
    assert "doesn't compute in bfloat16: float32 instead" in caplog.text
    assert json.loads((folder / "finetune_args.json").read_text())["computed_in"] == "float32"
