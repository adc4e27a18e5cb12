"""Our finetune step against TRL's SFTTrainer: the same base, rows, labels, adapter and effective batch.

    python benchmarks/bench_training.py [--quick] [--minutes 24] [--cases lora full larger] [--model FOLDER]

Three cases: LoRA (r=16, all linear layers) and full fine-tuning of SmolLM2, and LoRA on a random network of 360M parameters.
In each, TRL's best settings *for this machine* are searched first: rows of a pass, padding-free rows, recomputed
activations, attention, dtype of the weights, threads, torch.compile; each alone, then those together that were faster.
Where the processor has no instructions for bfloat16 (it would be emulated), both compute in float32. Then come rounds, each
of them TRL's best, and ours within TRL's peak memory and within a multiple of it (2 in float32, 1.2 and 1.7 in bfloat16).
The results are medians of the rounds.

Every run is a process of its own and takes the same optimizer steps on real conversations. The first step is left out of its
time (it compiles, and fills caches); loading is no part of it. A run's line has:

    tokens_per_s, tokens_per_cpu_s    of the rows, by the clock and by the processor time of the process
    share_of_peak                     of the GEMM peak: the best product of the network's own shapes in that dtype, all
                                      threads, measured before and after; recomputed activations count as no work
    peak_memory_mb                    of the process, loading included
    losses, grad_norms                of each step; where losses differ by more than `LOSS_TOLERANCE`, nothing is written

`--quick` shows in some minutes that all works, and writes no results file: its numbers mean nothing. `--minutes` bounds the
whole: what isn't searched by then is named, and at least one round is measured.
"""

import argparse
import json
import math
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from record import cached_model, machine, run_component, write

from mafunzo import settings
from mafunzo.compute.device.precision import computes_bfloat16, instruction_sets
from mafunzo.compute.training.data_order import permutation
from mafunzo.dataset.download import Access, get_dataset

SEED, RANK = 42, 16
BITS = "16" if computes_bfloat16(instruction_sets()) else "32"
DTYPE = "bfloat16" if BITS == "16" else "float32"
LOSS_TOLERANCE = 0.02
BUDGETS = {"16": (1.2, 1.7), "32": (1.0, 2.0)}
"""Multiples of TRL's peak memory within which ours trains, by bits."""
THREADS = len(os.sched_getaffinity(0))


@dataclass(frozen=True)
class Case:
    """rows, steps, tokens: rows of an optimizer step, steps, and the longest row. searched: rows of a step in the search.

    budgets: multiples of TRL's memory. share: of the time, by which the case is to have ended.
    """

    is_lora: bool
    rows: int
    steps: int
    tokens: int
    searched: int
    budgets: tuple[float, ...]
    share: float
    is_larger: bool = False

    @property
    def rate(self) -> float:
        return 2e-4 if self.is_lora else 2e-5


CASES = {
    "lora": Case(True, 8, 3, 512, 4, BUDGETS[BITS], 0.55),
    "full": Case(False, 8, 2, 512, 4, (1.0,), 0.78),
    "larger": Case(True, 4, 2, 512, 2, (1.0,), 1.0, is_larger=True),
}
QUICK = {
    "lora": Case(True, 2, 2, 128, 2, BUDGETS[BITS], 0.5),
    "full": Case(False, 2, 2, 128, 2, (1.0,), 0.75),
    "larger": Case(True, 2, 2, 64, 2, (1.0,), 1.0, is_larger=True),
}
START: dict[str, Any] = {"rows a pass": 1, "padding-free": False, "recomputed": False, "attention": "sdpa"} | {
    "weights": DTYPE,
    "threads": THREADS,
    "compiled": False,
}
"""Where the search of TRL's settings begins; what is tried instead comes below, the likeliest to be faster first."""
CHOICES: dict[str, tuple[Any, ...]] = {
    "rows a pass": (2, 4, 8),
    "padding-free": (True,),
    "recomputed": (True,),
    "compiled": (True,),
    "attention": ("eager",),
    "weights": ("float32",) if BITS == "16" else (),
    "threads": (1,) if THREADS > 1 else (),
}
Numbers = dict[str, Any]


class Unfinished(Exception):
    """A run that failed or took too long, and why."""


def main() -> None:
    """Measure, check that all did the same work, and write the results file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=None, help="a Hugging Face folder; default: the cached SmolLM2")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=24.0)
    parser.add_argument("--quick", action="store_true", help="see that it works; writes nothing")
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--run", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        print(json.dumps(measured(json.loads(arguments.run))))
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    minutes = min(arguments.minutes, 4.5) if arguments.quick else arguments.minutes
    started, facts = time.monotonic(), machine()
    cases = {name: (QUICK if arguments.quick else CASES)[name] for name in arguments.cases}
    body: Numbers = {"dtype": DTYPE}
    with tempfile.TemporaryDirectory() as scratch:
        model = arguments.model or cached_model()
        for name, case in cases.items():
            deadline = started + 60 * minutes * case.share
            base = larger(model, Path(scratch)) if case.is_larger else model
            rounds = 1 if arguments.quick else arguments.rounds
            body[name] = compare(case, base, Path(scratch) / name, rounds, deadline)
            print(json.dumps({name: body[name]}, indent=1), flush=True)
    if arguments.quick:
        print("All cases ran. A quick run measures nothing: no results file is written.")
        return
    write("training", body | facts | {"model": model.name, "minutes": round((time.monotonic() - started) / 60, 1)})


def compare(case: Case, model: Path, scratch: Path, rounds: int, deadline: float) -> Numbers:
    """Search TRL's best settings and measure rounds of it and ours; raises `SystemExit` where the losses differ."""
    scratch.mkdir()
    prepared = prepare(model, scratch, case)
    common = {"model": str(model), "prepared": str(prepared), "is_lora": case.is_lora, "rate": case.rate}
    peak_before = run(common | {"who": "gemm"}, math.inf)["gflops"]
    searching = deadline - 0.6 * max(0.0, deadline - time.monotonic())
    best, searched = search(common | {"batch": case.searched, "steps": 2}, searching)
    common |= {"batch": case.rows, "steps": case.steps}
    runs: dict[str, list[Numbers]] = {}
    for number in range(rounds):
        begun = time.monotonic()
        theirs = run(common | {"who": "trl", "settings": best}, math.inf)
        runs.setdefault("trl", []).append(theirs)
        for budget in case.budgets:
            output, memory_gb = scratch / f"out-{number}-{budget}", theirs["peak_memory_mb"] * 2**20 * budget / 1e9
            ours = run(common | {"who": "ours", "output": str(output), "max_memory_gb": memory_gb}, math.inf)
            runs.setdefault(f"ours within {budget:g} times its memory", []).append(ours)
            shutil.rmtree(output, ignore_errors=True)
        print(json.dumps({name: lines[-1] for name, lines in runs.items()}), flush=True)
        if time.monotonic() + (time.monotonic() - begun) > deadline:
            break
    peak_after = run(common | {"who": "gemm"}, math.inf)["gflops"]
    require_same_losses({name: lines[-1]["losses"] for name, lines in runs.items()})
    peak = max(peak_before, peak_after)
    result: Numbers = {"gemm_gflops": [peak_before, peak_after], "trl_best": best, "searched": searched}
    result |= {name: summary(lines, peak) for name, lines in runs.items()}
    for name, lines in runs.items():
        if name != "trl":
            result[f"{name} / trl"] = ratios(lines, runs["trl"])
    return result


def search(common: Numbers, deadline: float) -> tuple[Numbers, dict[str, Numbers]]:
    """Return the fastest of TRL's settings, and what each that was tried gave, or why it gave nothing."""
    searched: dict[str, Numbers] = {}
    first_s = 0.0
    speeds: list[tuple[float, Numbers]] = []

    def speed(changes: Numbers) -> float:
        name = ", ".join(f"{key} {value}" for key, value in changes.items()) or "start"
        if time.monotonic() > deadline and searched:
            searched[name] = {"not searched": "the time was over"}
            return 0.0
        begun = time.monotonic()
        limit = begun + max(3 * first_s, deadline - begun) if searched else math.inf
        try:
            searched[name] = run(common | {"who": "trl", "settings": START | changes}, limit)
        except Unfinished as error:
            searched[name] = {"error": str(error)[-300:]}
        print(json.dumps({name: searched[name]}), flush=True)
        speeds.append((float(searched[name].get("tokens_per_s", 0.0)), changes))
        return speeds[-1][0]

    started = time.monotonic()
    first, gains = speed({}), dict[str, Any]()
    first_s = time.monotonic() - started
    if not first:
        raise SystemExit(f"TRL can't be measured: {searched}")
    for key, values in CHOICES.items():
        rows = {"rows a pass": 2} if key == "padding-free" else {}  # a single row has no padding
        tries = [rows | {key: value} for value in values if key != "rows a pass" or value <= common["batch"]]
        fastest = max(((speed(one), one) for one in tries), key=lambda pair: pair[0], default=(0.0, {}))
        if fastest[0] > first:
            gains = fastest[1] | gains
    if all(gains != changes for _, changes in speeds):
        speed(gains)
    return START | max(speeds, key=lambda pair: pair[0])[1], searched


def require_same_losses(losses: Mapping[str, list[float]]) -> None:
    """Raise `SystemExit` where two runs had other losses: they did other work, so that speeds can't be compared."""
    for step in zip(*losses.values(), strict=True):
        if max(step) - min(step) > LOSS_TOLERANCE:
            raise SystemExit(f"The losses differ, so that speeds can't be compared: {dict(losses)}")


def summary(lines: list[Numbers], peak: float) -> Numbers:
    """Return the medians of the rounds, with the losses and the gradients' norms of the last."""
    names = ("tokens_per_s", "tokens_per_cpu_s", "peak_memory_mb", "gflops")
    numbers = {name: round(statistics.median(line[name] for line in lines), 2) for name in names}
    numbers["share_of_peak"] = round(numbers["gflops"] / peak, 3)
    return numbers | {"losses": lines[-1]["losses"], "grad_norms": lines[-1]["grad_norms"], "rounds": len(lines)}


def ratios(ours: list[Numbers], theirs: list[Numbers]) -> Numbers:
    """Return the median of the rounds' ratios in speed, by the clock and by processor time, and in memory, and each round's."""
    body: Numbers = {}
    for name in ("tokens_per_s", "tokens_per_cpu_s", "peak_memory_mb"):
        each = [round(a[name] / b[name], 3) for a, b in zip(ours, theirs, strict=True)]
        body |= {name: round(statistics.median(each), 2), f"{name} of each round": each}
    return body


# What follows is done in processes of their own.


def measured(request: Numbers) -> Numbers:
    """Do what one process is for."""
    if request["who"] == "gemm":
        return {"gflops": gemm_peak(request["model"])}
    timer = Timer()
    body = run_trl(request, timer) if request["who"] == "trl" else run_ours(request, timer)
    lengths = [row_lengths(request, step) for step in range(request["steps"])]
    rows = [row for step in lengths[1:] for row in step]
    tokens, seconds, cpu_seconds = sum(length for length, _ in rows), timer.seconds(), timer.cpu_seconds()
    work = sum(work_of(request, length, trained) for length, trained in rows)
    return body | {
        "tokens_per_s": round(tokens / seconds, 2),
        "tokens_per_cpu_s": round(tokens / cpu_seconds, 2),
        "gflops": round(work / seconds / 1e9, 2),
    }


class Timer:
    """When each optimizer step ended, by the clock and by the processor time of this process."""

    def __init__(self) -> None:
        self._marks: list[tuple[float, float]] = []

    def mark(self) -> None:
        self._marks.append((time.perf_counter(), time.process_time()))

    def seconds(self) -> float:
        return self._marks[-1][0] - self._marks[0][0]

    def cpu_seconds(self) -> float:
        return self._marks[-1][1] - self._marks[0][1]


def run_trl(request: Numbers, timer: Timer) -> Numbers:
    """Train with SFTTrainer on the same token ids and labels."""
    from mafunzo.compute.components.trl_peer import Peer, train

    chosen = request["settings"]
    peer = Peer(
        model=request["model"],
        prepared=request["prepared"],
        rows=request["batch"],
        steps=request["steps"],
        rows_a_pass=chosen["rows a pass"],
        padding_free=chosen["padding-free"],
        recomputed=chosen["recomputed"],
        compiled=chosen["compiled"],
        attention=chosen["attention"],
        weights=chosen["weights"],
        bits=BITS,
        is_lora=request["is_lora"],
        rank=RANK,
        rate=request["rate"],
        seed=SEED,
    )
    return dict(train(peer, timer.mark))


def run_ours(request: Numbers, timer: Timer) -> Numbers:
    """Run the finetune component as a job does."""
    from mafunzo.compute.components import command, finetune
    from mafunzo.compute.training.trainer import Trainer

    take_step = Trainer.step

    def step(self: Trainer, batches: Any) -> float | None:
        loss = take_step(self, batches)
        if loss is not None:
            timer.mark()
        return loss

    Trainer.step = step  # type: ignore[method-assign]
    values = {
        "model": request["model"],
        "prepared": request["prepared"],
        "pytorch_model_folder": request["output"],
        "apply_lora": str(request["is_lora"]).lower(),
        "lora_r": RANK,
        "lora_alpha": 2 * RANK,
        "seed": SEED,
        "learning_rate": request["rate"],
        "lr_scheduler_type": "constant",
        "precision": BITS,
        "per_device_train_batch_size": request["batch"],
        "max_steps": request["steps"],
        "max_memory_gb": round(request["max_memory_gb"], 3),
        "evaluation_strategy": "disable",
        "logging_strategy": "steps",
        "logging_steps": 1,
    }
    sys.argv = [finetune.__file__, *(word for name, value in values.items() for word in (f"--{name}", str(value)))]
    command.run(finetune.__file__, finetune.work)
    output = Path(request["output"])
    state = json.loads((output / "trainer_state.json").read_text(encoding="utf-8"))
    plan = json.loads((output / "finetune_args.json").read_text(encoding="utf-8"))
    log = [entry for entry in state["log_history"] if "loss" in entry]
    return {
        "losses": [entry["loss"] for entry in log],
        "grad_norms": [entry["grad_norm"] for entry in log],
        "forward_tokens": plan.get("forward_tokens"),
    }


def row_lengths(request: Numbers, step: int) -> list[tuple[int, int]]:
    """Return the tokens of each row of a step, and those that are trained."""
    labels = pq.read_table(Path(request["prepared"]) / "train.parquet", columns=["labels"])["labels"].to_pylist()
    order = permutation(len(labels), SEED, 0)[step * request["batch"] : (step + 1) * request["batch"]]
    return [(len(labels[i]), sum(label != -100 for label in labels[i][1:])) for i in order]


def work_of(request: Numbers, length: int, trained: int) -> float:
    """Return the floating-point operations that a row needs, forward and backward, by the network's shapes.

    A product of weights takes 2 operations a weight and token forward, as many for the gradient of its input, and as many for
    that of its weights where they are trained. The head counts at trained positions; attention up to each token only.
    """
    shapes, head, layers, width = network_shapes(request["model"])
    passes = 4 if request["is_lora"] else 6
    weights = sum(rows * columns for rows, columns in shapes)
    adapters = RANK * sum(rows + columns for rows, columns in shapes) if request["is_lora"] else 0
    attention = 6 * length * length * width * layers
    return (passes * weights + 6 * adapters) * length + passes * head[0] * head[1] * trained + attention


def network_shapes(model: str) -> tuple[list[tuple[int, int]], tuple[int, int], int, int]:
    """Return the shapes of all linear layers, that of the head, the layers, and the width of all query heads together."""
    body = json.loads((Path(model) / "config.json").read_text(encoding="utf-8"))
    hidden, inner, layers = body["hidden_size"], body["intermediate_size"], body["num_hidden_layers"]
    head_width = body.get("head_dim") or hidden // body["num_attention_heads"]
    queries, keys = body["num_attention_heads"] * head_width, body["num_key_value_heads"] * head_width
    layer = [(queries, hidden), (keys, hidden), (keys, hidden), (hidden, queries)]
    layer += [(inner, hidden), (inner, hidden), (hidden, inner)]
    return layer * layers, (body["vocab_size"], hidden), layers, queries


def gemm_peak(model: str) -> float:
    """Return the GFLOP/s of the fastest product of the network's shapes, in the dtype that it is trained in, all threads."""
    import torch

    shapes, _, _, _ = network_shapes(model)
    dtype, best = getattr(torch, DTYPE), 0.0
    for rows, columns in sorted(set(shapes)):
        weight = torch.randn(rows, columns).to(dtype)
        for tokens in (512, 1024):
            x = torch.randn(tokens, columns).to(dtype)
            for _ in range(20):
                begun = time.perf_counter()
                torch.nn.functional.linear(x, weight)
                best = max(best, 2 * rows * columns * tokens / (time.perf_counter() - begun) / 1e9)
    return round(best, 1)


def run(request: Numbers, deadline: float) -> Numbers:
    """Do `request` in a process of its own; return its numbers, with its peak memory. Raises `Unfinished`."""
    threads = str(request.get("settings", {}).get("threads", THREADS))
    environment = os.environ | {"OMP_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": "false"}
    with tempfile.TemporaryFile("w+") as output:
        command = [sys.executable, __file__, "--run", json.dumps(request)]
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
        try:
            status, peak = wait(process.pid, deadline)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)  # what it started for itself too: compilers
            raise
        output.seek(0)
        text = output.read()
    if status:
        raise Unfinished(text.strip() or f"status {status}")
    last = next(line for line in reversed(text.splitlines()) if line.startswith("{"))
    return dict(json.loads(last)) | {"peak_memory_mb": round(peak)}


def wait(pid: int, deadline: float) -> tuple[int, float]:
    """Return how a process ended, and its peak memory in MB; raises `Unfinished` at the deadline."""
    while True:
        ended, status, usage = os.wait4(pid, os.WNOHANG)
        if ended:
            return status, usage.ru_maxrss / 1024
        if time.monotonic() > deadline:
            raise Unfinished("it took too long")
        time.sleep(0.1)


def prepare(model: Path, scratch: Path, case: Case) -> Path:
    """Tokenize the first conversations of chitchat, as the pipeline does."""
    data = get_dataset("chitchat", scratch / "chitchat", Access(settings.load().cache))
    count = case.steps * case.rows
    rows = scratch / "train.jsonl"
    lines = data["train"].read_text(encoding="utf-8").splitlines()[: max(4 * count, 40)]
    rows.write_text("\n".join(lines) + "\n", encoding="utf-8")
    held_out = scratch / "held_out.jsonl"
    held_out.write_text("\n".join(data["test"].read_text(encoding="utf-8").splitlines()[:10]) + "\n", encoding="utf-8")
    run_component(
        "prepare_data",
        model=model,
        train_file_path=rows,
        validation_file_path=held_out,
        test_file_path=held_out,
        max_seq_length=case.tokens,
        prepared=scratch / "prepared",
    )
    train = scratch / "prepared" / "train.parquet"
    pq.write_table(pq.read_table(train).slice(0, count), train)
    return scratch / "prepared"


def larger(model: Path, scratch: Path) -> Path:
    """Write a random Llama of 360M parameters, of the shapes of SmolLM2-360M, with the tokenizer of `model`."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    folder = scratch / "larger-model"
    body = json.loads((model / "config.json").read_text(encoding="utf-8"))
    config = LlamaConfig(
        vocab_size=body["vocab_size"],
        hidden_size=960,
        intermediate_size=2560,
        num_hidden_layers=32,
        num_attention_heads=15,
        num_key_value_heads=5,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        **{name: body.get(name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")},
    )
    torch.manual_seed(SEED)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    for path in model.iterdir():
        if path.is_file() and not (folder / path.name).exists() and path.suffix != ".safetensors":
            shutil.copy(path, folder / path.name)
    return folder


if __name__ == "__main__":
    main()
