"""`mafunzo job`: what is in the queue, what runs, what has ended."""

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

import mafunzo
from mafunzo.entities.pruning import PruneKind, pruned_at, pruned_text
from mafunzo.entrypoints.terminal.output import (
    ALL,
    AS_JSON,
    DETACH,
    LIMIT,
    follow,
    human_size,
    one_page,
    print_facts,
    print_json,
    print_list,
    print_more,
    print_result,
    print_table,
)
from mafunzo.entrypoints.terminal.words import pairs
from mafunzo.tracking.printable import printable

app = typer.Typer(help="Jobs in the queue, running, and ended.", no_args_is_help=True)
NAME = typer.Argument(help="The job's name.")


@app.command("list")
def list_jobs(
    limit: int = LIMIT,
    before: str = typer.Option(None, help="The name of a job: list those that are older than it."),
    everything: bool = ALL,
    as_json: bool = AS_JSON,
) -> None:
    """List jobs, newest first; a waiting one with its place in the queue."""
    workspace = mafunzo.Workspace()
    jobs, has_more = one_page(lambda most: workspace.jobs.list(limit=most, before=before), limit, everything)
    places = _places(workspace)
    bodies = [dataclasses.asdict(job) | {"place": places.get(job.name)} for job in jobs]
    rows = [(j.name, j.status, places.get(j.name), j.priority, j.display_name, j.created_at) for j in jobs]
    columns = ("name", "status", "place", "priority", "what", "created")
    empty = "No jobs. Start one with: mafunzo finetune" if before is None else f"No job is older than {before}."
    print_list(bodies, as_json, columns, rows, empty)
    print_more(has_more, "mafunzo job list", f"--before {jobs[-1].name}" if jobs else "", limit, as_json)


@app.command()
def show(name: str = NAME, as_json: bool = AS_JSON) -> None:
    """Show a job and its steps: status, time, and why each ran, waited or was taken from the cache."""
    workspace = mafunzo.Workspace()
    handle = workspace.jobs.get(name)
    job, steps, place = handle.job, handle.steps, _places(workspace).get(name)
    if as_json:
        print_json({"job": dataclasses.asdict(job) | {"place": place}, "steps": steps})
        return
    facts: dict[str, Any] = {
        "name": job.name,
        "status": job.status,
        "place in the queue": place,
        "priority": job.priority,
    }
    facts |= {"what": job.display_name, "experiment": job.experiment}
    facts |= {"created": job.created_at, "ended": job.ended_at, "pruned": pruned_text(job)}
    print_facts({**facts, "error": _failure(job.error)})
    rows = []
    for step in steps:
        took = (step.ended_at - step.started_at).total_seconds() if step.started_at and step.ended_at else None
        reason = _failure(step.error) or step.reason
        rows.append((step.name, step.status, "" if took is None else f"{took:.1f} s", reason, handle.folder(step.name)))
    print_table(("step", "status", "took", "why", "folder"), rows, "No steps.")


@app.command()
def stream(
    name: str = NAME, as_json: bool = typer.Option(False, "--json", help="Print JSON, one event a line.")
) -> None:
    """Follow a job to its end: with a progress bar on a terminal, as plain lines elsewhere.

    Ctrl-C stops following, not the job.
    """
    mafunzo.Workspace().jobs.get(name).stream(as_json=as_json)


@app.command()
def logs(
    name: str = NAME,
    step: str = typer.Option(None, help="Only this step."),
    tail: int = typer.Option(None, min=1, metavar="N", help="Only the last N lines of each step."),
) -> None:
    """Print what the steps have printed; of their progress how far it came."""
    handle = mafunzo.Workspace().jobs.get(name)
    if moment := pruned_at(handle.job, PruneKind.LOGS):
        print(f"The logs of {name} were pruned on {moment:%Y-%m-%d}.")
    for step_name in [job_step.name for job_step in handle.steps] if step is None else [step]:
        is_first = True
        for line in handle.log_lines(step_name, tail):
            if is_first:
                print(f"--- {step_name}")
                is_first = False
            print(printable(line) if sys.stdout.isatty() else line)


@app.command()
def metrics(name: str = NAME, step: str = typer.Option(None, help="Only this step."), as_json: bool = AS_JSON) -> None:
    """Print the last value of each metric of each step; --json prints every line."""
    metrics_by_step = mafunzo.Workspace().jobs.get(name).metrics(step)
    rows = []
    for step_name, lines in metrics_by_step.items():
        last: dict[str, tuple[float, int]] = {}
        for line in lines:
            last |= {key: (value, line["step"]) for key, value in line.items() if key not in ("time", "step")}
        rows += [(step_name, key, value, at) for key, (value, at) in last.items()]
    print_list(metrics_by_step, as_json, ("step", "metric", "value", "at"), rows, "No metrics yet.")


@app.command()
def cancel(
    name: str = NAME,
    save: bool = typer.Option(
        False,
        "--save",
        help="Wait a quarter of an hour, not a minute, for a step to save what it has when SIGTERM comes.",
    ),
    as_json: bool = AS_JSON,
) -> None:
    """End a job and all its processes. A training step saves a checkpoint first, which stays until the job is deleted."""
    handle = mafunzo.Workspace().jobs.get(name)
    handle.cancel(save)
    job = handle.job
    asked = (
        f"Asked for {name} to save and end. Go on with it: mafunzo job resume {name}"
        if save
        else f"Asked for {name} to end"
    )
    line = asked if job.is_cancel_requested else f"{name} has ended already: {job.status}"
    print_result(job, as_json, line)


@app.command()
def resume(
    name: str = NAME,
    changes: list[str] = typer.Argument(
        None, help="key=value: parameters of training that become others, such as num_train_epochs or learning_rate."
    ),
    detach: bool = DETACH,
    as_json: bool = AS_JSON,
) -> None:
    """Go on with a job that failed or was cancelled, as a new job, from the newest checkpoints that it left.

    What it had finished is taken from the cache. It has the inputs of the ended one, and its parameters but for those that are
    given here. With more epochs or steps, a job that has completed is gone on with too.

    Example: mafunzo job resume NAME num_train_epochs=3 learning_rate=1e-5
    """
    job, newest = mafunzo.Workspace().jobs.resume(name, **pairs(changes or []))
    if not as_json and not detach:
        print(f"Job {job.name} goes on with {name}")
        for step, number in newest.items():
            print(f"  {step} from its checkpoint of step {number}")
    follow(job, detach, as_json, f"Outputs: mafunzo job download {job.name} --to FOLDER")


@app.command()
def download(
    name: str = NAME,
    to: Path = typer.Option(..., help="The folder to write under."),
    output: str = typer.Option(None, help="One output; default all."),
    as_json: bool = AS_JSON,
) -> None:
    """Write a job's outputs as plain files."""
    handle = mafunzo.Workspace().jobs.get(name)
    folders = handle.download(to, output)
    print_result({"folders": folders}, as_json, *folders)
    if not folders and not as_json:
        job = handle.job
        why = f"is {job.status}, and none of its outputs is there" if job.outputs else "has no outputs"
        print(f"Job {name} {why}. What it printed: mafunzo job logs {name}")


@app.command()
def delete(
    name: str = NAME,
    force: bool = typer.Option(
        False, "--force", help="Even if a registered model came from it; its lineage ends there."
    ),
    as_json: bool = AS_JSON,
) -> None:
    """Delete a job that has ended, with its folder, and free the outputs that nothing else holds."""
    freed = mafunzo.Workspace().jobs.delete(name, force)
    print_result({"deleted": name, "freed_bytes": freed}, as_json, f"Deleted job {name}. Freed {human_size(freed)}.")


def _failure(error: Mapping[str, Any] | None) -> str:
    """Return a failure's message without the announcement of a log's last lines, which `mafunzo job logs` shows."""
    message = str((error or {}).get("message", ""))
    return f"{message.rpartition('; ')[0]}." if message.endswith(":") else message


def _places(workspace: "mafunzo.Workspace") -> dict[str, int]:
    """Return the place in the queue, from 1, of each job that waits."""
    waiting = [job.name for job in workspace.jobs.queue() if job.status == "queued"]
    return {name: place for place, name in enumerate(waiting, start=1)}
