"""DeepSpeed in place of the optimizer alone."""

import pytest
import torch
from safetensors.torch import load_file

from tests.support.training_run import FULL, LORA, history, train


@pytest.mark.parametrize("values", [LORA, FULL], ids=["LoRA", "full"])
def test_deepspeed_takes_the_same_steps(tmp_path, base, prepared, values, caplog):
    """With clipping that bites, weight decay and accumulation, over whole and cut steps; so does the folder's content."""
    values = values | {
        "max_grad_norm": 0.1,
        "weight_decay": 0.1,
        "gradient_accumulation_steps": 3,
        "num_train_epochs": 2,
    }
    _, plain = train(tmp_path, base, prepared, "plain", **values)
    with caplog.at_level("INFO"):
        _, zero = train(tmp_path, base, prepared, "zero", **values, apply_deepspeed=True)
    assert "DeepSpeed's ZeRO stage 2 takes the steps" in caplog.text
    for key in ("loss", "grad_norm", "eval_loss"):
        assert history(zero, key) == pytest.approx(history(plain, key), rel=1e-4)
    file = "adapter_model.safetensors" if values["apply_lora"] else "model.safetensors"
    ours, theirs = load_file(zero / file), load_file(plain / file)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-3, atol=1e-5)
