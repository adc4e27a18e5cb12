"""Two real processes that share weights, gradients or the optimizer's state out train as one does, and go on from one another's
checkpoints."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig, MixtralConfig

from tests.support.tiny_training import SIZES, learnable_rows, write_base, write_prepared
from tests.support.training_run import FULL, LORA, history, train
from tests.support.two_processes import MANY, SINGLE_ROWS, endings, require_close, run_on_two

ZERO = {"apply_deepspeed": True}
ZERO3 = ZERO | {"deepspeed_stage": "3"}
FSDP = {"data_parallel_strategy": "fsdp"}
PACKED = {"zero_optimization": {"stage": 1, "overlap_comm": True, "round_robin_gradients": True}}
CONFIGURED3 = {
    "zero_optimization": {
        "stage": 3,
        "sub_group_size": 2000,
        "reduce_bucket_size": 1000,
        "stage3_param_persistence_threshold": 0,
        "stage3_max_live_parameters": 0,
        "stage3_max_reuse_distance": 0,
        "stage3_prefetch_bucket_size": 0,
        "offload_param": {"device": "cpu"},
    }
}
ALONE = {
    "LoRA": {"values": LORA | MANY},
    "full": {"values": FULL | MANY},
    "tied": {"values": FULL | MANY, "base": "tied"},
    "mixture": {"values": FULL | MANY, "base": "mixture"},
    "single-rows": {"values": SINGLE_ROWS},
    "recomputed": {"values": LORA | MANY | {"gradient_checkpointing": True}},
    "two-rates": {
        "values": LORA | MANY | {"loraplus_lr_ratio": 4.0, "rank_pattern": '{"q_proj": 2}', "use_rslora": True}
    },
    "dora": {"values": LORA | MANY | {"use_dora": True}},
    "pissa": {"values": LORA | MANY | {"init_lora_weights": "pissa"}},
}
"""Runs, each of which one process takes too."""


def scenario(kind: str, strategy: dict, name: str, **more) -> dict:
    alone = ALONE[kind]
    return {"name": name, **alone, "values": alone["values"] | strategy, **more}


WEIGHED = LORA | {"max_steps": 1, "evaluation_strategy": "disable"}
QUICK = [
    {"name": "fsdp-weighed", "values": WEIGHED | FSDP, "base": "wide", "is_weighed": True},
    {"name": "zero3-weighed", "values": WEIGHED | ZERO3, "base": "wide", "is_weighed": True},
    scenario("LoRA", ZERO, "zero-LoRA"),
    scenario("tied", FSDP, "fsdp-tied"),
    scenario("LoRA", FSDP, "fsdp-LoRA"),
    scenario("LoRA", FSDP, "fsdp-LoRA-from-zero", source="zero-LoRA/checkpoint-2"),
    scenario("LoRA", ZERO, "zero-LoRA-from-fsdp", source="fsdp-LoRA/checkpoint-2"),
    scenario("tied", ZERO3, "zero3-tied"),
    scenario("LoRA", ZERO3, "zero3-LoRA"),
    scenario("LoRA", ZERO3, "zero3-LoRA-from-fsdp", source="fsdp-LoRA/checkpoint-2"),
    scenario("LoRA", FSDP, "fsdp-LoRA-from-zero3", source="zero3-LoRA/checkpoint-2"),
]
SLOW = [
    scenario("full", ZERO, "zero-full"),
    scenario("full", FSDP, "fsdp-full"),
    scenario("full", ZERO, "zero-configured", deepspeed=PACKED),
    scenario("full", ZERO3, "zero3-full"),
    scenario("full", ZERO3, "zero3-configured", deepspeed=CONFIGURED3),
    *(
        scenario(kind, strategy, f"{name}-{kind}")
        for name, strategy in (("ddp", {}), ("zero", ZERO), ("zero3", ZERO3), ("fsdp", FSDP))
        for kind in ("tied", "mixture", "single-rows", "recomputed", "two-rates")
    ),
    scenario("dora", {}, "ddp-dora"),
    scenario("dora", ZERO, "zero-dora"),
    scenario("pissa", {}, "ddp-pissa"),
    scenario("pissa", ZERO, "zero-pissa"),
    scenario("pissa", {}, "ddp-pissa-resumed", source="zero-pissa/checkpoint-2"),
    scenario("full", ZERO, "zero-full-resumed", source="zero-full/checkpoint-2"),
    scenario("full", FSDP, "fsdp-full-resumed", source="fsdp-full/checkpoint-2"),
    scenario("full", ZERO3, "zero3-full-resumed", source="zero3-full/checkpoint-2"),
    scenario("full", ZERO3, "zero3-full-from-alone", source="alone-full/checkpoint-2"),
    scenario("full", {}, "ddp-full-from-zero3", source="zero3-full/checkpoint-2"),
    scenario("full", FSDP, "fsdp-full-from-alone", source="alone-full/checkpoint-2"),
    scenario("full", {}, "ddp-full-from-fsdp", source="fsdp-full/checkpoint-2"),
    scenario("LoRA", FSDP, "fsdp-stopped", disturbance=["SIGTERM", 3]),
    scenario("LoRA", ZERO3, "zero3-stopped", disturbance=["SIGTERM", 3]),
    {"name": "fsdp-NaN", "values": LORA | FSDP, "disturbance": ["NaN", 3]},
    {"name": "zero3-NaN", "values": LORA | ZERO3, "disturbance": ["NaN", 3]},
]


def made(folder: Path) -> Path:
    """Write bases and rows."""
    write_base(folder / "base")
    write_base(folder / "tied", "llama tied")
    torch.manual_seed(0)
    mixture = MixtralConfig(**SIZES, num_local_experts=4, num_experts_per_tok=2)
    AutoModelForCausalLM.from_config(mixture).save_pretrained(folder / "mixture")
    wide = LlamaConfig(**SIZES | {"hidden_size": 128, "num_hidden_layers": 6})
    AutoModelForCausalLM.from_config(wide).save_pretrained(folder / "wide")
    write_prepared(folder / "prepared", learnable_rows(24), learnable_rows(8, seed=1))
    return folder


def alone(folder: Path, kind: str) -> Path:
    """Return the output of a run of one process, which is taken once."""
    if not (folder / f"alone-{kind}").exists():
        base = folder / ALONE[kind].get("base", "base")
        train(folder, base, folder / "prepared", f"alone-{kind}", **ALONE[kind]["values"])
    return folder / f"alone-{kind}"


def taken(folder: Path, scenarios: list) -> Path:
    record = run_on_two(folder, scenarios)
    logs = "\n".join(log.read_text()[-8000:] for log in sorted((folder / "step").glob("log*.txt")))
    assert record.exit_code == 0, logs
    return folder


@pytest.fixture(scope="module")
def quick(tmp_path_factory) -> Path:
    return taken(made(tmp_path_factory.mktemp("quick")), QUICK)


@pytest.fixture(scope="module")
def slow(tmp_path_factory) -> Path:
    folder = made(tmp_path_factory.mktemp("slow"))
    alone(folder, "full")
    return taken(folder, SLOW)


def require_same_steps(folder: Path, name: str, kind: str) -> None:
    assert endings(folder, name) == [{}, {}]
    require_close(folder / name, alone(folder, kind))
    ours, theirs = (
        {path.name for path in output.iterdir() if path.name != "checkpoint-1"}  # which one that goes on doesn't have
        for output in (folder / name, alone(folder, kind))
    )
    assert ours == theirs


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("zero-LoRA", "LoRA"),
        ("fsdp-LoRA", "LoRA"),
        ("fsdp-tied", "tied"),
        ("fsdp-LoRA-from-zero", "LoRA"),
        ("zero-LoRA-from-fsdp", "LoRA"),
        ("zero3-tied", "tied"),
        ("zero3-LoRA", "LoRA"),
        ("zero3-LoRA-from-fsdp", "LoRA"),
        ("fsdp-LoRA-from-zero3", "LoRA"),
    ],
)
def test_shared_out_steps_are_those_of_one_process(quick, name, kind):
    require_same_steps(quick, name, kind)


WRITTEN = [
    ("zero-LoRA", "LoRA"),
    ("fsdp-LoRA", "LoRA"),
    ("fsdp-tied", "tied"),
    ("zero3-LoRA", "LoRA"),
    ("zero3-tied", "tied"),
]


def test_a_checkpoint_is_written_as_one_process_writes_it(quick):
    """Names, shapes and dtypes of weights and the optimizer's state; numbers to rounding."""
    for name, kind in WRITTEN:
        ours, theirs = quick / name / "checkpoint-3", alone(quick, kind) / "checkpoint-3"
        assert [path.name for path in sorted(ours.iterdir())] == [path.name for path in sorted(theirs.iterdir())]
        for file in [path.name for path in ours.glob("*.safetensors") if path.name != "rng.safetensors"]:
            one, other = load_file(ours / file), load_file(theirs / file)
            assert {key: (one[key].shape, one[key].dtype) for key in one} == {
                key: (other[key].shape, other[key].dtype) for key in other
            }
            for key, tensor in one.items():
                torch.testing.assert_close(tensor, other[key], rtol=1e-3, atol=1e-5, msg=f"{name} {file} {key}")


@pytest.mark.parametrize("strategy", ["fsdp", "zero3"])
def test_no_process_ever_holds_more_of_a_base_that_is_sharded_than_its_part_and_a_block(quick, strategy):
    """Nor while it is read, nor while its blocks are proven, nor when it is handed to FSDP2 or DeepSpeed."""
    whole = (quick / "wide" / "model.safetensors").stat().st_size
    held = [ending["held_bytes"] for ending in endings(quick, f"{strategy}-weighed")]
    assert all(0.4 * whole < one < 0.65 * whole for one in held), (held, whole)


def test_a_network_that_is_sharded_is_run_as_one_that_is_whole(quick):
    """It is found out how it may be run, though no rank has all weights for that."""
    for name, kind in (("fsdp-LoRA", "LoRA"), ("fsdp-tied", "tied"), ("zero3-LoRA", "LoRA"), ("zero3-tied", "tied")):
        ours, theirs = (
            json.loads((path / "finetune_args.json").read_text()) for path in (quick / name, alone(quick, kind))
        )
        assert ours["rows_packed"] is theirs["rows_packed"] is True
        assert ours["memory_plan"]["head_chunk"] == theirs["memory_plan"]["head_chunk"] > 0


@pytest.mark.parametrize("name", ["zero-LoRA", "zero3-LoRA", "fsdp-LoRA"])
def test_one_process_goes_on_from_what_two_shared_out(quick, tmp_path, name):
    shutil.copytree(quick / name / "checkpoint-2", tmp_path / "out" / "checkpoint-2")
    values = ALONE["LoRA"]["values"] | {"resume_from_checkpoint": True}
    _, resumed = train(tmp_path, quick / "base", quick / "prepared", "out", **values)
    require_close(resumed, alone(quick, "LoRA"))
    assert "equal within tolerance" in json.loads((resumed / "finetune_args.json").read_text())["resumed"]


@pytest.mark.slow
@pytest.mark.parametrize("name", [one["name"] for one in SLOW if not one["name"].endswith(("stopped", "NaN"))])
def test_every_strategy_trains_every_kind_as_one_process_does(slow, name):
    kind = next((kind for kind in ALONE if f"-{kind}" in name), "full")
    require_same_steps(slow, name, kind)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["zero", "zero3", "fsdp"])
def test_a_run_that_goes_on_by_the_same_strategy_is_equal_to_the_bit(slow, strategy):
    whole, resumed = slow / f"{strategy}-full", slow / f"{strategy}-full-resumed"
    assert history(resumed, "loss") == history(whole, "loss")
    files = [path / "model.safetensors" for path in (whole, resumed)]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert "bit-identical" in json.loads((resumed / "finetune_args.json").read_text())["resumed"]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "strategy"), [("fsdp", "fsdp"), ("zero3", "ZeRO 3")])
def test_a_run_that_goes_on_by_another_strategy_says_so(slow, name, strategy):
    receipt = json.loads((slow / f"ddp-full-from-{name}" / "finetune_args.json").read_text())["resumed"]
    assert "equal within tolerance" in receipt
    assert f"the data parallel strategy was {strategy} and is ddp" in receipt


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["fsdp", "zero3"])
def test_a_signal_to_one_ends_both_after_the_step_that_they_take_together(slow, strategy):
    assert endings(slow, f"{strategy}-stopped") == [{"exit": 143}, {"exit": 143}]
    assert [path.name for path in (slow / f"{strategy}-stopped").glob("checkpoint-*")]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["fsdp", "zero3"])
def test_a_loss_that_is_no_number_ends_both_with_the_same_words(slow, strategy):
    one, other = endings(slow, f"{strategy}-NaN")
    assert one == other
    assert "The loss is nan at step" in one["error"]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", [ZERO, ZERO3, FSDP], ids=["zero", "zero3", "fsdp"])
def test_a_process_that_is_killed_ends_the_other_and_is_told(tmp_path, strategy):
    made(tmp_path)
    record = run_on_two(tmp_path, [{"name": "out", "values": LORA | strategy, "disturbance": ["SIGKILL", 3]}])
    assert (record.exit_code, record.signal) == (137, 9)
    assert "process 1 ended with -9" in (tmp_path / "step" / "log.txt").read_text()
