"""DeepSpeed in place of the optimizer alone."""

import weakref
from collections import Counter

import pytest
import torch
from safetensors.torch import load_file

from mafunzo.compute.device.precision import Precision
from mafunzo.compute.training import run as run_module
from mafunzo.compute.training.arguments import TrainingArguments
from mafunzo.compute.training.batch import pack
from mafunzo.compute.training.memory_plan import plan_memory
from mafunzo.compute.training.objectives.objective import BatchLoss
from mafunzo.compute.training.run import TrainingRequest, assemble
from mafunzo.compute.training.zero3 import keep_weights_whole
from tests.support.tiny_training import tiny
from tests.support.training_run import FULL, LORA, history, train

ZERO3 = FULL | {"apply_deepspeed": True, "deepspeed_stage": "3"}


@pytest.mark.parametrize("stage", ["2", pytest.param("3", marks=pytest.mark.slow)])
@pytest.mark.parametrize("values", [LORA, FULL], ids=["LoRA", "full"])
def test_deepspeed_takes_the_same_steps(tmp_path, base, prepared, values, stage, caplog):
    """With clipping that bites, weight decay and accumulation, over whole and cut steps; so does the folder's content."""
    values = values | {
        "max_grad_norm": 0.1,
        "weight_decay": 0.1,
        "gradient_accumulation_steps": 3,
        "num_train_epochs": 2,
    }
    _, plain = train(tmp_path, base, prepared, "plain", **values)
    with caplog.at_level("INFO"):
        _, zero = train(tmp_path, base, prepared, "zero", **values, apply_deepspeed=True, deepspeed_stage=stage)
    assert f"DeepSpeed's ZeRO stage {stage} takes the steps" in caplog.text
    for key in ("loss", "grad_norm", "eval_loss"):
        assert history(zero, key) == pytest.approx(history(plain, key), rel=1e-4)
    file = "adapter_model.safetensors" if values["apply_lora"] else "model.safetensors"
    ours, theirs = load_file(zero / file), load_file(plain / file)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("values", [LORA, pytest.param(FULL, marks=pytest.mark.slow)], ids=["LoRA", "full"])
def test_stage_3_takes_the_same_steps_in_bfloat16(tmp_path, base, prepared, values, monkeypatch):
    """Also where a processor has no instructions for it: an adapter in float32 beside weights in bfloat16, or all in float32."""
    held = torch.bfloat16 if values["apply_lora"] else torch.float32
    precision = Precision(torch.bfloat16, held, needs_autocast=not values["apply_lora"])
    monkeypatch.setattr(run_module, "choose", lambda *_: precision)
    values = values | {"max_steps": 2}
    _, plain = train(tmp_path, base, prepared, "plain", **values)
    _, zero = train(tmp_path, base, prepared, "zero", **values, apply_deepspeed=True, deepspeed_stage="3")
    for key in ("loss", "grad_norm", "eval_loss"):
        assert history(zero, key) == pytest.approx(history(plain, key), rel=1e-4)


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


def test_stage_3_leaves_nothing_of_itself_behind(tmp_path, base, prepared):
    """Neither torch's product, which DeepSpeed may replace for the whole process, nor a root on its stack."""
    from deepspeed.runtime.zero.parameter_offload import FWD_MODULE_STACK

    product = torch.nn.functional.linear
    train(tmp_path, base, prepared, "out", **ZERO3, max_steps=2)
    assert torch.nn.functional.linear is product
    assert FWD_MODULE_STACK == []


def assembled(tmp_path, base, prepared, **values):
    return assemble(TrainingRequest(base, prepared, tmp_path / "out", TrainingArguments.from_values(ZERO3 | values)))


@pytest.mark.parametrize("values", [{}, LORA], ids=["full", "LoRA"])
def test_starting_stage_3_moves_neither_weights_nor_the_optimizers_state(tmp_path, base, prepared, values):
    """Where the optimizer's state were made by a step of DeepSpeed's own, weight decay would move weights, and count a step."""
    run = assembled(tmp_path, base, prepared, **values, weight_decay=0.5)
    gathered = run.stepper.gathered()
    assert (dict(run.optimizer.state), gathered.optimizer) == ({}, {})
    if not values:
        stored = load_file(base / "model.safetensors")
        assert all(torch.equal(gathered.weights[name], tensor) for name, tensor in stored.items())


def test_between_forward_and_backward_nothing_holds_what_stage_3_gathered_of_a_weight():
    """A view of it that autograd kept would; DeepSpeed puts other memory behind the weight after each pass."""
    network = tiny().requires_grad_(True)
    list(keep_weights_whole(network))
    linear, x = network.model.layers[0].mlp.up_proj, torch.randn(3, 32, requires_grad=True)
    whole = linear.weight.detach().clone()
    gathered = weakref.ref(linear.weight.untyped_storage())
    y = linear(x)
    linear.weight.data = torch.empty(0)
    assert gathered() is None
    linear.weight.data = whole
    y.sum().backward()
    torch.testing.assert_close(x.grad, whole.sum(0).expand(3, -1))


def test_a_weight_that_no_pass_of_a_step_used_has_no_gradient_of_an_earlier_step(tmp_path, base, prepared):
    run = assembled(tmp_path, base, prepared, max_grad_norm=0.0)
    table = run.network.get_input_embeddings()
    run.stepper.backward(run.loss(pack([run.rows.row(0)])).loss_sum, is_last=True)
    run.stepper.step()
    loss = run.stepper.forward(lambda: BatchLoss(table(torch.tensor([3, 4])).sum(), Counter())).loss_sum
    run.stepper.backward(loss, is_last=True)
    assert run.stepper.step() == pytest.approx(8.0)  # 64 numbers of the table, each with a gradient of 1


def test_stage_3_is_planned_with_the_logits_that_its_head_makes(tmp_path, base, prepared):
    """Though between passes a rank has nothing of the head but its part."""
    alone = {"apply_deepspeed": False, "deepspeed_stage": "2"}
    zero, plain = (plan_memory(assembled(tmp_path, base, prepared, **values)) for values in ({}, alone))
    assert (zero.head_chunk, zero.head_bytes) == (plain.head_chunk, plain.head_bytes)
    assert zero.head_bytes > 0
