"""Examines a GPU: `python -m mafunzo.compute.components.examine_gpu --work FOLDER` prints each check as a line of JSON.

What trains is the finetune component as a job runs it, once with the GPU and once without:

    losses    a tiny network, LoRA and all weights: at each step the GPU's loss is the CPU's
    model     the same for a network of a real size
    speed     its tokens a second in 16 bits, against TRL's best and the card's fastest matrix product
    memory    what was planned for that run, against what the GPU then held

Weights are random (or a folder's) and rows are drawn by a seed: neither equality, nor speed, nor memory depends on what they
say. Nothing here is about CUDA but the one line that hides the GPU from a process, and the product of matrices.
"""

import argparse
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from mafunzo.compute.components.tiny_model import make
from mafunzo.compute.model.loading import save_network
from mafunzo.entities.examination import Check
from mafunzo.tracking.metrics import read_metrics
from mafunzo.tracking.step_folder import STEP_FOLDER, StepFolder

LOSS_BOUNDS = {"32": 0.002, "16": 0.01}
"""How far a loss may be from the CPU's in float32, by bits."""
MEMORY_BOUND = 0.1
"""How far the peak may be from the plan, as a share of it."""
TINY = "tiny-llama"
RANK, SEED, STEPS = 16, 42, 5
SPEED_STEPS, WARM_STEPS = 14, 4
"""Steps of the run whose speed is measured, of which the first load kernels and aren't."""
TRL_SETTINGS = tuple(
    {"rows_a_pass": rows, "padding_free": padding_free} for rows in (4, 16) for padding_free in (False, True)
)
PRODUCT_WIDTH, PRODUCTS = 8192, 20
LIMIT_S = 300.0


@dataclass(frozen=True)
class Sizes:
    """Rows of an optimizer step, and tokens of a row: of the tiny network, of the model where losses are compared, and where
    its speed is measured."""

    tiny: tuple[int, int] = (8, 64)
    losses: tuple[int, int] = (2, 128)
    speed: tuple[int, int] = (32, 512)


@dataclass(frozen=True)
class Training:
    """What a run of the finetune component left."""

    losses: tuple[float, ...]
    tokens_per_s: float
    planned_bytes: float
    peak_bytes: float


class Broken(Exception):
    """A process that failed, with its last lines."""


def main() -> None:
    """Print a line of JSON for each check, as soon as it is done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="an empty folder")
    parser.add_argument("--model", type=Path, default=None, help="a Hugging Face folder; default: random weights")
    parser.add_argument("--limit-s", type=float, default=LIMIT_S)
    arguments = parser.parse_args()
    for check in examine(arguments.work, arguments.model, arguments.limit_s):
        sys.stdout.write(json.dumps(asdict(check)) + "\n")
        sys.stdout.flush()


def examine(work: Path, model: Path | None = None, limit_s: float = LIMIT_S, sizes: Sizes = Sizes()) -> Iterator[Check]:
    """Yield the checks; what there is no time for, and what breaks, is yielded as such, and the others go on."""
    deadline = time.monotonic() + limit_s
    make(TINY, SEED, work / TINY)
    base = model or _random_network(work / "model")
    examination = _Examination(work, base, sizes)
    for name, checks in examination.parts().items():
        if time.monotonic() > deadline:
            yield Check(name, "", f"the time of {limit_s:.0f} s was over", None)
            continue
        try:
            yield from checks
        except Broken as error:
            yield Check(name, str(error), "it runs", is_passed=False)


class _Examination:
    def __init__(self, work: Path, base: Path, sizes: Sizes) -> None:
        self._work, self._base, self._sizes = work, base, sizes
        self._run: Training | None = None

    def parts(self) -> dict[str, Iterator[Check]]:
        """Return the parts by name; each begins when its first check is asked for."""
        tiny = self._work / TINY
        methods = {"LoRA": True, "all weights": False}
        parts = {
            f"losses of a tiny network, {method}": self._losses(
                tiny, f"a tiny network, {method}", is_lora, self._sizes.tiny
            )
            for method, is_lora in methods.items()
        }
        model = self._losses(self._base, "the model, LoRA", True, self._sizes.losses)
        return parts | {"losses of the model": model, "speed": self._speed(), "memory": self._memory()}

    def _losses(self, base: Path, what: str, is_lora: bool, size: tuple[int, int]) -> Iterator[Check]:
        common: dict[str, Any] = {"apply_lora": is_lora, "max_steps": STEPS}
        truth = self._train(base, size, common | {"precision": "32"}, has_gpu=False)
        for bits, bound in LOSS_BOUNDS.items():
            run = self._train(base, size, common | {"precision": bits})
            difference = _farthest(truth.losses, run.losses)
            yield Check(
                f"losses of {what}, {bits} bits",
                f"at most {difference:.5f} from the CPU's in {len(truth.losses)} steps",
                f"{bound:g}",
                difference <= bound,
            )

    def _speed(self) -> Iterator[Check]:
        values = {"apply_lora": True, "precision": "16", "max_steps": SPEED_STEPS}
        self._run = self._train(self._base, self._sizes.speed, values)
        yield Check("speed of LoRA, 16 bits", f"{self._run.tokens_per_s:,.0f} tokens/s", "", is_passed=True)
        yield Check(
            "fastest product of matrices, 16 bits", f"{_product_flops() / 1e12:,.1f} TFLOP/s", "", is_passed=True
        )
        yield self._against_trl(self._run.tokens_per_s)

    def _against_trl(self, tokens_per_s: float) -> Check:
        name = "speed against TRL's best"
        rows, tokens = self._sizes.speed
        prepared = self._prepared(self._base, self._sizes.speed, SPEED_STEPS)
        common = {"model": str(self._base), "prepared": str(prepared), "rows": rows, "steps": SPEED_STEPS}
        speeds, reasons = list[float](), list[str]()
        for settings in TRL_SETTINGS:
            request = common | settings | {"rows_a_pass": min(settings["rows_a_pass"], rows)}
            words = [sys.executable, "-m", "mafunzo.compute.components.trl_peer", json.dumps(request)]
            try:
                marks = json.loads(_run(words, {}).splitlines()[-1])["marks_s"]
            except Broken as error:
                reasons.append(str(error))
                continue
            speeds.append(_speed_between(marks, rows * tokens))
        if not speeds:
            return Check(name, "", f"TRL doesn't run here: {reasons[0]}", None)
        ratio = tokens_per_s / max(speeds)
        return Check(name, f"{ratio:.2f} times its {max(speeds):,.0f} tokens/s", "1 at least", ratio >= 1)

    def _memory(self) -> Iterator[Check]:
        run = self._run
        if run is None:
            yield Check("memory", "", "the run whose speed is measured failed", None)
            return
        share = run.peak_bytes / run.planned_bytes - 1
        measured = f"{run.peak_bytes / 2**30:.2f} GiB of {run.planned_bytes / 2**30:.2f} planned ({share:+.0%})"
        yield Check("peak memory against the plan", measured, f"{MEMORY_BOUND:.0%} apart", abs(share) <= MEMORY_BOUND)

    def _train(self, base: Path, size: tuple[int, int], values: Mapping[str, Any], has_gpu: bool = True) -> Training:
        step = self._work / "step"
        shutil.rmtree(step, ignore_errors=True)
        (step / "outputs").mkdir(parents=True)
        output = step / "outputs" / "pytorch_model_folder"
        inputs = {
            "model": base,
            "prepared": self._prepared(base, size, int(values["max_steps"])),
            "pytorch_model_folder": output,
            "per_device_train_batch_size": size[0],
            "learning_rate": 1e-4,
            "lr_scheduler_type": "constant",
            "lora_r": RANK,
            "evaluation_strategy": "disable",
            "logging_strategy": "steps",
            "logging_steps": 1,
            "seed": SEED,
            **values,
        }
        words = [word for name, value in inputs.items() for word in (f"--{name}", _word(value))]
        hidden = {} if has_gpu else {"CUDA_VISIBLE_DEVICES": ""}
        command = [sys.executable, "-m", "mafunzo.compute.components.finetune", *words]
        _run(command, {STEP_FOLDER: str(step)} | hidden)
        lines = [line for line in read_metrics(StepFolder(step).metrics) if line.get("loss") is not None]
        results = json.loads((output / "all_results.json").read_text(encoding="utf-8"))
        return Training(
            losses=tuple(line["loss"] for line in lines),
            tokens_per_s=_speed_between([line["time"] for line in lines], size[0] * size[1]),
            planned_bytes=results["planned_peak_memory_bytes"],
            peak_bytes=results["peak_memory_bytes"],
        )

    def _prepared(self, base: Path, size: tuple[int, int], steps: int) -> Path:
        """Return a folder as prepare_data writes it, with rows of one length drawn by a seed."""
        rows, tokens = size
        folder = self._work / f"rows-{base.name}-{rows}-{tokens}-{steps}"
        if not folder.exists():
            folder.mkdir()
            config = json.loads((base / "config.json").read_text(encoding="utf-8"))
            generator = np.random.default_rng(SEED)
            ids = generator.integers(3, config["vocab_size"], (rows * steps, tokens)).tolist()
            count = len(ids)
            columns = {"input_ids": ids, "labels": ids, "file": ["drawn"] * count, "row": list(range(count))}
            pq.write_table(pa.table(columns), folder / "train.parquet")
            shutil.copytree(self._work / TINY, folder / "tokenizer", ignore=shutil.ignore_patterns("*.safetensors"))
        return folder


def _random_network(folder: Path) -> Path:
    """Write a network of the size and shape of SmolLM2-135M."""
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
    )
    torch.manual_seed(SEED)
    save_network(AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16), folder)
    return folder


def _product_flops() -> float:
    """Return the floating point operations a second of a large product in bfloat16, the fastest of some."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    width = PRODUCT_WIDTH if device.type == "cuda" else PRODUCT_WIDTH // 16
    square = torch.ones(width, width, dtype=torch.bfloat16, device=device)
    fastest_s = float("inf")
    for _ in range(PRODUCTS):
        begun = time.perf_counter()
        float((square @ square)[0, 0])  # a GPU has ended then
        fastest_s = min(fastest_s, time.perf_counter() - begun)
    return 2 * width**3 / fastest_s


def _run(command: list[str], environment: Mapping[str, str]) -> str:
    process = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
    if process.returncode:
        lines = (process.stderr.strip() or process.stdout.strip()).splitlines()
        raise Broken(lines[-1] if lines else f"exit code {process.returncode}")
    return process.stdout


def _farthest(first: tuple[float, ...], second: tuple[float, ...]) -> float:
    if len(first) != len(second) or not first:
        raise Broken(f"{len(second)} steps were taken instead of {len(first)}")
    return max(abs(a - b) for a, b in zip(first, second, strict=True))


def _speed_between(ends_s: list[float], tokens: int) -> float:
    """Return the tokens a second of the steps that ended at these times, but for the first ones; the median of them."""
    spans = [later - earlier for earlier, later in itertools.pairwise(ends_s)][WARM_STEPS - 1 :]
    return tokens / max(statistics.median(spans), 1e-3) if spans else 0.0


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


if __name__ == "__main__":
    main()
