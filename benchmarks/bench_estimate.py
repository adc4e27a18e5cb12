"""What `estimate` says against what training then takes: time and peak memory of twelve configurations.

    python benchmarks/bench_estimate.py [--model FOLDER] [--only NAME]

Real conversations of two people are prepared once for each length of row; then the estimate step and the finetune step run as
a job runs them, one after the other, in processes of their own. Time is from the first optimizer step to the end of training,
evaluation and saving counted in. An error is the share of what was measured; the bars are 10% of memory and 15% of time, at
the median.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from record import cached_model, machine, run_component, write

from mafunzo import settings
from mafunzo.dataset.download import Access, get_dataset
from mafunzo.entities.estimate import Estimate, Scoreboard, error_share, scoreboard_of

TRAIN_ROWS, VALIDATION_ROWS = 64, 12
TIME_BAR, MEMORY_BAR = 0.15, 0.10
Values = dict[str, Any]
LORA: Values = {"apply_lora": "true", "lora_r": 16, "per_device_train_batch_size": 8, "max_steps": 6}
FULL: Values = {"apply_lora": "false", "per_device_train_batch_size": 8, "max_steps": 5, "learning_rate": 1e-5}
CONFIGURATIONS: dict[str, tuple[int, Values]] = {
    "LoRA, 8 rows of 512": (512, LORA),
    "LoRA, 2 rows": (512, LORA | {"per_device_train_batch_size": 2, "max_steps": 16}),
    "LoRA, rows of 128": (128, LORA | {"max_steps": 12}),
    "LoRA, accumulation 4": (512, LORA | {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}),
    "LoRA, recomputed": (512, LORA | {"gradient_checkpointing": "true"}),
    "LoRA, at most 1.5 GB": (512, LORA | {"max_memory_gb": 1.5}),
    "LoRA, r=64": (512, LORA | {"lora_r": 64}),
    "LoRA, 16 bits": (512, LORA | {"precision": "16"}),
    "LoRA, evaluated often": (512, LORA | {"evaluation_strategy": "steps", "eval_steps": 2}),
    "all weights, 8 rows of 512": (512, FULL),
    "all weights, rows of 128": (128, FULL | {"max_steps": 10}),
    "all weights, Adafactor": (512, FULL | {"optim": "adafactor"}),
}


def main() -> None:
    """Measure each configuration, write the results file, and fail where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=None, help="a Hugging Face folder; default: the cached SmolLM2")
    parser.add_argument("--only", choices=list(CONFIGURATIONS), help="measure this one, and write no results file")
    arguments = parser.parse_args()
    model, facts = arguments.model or cached_model(), machine()
    names = [arguments.only] if arguments.only else list(CONFIGURATIONS)
    runs: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        lengths = {length for length, _ in (CONFIGURATIONS[name] for name in names)}
        prepared = {length: prepare(model, Path(scratch), length) for length in lengths}
        for number, name in enumerate(names):
            length, values = CONFIGURATIONS[name]
            runs[name] = measure(model, prepared[length], Path(scratch) / str(number), values)
            print(json.dumps({name: runs[name]}), flush=True)
    if arguments.only:
        return
    board = scoreboard_of([(one["time error"], one["memory error"]) for one in runs.values()], left_out=0)
    write("estimate", {"errors": shares(board), "runs": runs} | facts | {"model": model.name})
    assert board.time is not None and board.memory is not None
    if board.time.median > TIME_BAR or board.memory.median > MEMORY_BAR:
        raise SystemExit(f"A bar is missed: {TIME_BAR} of the time and {MEMORY_BAR} of the memory, at the median.")


def prepare(model: Path, scratch: Path, length: int) -> Path:
    """Tokenize the first conversations of chitchat, cut at so many tokens, as the pipeline does."""
    data = get_dataset("chitchat", scratch / f"chitchat-{length}", Access(settings.load().cache))
    lines = data["train"].read_text(encoding="utf-8").splitlines()
    files = {"train": lines[:TRAIN_ROWS], "validation": lines[TRAIN_ROWS : TRAIN_ROWS + VALIDATION_ROWS]}
    paths = {}
    for split, rows in files.items():
        paths[split] = scratch / f"{split}-{length}.jsonl"
        paths[split].write_text("\n".join(rows) + "\n", encoding="utf-8")
    run_component(
        "prepare_data",
        model=model,
        train_file_path=paths["train"],
        validation_file_path=paths["validation"],
        test_file_path=paths["validation"],
        max_seq_length=length,
        prepared=scratch / f"prepared-{length}",
        step=scratch / f"step-{length}",
    )
    return scratch / f"prepared-{length}"


def measure(model: Path, prepared: Path, folder: Path, values: Values) -> dict[str, float]:
    """Return what was estimated for a configuration, what it took, and the errors."""
    inputs = {"model": model, "prepared": prepared, **values}
    run_component("estimate", **inputs, estimate=folder / "estimate", step=folder / "estimating")
    run_component("finetune", **inputs, pytorch_model_folder=folder / "model", step=folder / "training")
    estimate = Estimate.from_dict(json.loads((folder / "estimate" / "estimate.json").read_text(encoding="utf-8")))
    results = json.loads((folder / "model" / "all_results.json").read_text(encoding="utf-8"))
    seconds, peak = results["train_runtime"], results["peak_memory_bytes"]
    return {
        "estimated, s": round(estimate.time_s.expected, 1),
        "measured, s": round(seconds, 1),
        "time error": round(error_share(estimate.time_s.expected, seconds), 3),
        "estimated, GB": round(estimate.memory_bytes.expected / 1e9, 2),
        "measured, GB": round(peak / 1e9, 2),
        "memory error": round(error_share(estimate.memory_bytes.expected, peak), 3),
    }


def shares(board: Scoreboard) -> dict[str, dict[str, float]]:
    """Return the errors' medians and 90th percentiles."""
    assert board.time is not None and board.memory is not None
    return {
        part: {"median": round(spread.median, 3), "p90": round(spread.p90, 3)}
        for part, spread in (("time", board.time), ("memory", board.memory))
    }


if __name__ == "__main__":
    main()
