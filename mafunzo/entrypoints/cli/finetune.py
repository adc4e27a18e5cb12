"""`mafunzo finetune` and `mafunzo compare`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

import mafunzo
from mafunzo.entities.config_tool import ConfigTool
from mafunzo.entities.job import NOTES
from mafunzo.entrypoints.cli.config_file import arguments_of
from mafunzo.entrypoints.terminal.estimate import estimate_facts
from mafunzo.entrypoints.terminal.output import AS_JSON, DETACH, follow, print_facts, print_json, print_table
from mafunzo.entrypoints.terminal.words import pairs

if TYPE_CHECKING:
    from mafunzo.entities.estimate import Estimate

CONFIG = typer.Argument(None, help="A YAML file of parameters, then key=value pairs that win over it.")
MODEL = typer.Option(None, help="A model of the catalogue, a registered one, org/name of a hub, or a folder.")
TRAIN = typer.Option(
    None,
    help="Conversations to learn from: jsonl, ndjson, json, csv, tsv, parquet or arrow, also compressed; or a folder.",
)
VALIDATION = typer.Option(None, help="Conversations that choose the best checkpoint; default the end of --train.")
TEST = typer.Option(None, help="Held-out conversations that compare base and tuned; default the end of --train.")
FROM = typer.Option(
    None,
    "--from",
    help="Whose configuration the file is. What becomes of each of its keys is printed first.",
)
DROP = typer.Option(None, metavar="KEY", help="With --from: a key of the file to leave out; as often as needed.")
ON_BAD_ROW = typer.Option(None, help="fail or skip: what happens when rows can't be used; default fail.")


def finetune(
    config: list[str] = CONFIG,
    model: str = MODEL,
    train: Path = TRAIN,
    validation: Path = VALIDATION,
    test: Path = TEST,
    on_bad_row: str = ON_BAD_ROW,
    source: ConfigTool = FROM,
    drop: list[str] = DROP,
    priority: int = typer.Option(None, help="Jobs of a higher priority run first; default 0."),
    strict_compute: bool = typer.Option(
        False, "--strict-compute", help="Refuse a job that asks for more machines and GPUs than are here."
    ),
    compute: str = typer.Option(
        None, help="Where training runs: local, or a compute's name. On a Ray cluster its nodes train together."
    ),
    dry_run: bool = typer.Option(
        False,
        "--dry-run",
        help="Print the plan, and what the run would take by a few steps on these rows; train nothing.",
    ),
    detach: bool = DETACH,
    as_json: bool = AS_JSON,
) -> None:
    """Fine-tune a chat model, evaluate it against its base, and package it.

    Example: mafunzo finetune --model SmolLM2-135M-Instruct --train train.jsonl apply_lora=true num_train_epochs=1

    All parameters, with defaults and ranges: mafunzo component show chat_completion_pipeline
    """

    options = {"model": model, "train": train, "validation": validation, "test": test}
    arguments = arguments_of(
        config or [],
        {
            **options,
            "on_bad_row": on_bad_row,
            "priority": priority,
            "strict_compute": strict_compute or None,
            "compute_finetune": compute,
        },
        source,
        drop or [],
        as_json,
    )
    workspace = mafunzo.Workspace()
    if dry_run:
        _print_plan(workspace, arguments, as_json)
        return
    job = workspace.finetune(**arguments)
    if detach:
        for note in job.job.properties.get(NOTES, ()):
            typer.echo(f"note: {note}", err=True)
    follow(job, detach, as_json, f"Register it: mafunzo model register {job.name} --name NAME")


def compare(
    model: str = typer.Argument(help="A registered model, or a folder."),
    data: Path = typer.Option(..., help="Held-out conversations."),
    against: str = typer.Option(None, help="The other model; default the base that it was tuned from."),
    parameters: list[str] = typer.Option(
        [], "--set", help="key=value, as often as needed: a parameter of the evaluation."
    ),
    detach: bool = DETACH,
    as_json: bool = AS_JSON,
) -> None:
    """Evaluate two models on the same held-out rows; print the differences with their intervals."""
    job = mafunzo.Workspace().compare(model, data, against, **pairs(parameters))
    follow(job, detach, as_json, f"Report: mafunzo job download {job.name} --to FOLDER --output evaluation_result")


def estimated(workspace: "mafunzo.Workspace", arguments: dict[str, Any], as_json: bool) -> "Estimate":
    """Estimate a fine-tuning, with the job's stream beside the output where people read it."""
    job = workspace.jobs.estimate(**arguments)
    job.wait() if as_json else job.stream(to=sys.stderr)
    return workspace.jobs.read_estimate(job.name)


def _print_plan(workspace: "mafunzo.Workspace", arguments: dict[str, Any], as_json: bool) -> None:
    """Print the job's steps, and what training takes, or what has to be fetched before that can be told."""
    job, steps = workspace.jobs.plan_finetune(**arguments)
    missing = _missing(workspace.jobs.unfetched_model(steps))
    if as_json:
        result = None if missing else estimated(workspace, arguments, as_json).as_dict()
        print_json({"job": job, "steps": steps, "estimate": result, "missing": missing})
        return
    _print_steps(job, steps)
    if missing:
        print(f"\nTime, memory and disk can't be told: {missing}")
        return
    print("\nTraining, by a few steps on these rows:", flush=True)
    print_facts(estimate_facts(estimated(workspace, arguments, as_json)))


def _missing(model: str | None) -> str:
    """Return why training can't be estimated; empty where it can."""
    return (
        f"the model {model} isn't on this machine yet: mafunzo model import {model.partition(':')[0]}" if model else ""
    )


def _print_steps(job: Any, steps: list[Any]) -> None:
    print_facts({"job": job.display_name, "experiment": job.experiment})
    for note in job.properties.get(NOTES, ()):
        print(f"note: {note}")
    for step in steps:
        rows = list(step.spec.literals.items())
        print(f"\n{step.name} ({step.spec.component}, {step.spec.resources.cpus or 'all'} cores)")
        print_table(("parameter", "value"), rows, "  no parameters")
