"""Our prepare_data step against TRL's preprocessing: the same tokenizer and conversations, to token ids and labels.

    python benchmarks/bench_prepare.py [--quick] [--model FOLDER] [--rounds 3]

4,000 real conversations of two people, cut at 1,024 tokens, only the assistant's words trained: as they are, some 40 turns of
15 tokens ("short turns"), and with the words of neighbouring turns joined to 8 turns ("long turns"), as in the data sets that
models are asked to write. TRL's part is what
`SFTTrainer` does to its rows before it trains (`_prepare_dataset`: template, tokens, labels, truncation), from a data set in
memory, at one process and, on several cores, at as many as there are cores (`dataset_num_proc`), of which the faster counts.
Ours is the whole component but its imports: it also reads and checks the file, compares rows, writes them and the report. Both
run on one core and on all cores, in turns; a round's result is a ratio, and the result the median of the rounds. Ours runs
without the token cache, then with an empty one, and then again: what the last takes is that of a re-run on unchanged rows, of
which the part that tokenizes is told apart (from rows as they are read to ids and labels).

The token ids and labels of both must be equal, or nothing is written. Memory is the peak of the process over 20,000 and
200,000 short rows. `--quick` shows in a minute or two that all works, and writes no results file.
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from itertools import count as numbers
from itertools import islice, product
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from record import cached_model, machine, write

from mafunzo import settings
from mafunzo.dataset.download import Access, get_dataset

LENGTH = 1024
ROWS = ("short turns", "long turns")
CORES = sorted(os.sched_getaffinity(0))
Numbers = dict[str, Any]


def main() -> None:
    """Measure, check that both gave the same tokens, and write the results file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=None, help="a Hugging Face folder; default: the cached SmolLM2")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="see that it works; writes nothing")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        print(json.dumps(measured(json.loads(arguments.run))))
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    facts, model = machine(), arguments.model or cached_model()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        write_conversations(scratch, 200 if arguments.quick else 4000)
        rounds = [measure(model, scratch) for _ in range(1 if arguments.quick else arguments.rounds)]
        body = summary(rounds)
        for count in (2_000, 20_000) if arguments.quick else (20_000, 200_000):
            write_short_rows(scratch, count)
            line = run({"who": "ours", "rows": "short rows", "model": str(model), "scratch": folder}, CORES)
            body[f"peak memory of {count:,} rows, MB"] = line["peak_memory_mb"]
    print(json.dumps(body, indent=1))
    if arguments.quick:
        print("All ran. A quick run measures nothing: no results file is written.")
        return
    write("prepare", body | facts | {"model": model.name})


def measure(model: Path, scratch: Path) -> dict[str, Numbers]:
    """Return one round: who, on how many cores, and what it gave."""
    lines: dict[str, Numbers] = {}
    for rows, cores in product(ROWS, [CORES[:1], CORES] if len(CORES) > 1 else [CORES]):
        request = {"rows": rows, "model": str(model), "scratch": str(scratch)}
        tries = [run(request | {"who": "trl", "processes": count}, cores) for count in sorted({1, len(cores)})]
        lines[f"trl on {len(cores)}, {rows}"] = max(tries, key=lambda line: line["rows_per_s"])
        lines[f"ours on {len(cores)}, {rows}"] = run(request | {"who": "ours"}, cores)
        require_same_tokens(scratch)
        cache = {"who": "ours", "cache": str(scratch / "cache")}
        run(request | cache, cores)
        require_same_tokens(scratch)
        lines[f"ours again on {len(cores)}, {rows}"] = run(request | cache, cores)
        require_same_tokens(scratch)
        shutil.rmtree(scratch / "cache")
    print(json.dumps(lines), flush=True)
    return lines


def summary(rounds: list[dict[str, Numbers]]) -> Numbers:
    """Return the medians of the rounds, of their ratios, and each round's ratios."""
    body: Numbers = {
        name: {key: round(statistics.median(one[name][key] for one in rounds), 2) for key in rounds[0][name]}
        for name in rounds[0]
    }
    counts = sorted({1, len(CORES)})
    pairs: dict[str, tuple[str, str]] = {}
    for rows in ROWS:
        pairs |= {f"ours / trl on {n}, {rows}": (f"ours on {n}, {rows}", f"trl on {n}, {rows}") for n in counts}
        pairs |= {
            f"ours again / ours on {n}, {rows}": (f"ours again on {n}, {rows}", f"ours on {n}, {rows}") for n in counts
        }
        pairs |= {f"ours on {n} / on 1, {rows}": (f"ours on {n}, {rows}", f"ours on 1, {rows}") for n in counts[1:]}
    for name, (one, other) in pairs.items():
        each = [round(line[one]["rows_per_s"] / line[other]["rows_per_s"], 2) for line in rounds]
        body[name] = {"rows_per_s": round(statistics.median(each), 2), "of each round": each}
    for rows in ROWS:  # on one core: what workers take isn't seen from outside
        first, again = (f"ours{again} on 1, {rows}" for again in ("", " again"))
        each = [round(line[first]["tokenizing_s"] / line[again]["tokenizing_s"], 2) for line in rounds]
        median = round(statistics.median(each), 2)
        body[f"ours again / ours, tokenizing on 1, {rows}"] = {"times as fast": median, "of each round": each}
    return body


def require_same_tokens(scratch: Path) -> None:
    """Raise `SystemExit` where the ids or labels of a row differ: both did other work."""
    columns = ["input_ids", "labels"]
    ours, theirs = (pq.read_table(scratch / name / "train.parquet", columns=columns) for name in ("ours", "trl"))
    if ours.to_pylist() != theirs.to_pylist():
        raise SystemExit(f"The tokens differ, so that speeds can't be compared: {len(ours)} and {len(theirs)} rows.")


def write_conversations(scratch: Path, count: int) -> None:
    """Write real conversations as training rows, and a few as held-out rows."""
    data = get_dataset("chitchat", scratch / "chitchat", Access(settings.load().cache))
    rows = [json.loads(line) for line in data["train"].read_text(encoding="utf-8").splitlines()]
    own = [row["messages"] for row in rows if row["messages"][0]["role"] == "user"]
    rounds = ([{**first, "content": f"{first['content']} {i}"}, *others] for i in numbers() for first, *others in own)
    wanted = [{"messages": messages} for messages in islice(rounds, count)]
    _write(scratch / "short turns.jsonl", wanted)
    _write(scratch / "long turns.jsonl", map(with_long_turns, wanted))
    _write(scratch / "held_out.jsonl", [conversation(-1)])


def with_long_turns(row: Numbers) -> Numbers:
    """Return a conversation with the same words in at most 8 turns of two people."""
    texts = [message["content"] for message in row["messages"]]
    size = max(1, -(-len(texts) // 8))
    turns = [" ".join(texts[first : first + size]) for first in range(0, len(texts), size)]
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[i % 2], "content": text} for i, text in enumerate(turns)]}


def write_short_rows(scratch: Path, count: int) -> None:
    """Write short conversations, none like another."""
    _write(scratch / "short rows.jsonl", map(conversation, range(count)))


def conversation(number: int) -> Numbers:
    """Return a short conversation."""
    turns = [("user", f"What comes after {number}?"), ("assistant", f"After {number} comes {number + 1}.")]
    return {"messages": [{"role": role, "content": text} for role, text in turns]}


def _write(path: Path, rows: Any) -> None:
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


# What follows is done in processes of their own.


def measured(request: Numbers) -> Numbers:
    """Prepare the rows, and return how many a second, by the clock and by processor time."""
    work = prepare_ours(request) if request["who"] == "ours" else prepare_trl(request)
    rows = sum(1 for _ in (Path(request["scratch"]) / f"{request['rows']}.jsonl").open("rb"))
    seconds, cpu_seconds, tokenizing_s = work
    return {
        "rows_per_s": round(rows / seconds, 1),
        "rows_per_cpu_s": round(rows / cpu_seconds, 1),
        "tokenizing_s": round(tokenizing_s, 3),
    }


def timed(work: Any) -> tuple[float, float]:
    """Return the seconds of some work, by the clock and by the processor time of this process and its children."""
    before, started = os.times(), time.perf_counter()
    work()
    after = os.times()
    return time.perf_counter() - started, sum(after[:4]) - sum(before[:4])


def prepare_ours(request: Numbers) -> tuple[float, float, float]:
    """Run the component as a job does; return its seconds, processor seconds, and those in which it waited for tokens.

    On one core the last are those that preparing a block took, or reading it from the cache.
    """
    import matplotlib.figure  # noqa: F401 - imports are no part of the time

    from mafunzo.compute.chat.row_cache import RowCache
    from mafunzo.compute.chat.row_workers import Work
    from mafunzo.compute.chat.tokenizer import load_tokenizer
    from mafunzo.compute.components import prepare_data
    from mafunzo.compute.components.command import load_interface, parse

    scratch = Path(request["scratch"])
    load_tokenizer(Path(request["model"]))  # for its imports too
    shutil.rmtree(scratch / "ours", ignore_errors=True)
    values = {
        "model": request["model"],
        "train_file_path": scratch / f"{request['rows']}.jsonl",
        "validation_file_path": scratch / "held_out.jsonl",
        "test_file_path": scratch / "held_out.jsonl",
        "max_seq_length": LENGTH,
        "prepared": scratch / "ours",
    }
    interface = load_interface(Path(prepare_data.__file__).with_suffix(".yml"))
    arguments = parse(interface, [word for name, value in values.items() for word in (f"--{name}", str(value))])
    arguments = replace(arguments, cache=Path(request["cache"]) if "cache" in request else None)
    waits = [count_time(Work, "prepare"), count_time(RowCache, "get")]
    seconds, cpu_seconds = timed(lambda: prepare_data.work(arguments))
    return seconds, cpu_seconds, sum(map(sum, waits))


def count_time(owner: Any, name: str) -> list[float]:
    """Have a method note the processor seconds of each of its calls in the list that is returned."""
    method, times = getattr(owner, name), list[float]()

    def counted(*arguments: Any) -> Any:
        started = time.process_time()
        result = method(*arguments)
        times.append(time.process_time() - started)
        return result

    setattr(owner, name, counted)
    return times


def prepare_trl(request: Numbers) -> tuple[float, float, float]:
    """Have SFTTrainer prepare its rows, with a tiny network in place of the model; write what it made."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig
    from trl import SFTConfig, SFTTrainer

    scratch = Path(request["scratch"])
    lines = (scratch / f"{request['rows']}.jsonl").read_text(encoding="utf-8").splitlines()
    rows = Dataset.from_list([{"messages": json.loads(line)["messages"]} for line in lines])
    tokenizer = AutoTokenizer.from_pretrained(request["model"])
    tokenizer.chat_template = training_template(tokenizer.chat_template)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    network = AutoModelForCausalLM.from_config(LlamaConfig(vocab_size=len(tokenizer), **sizes))
    spent: list[tuple[float, float]] = []
    inner = SFTTrainer._prepare_dataset

    def prepare(*arguments: Any, **others: Any) -> Any:
        results: list[Any] = []
        spent.append(timed(lambda: results.append(inner(*arguments, **others))))
        return results[0]

    SFTTrainer._prepare_dataset = prepare
    with tempfile.TemporaryDirectory() as output:
        config = SFTConfig(
            output_dir=output,
            assistant_only_loss=True,
            max_length=LENGTH,
            dataset_num_proc=request["processes"] if request["processes"] > 1 else None,
            use_cpu=True,
            bf16=False,
            report_to=[],
        )
        trainer = SFTTrainer(model=network, args=config, train_dataset=rows, processing_class=tokenizer)
    (scratch / "trl").mkdir(exist_ok=True)
    table = trainer.train_dataset.with_format("arrow")[:].select(["input_ids", "labels"])
    pq.write_table(table, scratch / "trl" / "train.parquet")
    return *spent[0], 0.0


def training_template(source: str) -> str:
    """Return a template of ChatML with marks around what the assistant writes, from which TRL takes the labels."""
    plain = "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    if plain not in source:
        raise SystemExit("This model's chat template isn't ChatML as SmolLM2 writes it: TRL can't mask its rows.")
    marked = (
        "{{'<|im_start|>' + message['role'] + '\n'}}{% if message['role'] == 'assistant' %}{% generation %}"
        "{{message['content'] + '<|im_end|>'}}{% endgeneration %}{% else %}{{message['content'] + '<|im_end|>'}}{% endif %}"
        "{{'\n'}}"
    )
    return source.replace(plain, marked)


def run(request: Numbers, cores: list[int]) -> Numbers:
    """Do `request` in a process of its own on these cores; return its numbers, with its peak memory."""
    threads = {name: str(len(cores)) for name in ("OMP_NUM_THREADS", "RAYON_NUM_THREADS")}
    environment = os.environ | threads | {"HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryDirectory() as cache:
        process = subprocess.Popen(
            [sys.executable, __file__, "--run", json.dumps(request)],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment | {"HF_DATASETS_CACHE": cache},  # an earlier run's rows aren't used again
            start_new_session=True,
        )
        os.sched_setaffinity(process.pid, cores)
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        output.seek(0)
        text = output.read()
    if status:
        raise SystemExit(text)
    last = next(line for line in reversed(text.splitlines()) if line.startswith("{"))
    return dict(json.loads(last)) | {"peak_memory_mb": round(usage.ru_maxrss / 1024)}


if __name__ == "__main__":
    main()
