"""Our finetune step against TRL's SFTTrainer: the same base, rows, labels, adapter and effective batch.

    python benchmarks/bench_training.py [--model FOLDER] [--rounds 3]

24 real conversations of two people, 3 optimizer steps of 8 rows in the same order, LoRA r=16 on all linear layers, in the
precision that the machine computes in (bfloat16 where it has instructions for it, else float32), for both. Each run is a
process of its own; a round measures all of them, one after the other, and the result is the median of the rounds' ratios.
Tokens are those of the rows, the same for all; seconds those of the training loop, loading apart. TRL runs as it comes, and
with its best settings: before the rounds each of `SEARCHED` runs once, and the quickest goes on as "trl, tuned". The losses
of all must agree, or nothing is written.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from record import cached_model, machine, medians, write

from mafunzo import settings
from mafunzo.compute.device.precision import computes_bfloat16, instruction_sets
from mafunzo.compute.training.data_order import permutation
from mafunzo.dataset.download import Access, get_dataset

ROWS, STEPS, BATCH, RATE, SEED = 24, 3, 8, 2e-4, 42
HAS_BFLOAT16 = computes_bfloat16(instruction_sets())
"""Elsewhere TRL's bfloat16 would be emulated, its worst; ours computes in float32 there."""
SEARCHED = {
    f"{rows} a pass, activations {'recomputed' if recomputed else 'kept'}, {weights} weights": {
        "per_device_train_batch_size": rows,
        "gradient_accumulation_steps": BATCH // rows,
        "gradient_checkpointing": recomputed,
        "model_init_kwargs": {"dtype": weights},
    }
    for rows in (1, 2, BATCH)
    for recomputed in (False, True)
    for weights in (("bfloat16", "float32") if HAS_BFLOAT16 else ("float32",))
}
PEERS = {"trl": {"per_device_train_batch_size": BATCH}} | SEARCHED
LOSS_TOLERANCE = 0.02


def main() -> None:
    """Measure, check that all did the same work, and write the results file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=None, help="a Hugging Face folder; default: the cached SmolLM2")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer", nargs=3, metavar=("NAME", "PREPARED", "MODEL"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peer:
        print(json.dumps(run_trl(arguments.peer[0], Path(arguments.peer[1]), arguments.peer[2])))
        return
    model, facts = arguments.model or cached_model(), machine()
    with tempfile.TemporaryDirectory() as scratch:
        prepared = prepare(model, Path(scratch))
        searched = {name: run_peer(name, prepared, model) for name in SEARCHED}
        best = max(searched, key=lambda name: searched[name]["tokens_per_s"])
        peers = {"trl": "trl", "trl, tuned": best}
        rounds = [measure(model, prepared, Path(scratch), number, peers) for number in range(arguments.rounds)]
    names = ["ours", *peers]
    body: dict[str, Any] = {name: medians([one[name] for one in rounds]) for name in names}
    body |= {"searched": searched, "trl, tuned has": best, "bfloat16": HAS_BFLOAT16}
    for name in peers:
        ratios = [one["ours"]["tokens_per_s"] / one[name]["tokens_per_s"] for one in rounds]
        body[f"ours / {name}"] = medians([{"speed": ratio} for ratio in ratios]) | {
            "speeds": [round(ratio, 2) for ratio in ratios]
        }
    losses = [body[name]["loss"] for name in names]
    if max(losses) - min(losses) > LOSS_TOLERANCE:
        raise SystemExit(
            f"The losses differ, so that speeds can't be compared: {dict(zip(names, losses, strict=True))}"
        )
    write("training", body | facts | {"model": model.name, "rows": ROWS, "steps": STEPS})


def prepare(model: Path, scratch: Path) -> Path:
    """Tokenise the first conversations of chitchat, as the pipeline does."""
    data = get_dataset("chitchat", scratch / "chitchat", Access(settings.load().cache))
    rows = scratch / "train.jsonl"
    rows.write_text("\n".join(data["train"].read_text(encoding="utf-8").splitlines()[:ROWS]) + "\n", encoding="utf-8")
    run_component(
        "prepare_data",
        model=model,
        train_file_path=rows,
        validation_file_path=data["test"],
        test_file_path=data["test"],
        max_seq_length=512,
        prepared=scratch / "prepared",
    )
    return scratch / "prepared"


def measure(
    model: Path, prepared: Path, scratch: Path, number: int, peers: Mapping[str, str]
) -> dict[str, dict[str, float]]:
    """Return one round: a name to its tokens a second, peak memory and mean loss."""
    numbers = {"ours": run_ours(model, prepared, scratch / f"ours-{number}")}
    numbers |= {name: run_peer(peer, prepared, model) for name, peer in peers.items()}
    print(json.dumps(numbers), flush=True)
    return numbers


def run_peer(name: str, prepared: Path, model: Path) -> dict[str, float]:
    """Run TRL in a process of its own."""
    text, peak = run([__file__, "--peer", name, str(prepared), str(model)])
    return json.loads(text.splitlines()[-1]) | {"peak_memory_mb": peak}


def run_ours(model: Path, prepared: Path, output: Path) -> dict[str, float]:
    """Run the finetune component as a job does."""
    peak = run_component(
        "finetune",
        model=model,
        prepared=prepared,
        pytorch_model_folder=output,
        apply_lora="true",
        lora_r=16,
        lora_alpha=32,
        seed=SEED,
        learning_rate=RATE,
        lr_scheduler_type="constant",
        precision="16",
        per_device_train_batch_size=BATCH,
        max_steps=STEPS,
        evaluation_strategy="disable",
    )
    results = json.loads((output / "all_results.json").read_text(encoding="utf-8"))
    return {
        "tokens_per_s": tokens_of(prepared) / results["train_runtime"],
        "peak_memory_mb": peak,
        "loss": results["train_loss"],
    }


def run_trl(name: str, prepared: Path, model: str) -> dict[str, float]:
    """Train with SFTTrainer on the same token ids and labels, in this process."""
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    table = pq.read_table(prepared / "train.parquet", columns=["input_ids", "labels"])
    table = table.take(permutation(table.num_rows, SEED, 0))
    settings_of = {"bf16": HAS_BFLOAT16, "max_length": None, **PEERS[name]}
    with tempfile.TemporaryDirectory() as output:
        config = SFTConfig(
            output_dir=output,
            learning_rate=RATE,
            lr_scheduler_type="constant",
            max_steps=STEPS,
            logging_steps=1,
            save_strategy="no",
            train_sampling_strategy="sequential",
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
            dataset_kwargs={"skip_prepare_dataset": True},
            **settings_of,
        )
        adapter = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
        trainer = SFTTrainer(model=model, args=config, train_dataset=Dataset(table), peft_config=adapter)
        started = time.perf_counter()
        result = trainer.train()
        seconds = time.perf_counter() - started
    return {"tokens_per_s": tokens_of(prepared) / seconds, "loss": float(result.training_loss)}


def run_component(component: str, **given: Any) -> float:
    """Run one of our components by its command line; return its peak memory in MB."""
    words = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    return run(["-m", f"mafunzo.compute.components.{component}", *words])[1]


def run(arguments: list[str]) -> tuple[str, float]:
    """Run Python with `arguments`; return what it printed, and its peak memory in MB."""
    with tempfile.TemporaryFile("w+") as told:
        process = subprocess.Popen([sys.executable, *arguments], stdout=told, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        told.seek(0)
        text = told.read()
    if status:
        raise SystemExit(text)
    return text, usage.ru_maxrss / 1024


def tokens_of(prepared: Path) -> int:
    """Return the tokens of all training rows."""
    return int(sum(len(ids) for ids in pq.read_table(prepared / "train.parquet").column("input_ids").to_pylist()))


if __name__ == "__main__":
    main()
