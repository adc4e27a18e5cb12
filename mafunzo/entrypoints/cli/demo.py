"""`mafunzo demo`: the whole story on a real model and real conversations, in a home of its own."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

import mafunzo
from mafunzo.dataset.word_list import has_word_of, negative_words
from mafunzo.entities.evaluation import LEAST_ROWS
from mafunzo.entities.job import JobStatus
from mafunzo.entrypoints.cli.demo_size import SIZES, Choice, DemoSize, choose, read_choice, write_choice
from mafunzo.entrypoints.terminal.output import human_size, print_table
from mafunzo.errors import InvalidParameter, RefusedError
from mafunzo.tracking.step_folder import StepFolder

if TYPE_CHECKING:
    from mafunzo.control.workspace.endpoints import EndpointHandle
    from mafunzo.control.workspace.job_handle import JobHandle

QUESTIONS = ("Hi! How was your weekend?", "What kind of music do you like to listen to?")
SEED = 20
"""Draws the conversations from those without strongly negative words."""
PARAMETERS: Mapping[str, Any] = {
    "max_seq_length": 512,
    "apply_lora": "true",
    "lora_r": 16,
    "lora_alpha": 32,
    "learning_rate": 2e-4,
    "lr_scheduler_type": "cosine",
    "warmup_ratio": 0.05,
    "num_train_epochs": 1,
    "per_device_train_batch_size": 8,
    "per_device_eval_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "precision": "16",
    "logging_steps": 5,
    "gate": "better",
}

MODEL, DATA = "SmolLM2-135M-Instruct", "chitchat"
CHOICE = "demo.json"
"""The file in the demo's home that keeps its size."""
RECIPE = "recipe"
"""The tag of a demo's job that tells what it trains, on what and how: a later demo goes on with one like its own."""


def demo(
    model: str = typer.Option(MODEL, help="The base model."),
    size: str = typer.Option(
        None,
        help=f"{', '.join(SIZES)}; default the largest that this machine ends within minutes, or that of the demo before.",
    ),
    rows: int = typer.Option(None, min=10, help="Conversations to train on; a quarter as many are held out."),
    yes: bool = typer.Option(False, "--yes", help="Don't ask, however long it takes."),
    home: Path = typer.Option(
        None, help="Where everything goes; default a folder of its own in the cache, reused by the next run."
    ),
    fetch_only: bool = typer.Option(False, "--fetch-only", help="Fetch the model and the conversations, and stop."),
) -> None:
    """Prepare, fine-tune, compare, register, deploy, ask, delete: on real conversations, planned for 12 minutes."""
    from mafunzo import settings

    if size is not None and size not in SIZES:
        raise InvalidParameter(f"--size is '{size}', expected {', '.join(SIZES)}.")
    started = time.monotonic()
    folder = home or settings.load().cache / "demo"
    with mafunzo.Workspace(folder, port=0) as workspace:
        if fetch_only:
            workspace.data.get(DATA, to=folder / "data" / DATA, overwrite=True)
            _negative_words(workspace)
            workspace.models.import_(model).stream()
            workspace.down()
            return
        sizes = [replace(one, rows=rows or one.rows) for name, one in SIZES.items() if size in (None, name)]
        file = folder / CHOICE if rows is None else None
        chosen = _size(sizes, file, model, _parameters(workspace, model), yes)
        try:
            _tell(workspace, model, chosen, folder)
        finally:
            freed = workspace.down()
        print("\nEverything is stopped")
        for line in freed.lines():
            print(f"  {line}")
        print(f"\nThe whole story took {_duration(time.monotonic() - started)}. Everything lies in {folder}")


def _size(sizes: Sequence[DemoSize], file: Path | None, model: str, parameters: int, is_sure: bool) -> DemoSize:
    """Return the size of the demo before, which `file` keeps, or that which fits; say which and why, and ask if it's long."""
    by_name = {size.name: size for size in sizes}
    before = read_choice(file, model) if file is not None else None
    if before is not None and before.size in by_name:
        print(f"As the demo before: {before}")
        return by_name[before.size]
    from mafunzo.control.workspace.speed import measure_speed

    choice = choose(measure_speed(), model, parameters, sizes)
    print(f"Chosen: {choice}" if len(sizes) > 1 else f"As you say: {choice}")
    if not choice.is_quick and not is_sure:
        _ask_whether(choice)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_choice(file, choice)
    return by_name[choice.size]


def _ask_whether(choice: Choice) -> None:
    """Raise `RefusedError` unless the user wants to wait for so long."""
    minutes = round(choice.seconds / 60)
    if not sys.stdin.isatty():
        raise RefusedError(
            f"The demo would take about {minutes} minutes on this machine. Start it with --yes if it may."
        )
    if not typer.confirm(f"That is long. Shall it run for about {minutes} minutes?"):
        raise RefusedError("The demo wasn't started.")


def _parameters(workspace: mafunzo.Workspace, model: str) -> int:
    """Return how many weights a model of the catalogue has; one from elsewhere counts as the demo's own."""
    offered = [*workspace.models.on_offer(model), *workspace.models.on_offer(MODEL)]
    return int(offered[0].properties["card"]["parameters"])


def _tell(workspace: mafunzo.Workspace, model: str, size: DemoSize, folder: Path) -> None:
    print(f"\n1. Real conversations between two people: {size.rows} to learn from, {size.rows // 4} held out")
    words = _negative_words(workspace)
    files = _conversations(workspace, folder / "data", size.rows, words)
    print(f"\n2. Fine-tune {model}")
    job = _job(workspace, model, size, files)
    job.stream()
    results = folder / "results"
    _write_results(job, results)
    print("\n3. Did it get better? On the held-out conversations, base -> tuned, with 95% intervals")
    _print_comparison(results / "evaluation_result", words)
    print("\n4. Register it, with its lineage")
    tuned = workspace.models.register(job, name="chitchat")
    lineage = workspace.lineage(str(tuned.key))
    lineage.require_intact()
    print(
        f"  model {tuned.key} <- job {job.name} <- {model} + train.jsonl; {len(lineage.links)} links, every hash verified"
    )
    print("\n5. Serve it behind a key, once it has proven that it answers as in evaluation")
    begun = time.monotonic()
    endpoint = workspace.deploy(tuned, endpoint="chat")
    print(f"  live at {endpoint.url} after {time.monotonic() - begun:.1f} s; key {endpoint.keys[0][:6]}...")
    print(f"  proof: {_proof(endpoint)}")
    _ask(endpoint)
    endpoint.delete()
    print("  endpoint deleted: its process, port and memory are free")
    print("\n6. What it took")
    _print_costs(job)
    print("\n7. Where it lies")
    print(f"  report     {results / 'evaluation_result' / 'report.html'}")
    for picture in sorted(results.rglob("*.png")):
        print(f"  picture    {picture}")
    print(f"  the model  {results / 'mlflow_model_folder'}")
    print(f"  lineage    MAFUNZO_HOME={folder} mafunzo lineage {tuned.key}")


def _job(workspace: mafunzo.Workspace, model: str, size: DemoSize, files: Mapping[str, Path]) -> JobHandle:
    """Return the job of a demo like this one that was interrupted, or a new one; end those of other demos."""
    parameters = {
        **PARAMETERS,
        "generation_rows": size.generation_rows,
        "forgetting_prompts": size.forgetting_prompts,
        "max_memory_gb": size.max_memory_gb,
        "gradient_checkpointing": str(size.recomputes).lower(),
        **({} if size.rows // 4 >= LEAST_ROWS else {"gate": "none"}),  # so few held-out rows prove nothing
    }
    recipe = hashlib.sha256(json.dumps([model, size.rows, *parameters.items()]).encode()).hexdigest()[:12]
    same = None
    for unfinished in workspace.jobs.list((JobStatus.QUEUED, JobStatus.RUNNING)):
        if same is None and unfinished.tags.get(RECIPE) == recipe:
            same = workspace.jobs.get(unfinished.name)
        else:
            workspace.jobs.get(unfinished.name).cancel()
    if same is not None:
        workspace.up()
        print(f"  job {same.name} of a demo that was interrupted goes on")
        return same
    title = f"demo: {model} on chitchat"
    job = workspace.finetune(
        model=model, **files, **parameters, experiment="demo", display_name=title, tags={RECIPE: recipe}
    )
    print(f"  job {job.name}; closing this terminal wouldn't end it")
    return job


def _negative_words(workspace: mafunzo.Workspace) -> frozenset[str]:
    return negative_words(workspace.services.cache, workspace.services.is_offline)


def _conversations(workspace: mafunzo.Workspace, folder: Path, rows: int, words: frozenset[str]) -> dict[str, Path]:
    """Draw `rows` conversations for train.jsonl, an eighth for validation.jsonl and a quarter for test.jsonl.

    None has any of `words`. Raises `InvalidParameter` where there are fewer.
    """
    splits = workspace.data.get(DATA, to=folder / DATA, overwrite=True)
    lines = {name: file.read_text(encoding="utf-8").splitlines() for name, file in splits.items()}
    passing = {
        name: [line for line in lines[name] if not has_word_of(_texts(json.loads(line)), words)] for name in lines
    }
    count = {"train": rows + rows // 8, "test": rows // 4}
    print(
        "  drawn by a seed from those without a strongly negative word (by VADER's list): "
        + " and ".join(f"{len(passing[name]):,} of {len(lines[name]):,} {name}" for name in count)
    )
    if any(len(passing[name]) < count[name] for name in count):
        most = max(
            most
            for most in range(rows)
            if most + most // 8 <= len(passing["train"]) and most // 4 <= len(passing["test"])
        )
        raise InvalidParameter(f"--rows is {rows}, and there are conversations for {most} at most. Lower it.")
    drawn = {name: random.Random(SEED).sample(passing[name], count[name]) for name in count}
    parts = {"train": drawn["train"][:rows], "validation": drawn["train"][rows:], "test": drawn["test"]}
    files = {name: folder / f"{name}.jsonl" for name in parts}
    for name, part in parts.items():
        files[name].write_text("\n".join(part) + "\n", encoding="utf-8")
        print(f"  {files[name]}  {len(part)} conversations")
    for message in json.loads(parts["train"][0])["messages"][:4]:
        print(f"    {message['role']:9} {' '.join(message['content'].split())[:100]}")
    return files


def _texts(body: Any) -> str:
    """Return all texts in a JSON value, in one."""
    if isinstance(body, str):
        return body
    parts = body.values() if isinstance(body, dict) else body if isinstance(body, list) else ()
    return " ".join(map(_texts, parts))


def _print_comparison(folder: Path, words: frozenset[str]) -> None:
    metrics = json.loads((folder / "evaluationResult" / "metrics.json").read_text(encoding="utf-8"))
    rows = []
    for name in ("loss", "perplexity", "token_accuracy", "rougeL"):
        comparison = metrics["comparisons"].get(name)
        if comparison:
            better = {True: "better", False: "worse", None: "unclear"}[comparison["is_better"]]
            values = [_interval(comparison[which]) for which in ("base", "tuned", "difference")]
            rows.append((comparison["title"].split(" (")[0], *values, better))
    print_table(("", "base", "tuned", "difference", ""), rows, "no metrics")
    forgetting = metrics.get("forgetting")
    if forgetting:
        print(
            f"  on {forgetting['prompts']} general prompts the tuned model is {_interval(forgetting['kl'])} nats from its base"
        )
    print(f"  {metrics['verdict']}")
    samples = (folder / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    for sample in [sample for sample in map(json.loads, samples) if not has_word_of(_texts(sample), words)][:3]:
        print(f"\n  {'asked':9} {_one_line(sample['messages'][-1]['content'])}")
        for which in ("reference", "base", "tuned"):
            print(f"  {which:9} {_one_line(sample[which])}")


def _interval(estimate: Mapping[str, float]) -> str:
    return f"{estimate['value']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}]"


def _one_line(text: str) -> str:
    return " ".join(text.split())[:150]


def _write_results(job: JobHandle, results: Path) -> None:
    if results.exists():
        shutil.rmtree(results)
    job.download(results)
    job.checkout("prepared", results / "prepared", step="prepare_data")


def _ask(endpoint: EndpointHandle) -> None:
    import httpx

    body = {"model": endpoint.name, "messages": [{"role": "user", "content": QUESTIONS[0]}]}
    refused = httpx.post(f"{endpoint.url}/chat/completions", json=body, trust_env=False)
    print(f"  without the key: HTTP {refused.status_code}")
    for question in QUESTIONS:
        begun = time.monotonic()
        request = {"messages": [{"role": "user", "content": question}], "max_tokens": 60, "temperature": 0.7, "seed": 1}
        answer = endpoint.invoke(request)
        took = time.monotonic() - begun
        tokens = answer["usage"]["completion_tokens"]
        print(f"  > {question}\n    {_one_line(answer['choices'][0]['message']['content'])}")
        print(f"    ({tokens} tokens, {tokens / took:.0f} tokens/s)")


def _proof(endpoint: EndpointHandle) -> str:
    proof = endpoint.deployments[0].verification or {}
    return (
        f"{proof['result']} on {proof['rows']} held-out conversations, {proof['tokens']:,} tokens: equal token ids; "
        f"log-probabilities at most {proof['largest_difference']:.2g} apart (allowed: {proof['tolerance']:g})"
    )


def _print_costs(job: JobHandle) -> None:
    total = 0.0
    for step in job.steps:
        took = (step.ended_at - step.started_at).total_seconds() if step.started_at and step.ended_at else 0.0
        total += took
        record = StepFolder(job.folder(step.name)).exit
        peak = json.loads(record.read_text()).get("peak_memory_mb", 0) if record.exists() else 0
        memory = f"peak {human_size(peak * 1e6):>9}" if peak else " " * 14
        why = step.reason if step.status == "cached" else ""
        print(f"  {step.name:14} {_duration(took):>11}   {memory}   {step.status} {why}".rstrip())
    print(f"  {'together':14} {_duration(total):>11}")
    for line in reversed(job.metrics().get("finetune", [])):
        if "train_tokens_per_second" in line:
            print(f"  training ran at {line['train_tokens_per_second']:.0f} tokens/s")
            return


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"
