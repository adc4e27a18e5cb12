"""What minding others costs on a quiet machine, and what is left of the speed on a busy one: training, evaluation, a worker.

    python benchmarks/bench_busy_machine.py [--model FOLDER] [--pairs 10] [--busy-rounds 5]

Two processes do each work, one as a step or worker does, whose threads wait asleep when the machine is busy
(mafunzo/compute/device/waiting.py), one as OpenMP comes: its threads always spin for a while. Both have loaded and warmed up
before; a pair asks one after the other, in turns. Then a process for each core that never rests is started beside them, and
both are asked again. Work is an optimizer step over two rows of 512 tokens,
the loss of two held-out rows before and after, and a reply of 24 tokens to a prompt of 200.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from record import cached_model, machine, write

from mafunzo.compute.device import waiting

WORKS = ("training", "evaluation", "worker")
ROW_TOKENS, PROMPT_TOKENS, NEW_TOKENS = 512, 200, 24


def main() -> None:
    """Measure, and write the results file; the other ways in are for the processes that this starts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=None, help="a Hugging Face folder; default: the cached SmolLM2")
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--busy-rounds", type=int, default=5)
    parser.add_argument("--work", choices=WORKS, help=argparse.SUPPRESS)
    parser.add_argument("--watch", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    model = arguments.model or cached_model()
    if arguments.work:
        if arguments.watch:
            waiting.watch(leaves_cores=arguments.work != "worker")
        answer(arguments.work, model)
        return
    facts = machine()
    body = {work: measure(work, model, arguments.pairs, arguments.busy_rounds, facts["threads"]) for work in WORKS}
    write("busy_machine", body | facts | {"model": model.name, "pairs": arguments.pairs})


def measure(work: str, model: Path, pairs: int, busy_rounds: int, cores: int) -> dict[str, object]:
    """Return the seconds of a piece of work, alone and beside others, and the ratios that count."""
    with asked(work, model, "--watch") as watching, asked(work, model) as spinning:
        alone = [(watching(), spinning()) if pair % 2 else (spinning(), watching())[::-1] for pair in range(pairs)]
        with busy(cores):
            time.sleep(1)
            crowded = [(watching(), spinning()) for _ in range(busy_rounds)]
    ratios = [ours / theirs for ours, theirs in alone]
    alone_s, spinning_s = (statistics.median(seconds) for seconds in zip(*alone, strict=True))
    figures = {
        "alone, s": round(alone_s, 3),
        "alone, as ours / always spinning": interval(ratios),
        "busy, s": round(statistics.median(ours for ours, _ in crowded), 3),
        "speed left beside busy cores": interval([alone_s / ours for ours, _ in crowded]),
        "speed left, always spinning": interval([spinning_s / theirs for _, theirs in crowded]),
    }
    print(json.dumps({work: figures}), flush=True)
    return figures


def interval(values: Sequence[float]) -> dict[str, float]:
    """Return the median and the 95% interval of the median, by drawing the values again and again."""
    draws = np.random.default_rng(0).choice(np.asarray(values), (10_000, len(values)))
    low, high = np.percentile(np.median(draws, axis=1), [2.5, 97.5])
    return {"median": round(statistics.median(values), 3), "low": round(float(low), 3), "high": round(float(high), 3)}


@contextmanager
def asked(work: str, model: Path, *options: str) -> Iterator[Callable[[], float]]:
    """Start a process that works when it is asked to; yield what asks it, which returns the seconds."""
    command = [sys.executable, __file__, "--work", work, "--model", str(model), *options]
    environment = {name: text for name, text in os.environ.items() if name not in waiting.USERS_OWN}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        source, target = process.stdout, process.stdin

        def ask() -> float:
            target.write("\n")
            target.flush()
            for line in source:
                if line.startswith("took "):
                    return float(line.removeprefix("took "))
            raise SystemExit(f"The process that does {work} has ended.")

        ask()  # the first round prepares
        yield ask
        target.close()


@contextmanager
def busy(cores: int) -> Iterator[None]:
    """Have a process for each core that never rests."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(cores)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def answer(work: str, model: Path) -> None:
    """Load, then do the work for each line of the standard input."""
    with tempfile.TemporaryDirectory() as scratch:
        make = {"training": training, "evaluation": evaluation, "worker": worker}[work]
        do = make(model, Path(scratch))
        for _ in sys.stdin:
            started = time.perf_counter()
            do()
            print(f"took {time.perf_counter() - started}", flush=True)


def rows(count: int, vocabulary: int = 20_000) -> list[list[int]]:
    """Return token ids drawn by a seed: speed doesn't depend on what they say."""
    return np.random.default_rng(0).integers(100, vocabulary, (count, ROW_TOKENS)).tolist()


def training(model: Path, scratch: Path) -> Callable[[], object]:
    """Return an optimizer step, as the finetune step takes it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from mafunzo.compute.chat.tokenizer import load_tokenizer
    from mafunzo.compute.training.arguments import TrainingArguments
    from mafunzo.compute.training.run import TrainingRequest, assemble
    from mafunzo.compute.training.state import History, TrainingState
    from mafunzo.compute.training.trainer import Trainer

    ids = rows(8)
    table = pa.table({"input_ids": ids, "labels": ids, "length": [ROW_TOKENS] * 8})
    for split in ("train", "validation"):
        pq.write_table(table, scratch / f"{split}.parquet")
    load_tokenizer(model).save_pretrained(scratch / "tokenizer")
    values = {"apply_lora": True, "lora_r": 16, "per_device_train_batch_size": 2, "num_train_epochs": 100}
    run = assemble(TrainingRequest(model, scratch, scratch / "out", TrainingArguments.from_values(values)))
    run.network.train()
    state = TrainingState(forward_tokens=2 * ROW_TOKENS)
    trainer = Trainer(run, state, History(run, state), None)
    batches = next(iter(run_steps(run)))
    return lambda: trainer.step(batches)


def run_steps(run: object) -> Iterator[list[object]]:
    """Yield the batches of each optimizer step."""
    from mafunzo.compute.training.data_order import load_steps

    yield from load_steps(run.rows, run.order, 0, 2 * ROW_TOKENS, 0)  # type: ignore[attr-defined]


def evaluation(model: Path, scratch: Path) -> Callable[[], object]:
    """Return the loss of held-out rows, as the evaluate step computes it."""
    from mafunzo.compute.evaluation.likelihood import likelihood_sums
    from mafunzo.compute.evaluation.tasks import EncodedRow
    from mafunzo.compute.inference.executor_torch import TorchExecutor
    from mafunzo.compute.model.loading import load_network

    network = load_network(model, dtype=serving(model))
    executor = TorchExecutor(network, pack_weights=True)
    held_out = [EncodedRow(ids, ids, "test", index) for index, ids in enumerate(rows(2))]
    return lambda: likelihood_sums(executor.network, held_out, 2, lambda _: None)


def worker(model: Path, scratch: Path) -> Callable[[], object]:
    """Return a reply, as an endpoint's worker generates it."""
    from mafunzo.compute.chat.tokenizer import load_tokenizer
    from mafunzo.compute.inference.engine import Engine
    from mafunzo.compute.inference.executor_torch import TorchExecutor
    from mafunzo.compute.model.loading import load_network

    executor = TorchExecutor(load_network(model, dtype=serving(model)), pack_weights=True)
    engine = Engine(executor, load_tokenizer(model), keeps_prefixes=False)
    return lambda: engine.generate([rows(1)[0][:PROMPT_TOKENS]], NEW_TOKENS)


def serving(model: Path) -> object:
    """Return the number format that a worker computes in on this machine."""
    from mafunzo.compute.inference.loading import serving_dtype

    return serving_dtype(model, "cpu")


if __name__ == "__main__":
    main()
