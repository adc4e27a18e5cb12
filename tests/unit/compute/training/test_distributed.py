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


def test_a_configuration_of_ones_own_reaches_deepspeed(tmp_path, base, prepared, caplog, monkeypatch):
    import deepspeed

    settings, initialize = {}, deepspeed.initialize
    monkeypatch.setattr(
        deepspeed, "initialize", lambda **given: settings.update(given["config"]) or initialize(**given)
    )
    zero = {"stage": 1, "reduce_bucket_size": "auto", "offload_optimizer": {"device": "cpu"}}
    body = {"zero_optimization": zero, "gradient_clipping": 0.5, "train_batch_size": "auto", "steps_per_print": 7}
    values = FULL | {"max_grad_norm": 0.5, "max_steps": 2, "evaluation_strategy": "disable", "apply_deepspeed": True}
    with caplog.at_level("INFO"):
        train(tmp_path, base, prepared, "own", deepspeed=body, **values)
    assert settings["zero_optimization"] == {"stage": 1, "reduce_bucket_size": 32 * 32}
    assert (settings["gradient_clipping"], settings["steps_per_print"]) == (0.5, 7)
    assert "DeepSpeed's ZeRO stage 1 takes the steps, as configured" in caplog.text
    assert "Nothing is offloaded" in caplog.text
