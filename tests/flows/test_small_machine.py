"""A machine of 8 GB trains, and takes what was planned: the real step in a control group that is ended beyond that.

The networks have random weights of real shapes, as memory asks for nothing else. The larger one takes minutes.
"""

import json
import math
import shlex
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig

from tests.support.memory_group import memory_group
from tests.support.tiny_training import write_prepared

pytestmark = pytest.mark.slow

LIMIT = 8 * 10**9
SHAPES = {
    "135M": LlamaConfig(
        vocab_size=49_152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
    ),
    "1B": LlamaConfig(
        vocab_size=128_256,
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=16,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=64,
        tie_word_embeddings=True,
        rope_theta=500_000.0,
    ),
}


def write_random(folder: Path, config: LlamaConfig) -> Path:
    """A base of random bfloat16 weights, one matrix after the other, so that its maker needs no room for a copy."""
    config.architectures = ["LlamaForCausalLM"]
    config.dtype = "bfloat16"
    config.save_pretrained(folder)
    with torch.device("meta"):
        shapes = {name: weight.shape for name, weight in AutoModelForCausalLM.from_config(config).named_parameters()}
    noise = torch.randn(2**20, generator=torch.Generator().manual_seed(0)).mul_(0.02).bfloat16()
    weights = {
        name: torch.ones(shape, dtype=torch.bfloat16)
        if len(shape) == 1
        else noise.repeat(-(-shape.numel() // len(noise)))[: shape.numel()].view(shape)
        for name, shape in shapes.items()
    }
    save_file(
        {name: weight.contiguous() for name, weight in weights.items()}, folder / "model.safetensors", {"format": "pt"}
    )
    return folder


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("shape", "tokens", "rows"), [("135M", 512, 4), pytest.param("1B", 1024, 1, marks=pytest.mark.soak)]
)
def test_a_machine_of_8_gb_trains_within_its_memory_as_planned(
    tmp_path: Path, shape: str, tokens: int, rows: int
) -> None:
    if psutil.virtual_memory().available < LIMIT:
        pytest.skip("other work has taken the memory that this needs")
    base = write_random(tmp_path / "base", SHAPES[shape])
    ids = [3 + index % 60 for index in range(tokens)]
    prepared = write_prepared(tmp_path / "prepared", [(ids, [-100] * (tokens // 4) + ids[tokens // 4 :])] * (2 * rows))
    words = f"--model {base} --prepared {prepared} --pytorch_model_folder {tmp_path / 'out'} --max_steps 2 --lora_r 16"
    words += f" --per_device_train_batch_size {rows} --apply_lora true"
    step = f"{sys.executable} -m mafunzo.compute.components.finetune {words}"
    with memory_group(LIMIT) as group:
        argv = ["bash", "-c", f"echo $$ > {shlex.quote(str(group))}/cgroup.procs; exec {step}"]
        process = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stdout + process.stderr
    (base / "model.safetensors").unlink()  # its 2.5 GB
    results = json.loads((tmp_path / "out" / "all_results.json").read_text())
    assert math.isfinite(results["train_loss"])
    assert results["peak_memory_bytes"] < LIMIT
    assert results["planned_peak_memory_bytes"] == pytest.approx(results["peak_memory_bytes"], rel=0.1)
