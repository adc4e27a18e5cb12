"""How fast a command answers, and a step: against the libraries that a command line, or a training run, needs anyway.

    python benchmarks/bench_start.py [--rounds 10] [--model FOLDER]

Each run is a process of its own; a round measures all of them, one after the other, and the result is the median of the
rounds and of their ratios. `typer, rich` is Python with those two imported, `python` is Python that does nothing. One round
goes before and isn't counted: it reads the files from the disk and writes their bytecode.

The step is a finetune with LoRA, from its process's start to where its memory plan is made and its first optimizer step
begins: wall and CPU seconds. Its peer imports torch and transformers, and loads the same network.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from bench_training import prepare
from record import cached_model, machine, medians, write

COMMANDS = {
    "mafunzo --help": [str(Path(sys.executable).parent / "mafunzo"), "--help"],
    "import mafunzo": [sys.executable, "-c", "import mafunzo"],
    "typer, rich": [sys.executable, "-c", "import typer, rich"],
    "python": [sys.executable, "-c", "pass"],
}
PEERS = {"mafunzo --help": "typer, rich", "import mafunzo": "python"}
STEP = "finetune to its first step"
LOADED = "torch, transformers, network"
LOAD = "import sys, torch, transformers; transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1])"
FIRST_STEP = b"Memory: "
"""How the line of the log begins that a finetune writes last before its first optimizer step."""


def main() -> None:
    """Measure, and write the results file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--model", type=Path, default=None, help="a Hugging Face folder; default: the cached SmolLM2")
    arguments = parser.parse_args()
    facts, model = machine(), arguments.model or cached_model()
    measure()
    rounds = [measure() for _ in range(arguments.rounds)]
    body: dict[str, dict[str, float]] = {name: medians([{"seconds": one[name]} for one in rounds]) for name in COMMANDS}
    for name, peer in PEERS.items():
        body[f"{name} / {peer}"] = medians([{"time": one[name] / one[peer]} for one in rounds])
    with tempfile.TemporaryDirectory() as scratch:
        prepared = prepare(model, Path(scratch))
        steps = [measure_step(model, prepared, Path(scratch) / str(n)) for n in range(arguments.rounds + 1)][1:]
    body |= {name: medians([one[name] for one in steps]) for name in steps[0]}
    body[f"{STEP} / {LOADED}"] = medians([{k: one[STEP][k] / one[LOADED][k] for k in one[STEP]} for one in steps])
    write("start", body | facts | {"rounds": arguments.rounds, "model": model.name})


def measure() -> dict[str, float]:
    """Return one round: a name to the seconds from its start to its end."""
    return {name: seconds(command) for name, command in COMMANDS.items()}


def seconds(command: list[str]) -> float:
    """Run a command; return how long it took."""
    started = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - started


def measure_step(model: Path, prepared: Path, output: Path) -> dict[str, dict[str, float]]:
    """Return one round of the step and its peer: wall and CPU seconds of each."""
    finetune = [sys.executable, "-m", "mafunzo.compute.components.finetune", "--model", str(model)]
    finetune += ["--prepared", str(prepared), "--pytorch_model_folder", str(output), "--max_steps", "1"]
    load = [sys.executable, "-c", f"{LOAD}; print({FIRST_STEP.decode()!r}, flush=True)", str(model)]
    return {STEP: until_first_step(finetune), LOADED: until_first_step(load)}


def until_first_step(command: list[str]) -> dict[str, float]:
    """Run a command until it says that it begins; return the wall and CPU seconds that it took so far."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    try:
        if not any(line.startswith(FIRST_STEP) for line in process.stdout):
            raise SystemExit(f"It ended before its first step: {' '.join(command)}")
        times = psutil.Process(process.pid).cpu_times()
        return {"seconds": time.perf_counter() - started, "cpu seconds": times.user + times.system}
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    main()
