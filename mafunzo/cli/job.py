"""`mafunzo job`: what is in the queue, what runs, what has ended."""

from pathlib import Path

import typer

from mafunzo.cli.output import AS_JSON, print_facts, print_json, print_table

app = typer.Typer(help="Jobs in the queue, running, and ended.", no_args_is_help=True)
NAME = typer.Argument(help="The job's name.")


@app.command("list")
def list_jobs(as_json: bool = AS_JSON) -> None:
    """List jobs, newest first; a waiting one with its place in the queue."""
    from mafunzo.workspace import Workspace

    workspace = Workspace()
    jobs = workspace.jobs.list()
    if as_json:
        print_json(jobs)
        return
    queue = [job.name for job in workspace.records.queue() if job.status == "queued"]
    rows = [
        (
            j.name,
            f"{j.status} (place {queue.index(j.name) + 1})" if j.name in queue else j.status,
            j.display_name,
            j.created_at,
        )
        for j in jobs
    ]
    print_table(("name", "status", "what", "created"), rows, "No jobs. Start one with: mafunzo finetune")


@app.command()
def show(name: str = NAME, as_json: bool = AS_JSON) -> None:
    """Show a job and its steps: status, time, and why each ran, waited or was taken from the cache."""
    from mafunzo.workspace import Workspace

    handle = Workspace().jobs.get(name)
    job, steps = handle.job, handle.steps
    if as_json:
        print_json({"job": job, "steps": steps})
        return
    facts = {"name": job.name, "status": job.status, "what": job.display_name, "experiment": job.experiment}
    print_facts({**facts, "created": job.created_at, "ended": job.ended_at, "error": (job.error or {}).get("message")})
    rows = []
    for step in steps:
        took = (step.ended_at - step.started_at).total_seconds() if step.started_at and step.ended_at else None
        told = (step.error or {}).get("message") or step.reason
        rows.append((step.name, step.status, "" if took is None else f"{took:.1f} s", told, handle.folder(step.name)))
    print_table(("step", "status", "took", "why", "folder"), rows, "No steps.")


@app.command()
def stream(name: str = NAME) -> None:
    """Follow a job to its end: a progress bar on a terminal, JSON lines elsewhere. Ctrl-C stops following, not the job."""
    from mafunzo.workspace import Workspace

    Workspace().jobs.get(name).stream()


@app.command()
def logs(name: str = NAME, step: str = typer.Option(None, help="Only this step.")) -> None:
    """Print what the steps have printed."""
    from mafunzo.workspace import Workspace

    handle = Workspace().jobs.get(name)
    for found in handle.steps:
        if step in (None, found.name):
            text = handle.logs(found.name)
            if text:
                print(f"--- {found.name}\n{text.rstrip()}")
    if step is not None:
        handle.logs(step)


@app.command()
def metrics(name: str = NAME, step: str = typer.Option(None, help="Only this step."), as_json: bool = AS_JSON) -> None:
    """Print the last value of each metric of each step; --json prints every line."""
    from mafunzo.workspace import Workspace

    found = Workspace().jobs.get(name).metrics(step)
    if as_json:
        print_json(found)
        return
    rows = []
    for step_name, lines in found.items():
        last: dict[str, tuple[float, int]] = {}
        for line in lines:
            last |= {key: (value, line["step"]) for key, value in line.items() if key not in ("time", "step")}
        rows += [(step_name, key, value, at) for key, (value, at) in last.items()]
    print_table(("step", "metric", "value", "at"), rows, "No metrics yet.")


@app.command()
def cancel(name: str = NAME) -> None:
    """End a job and all its processes."""
    from mafunzo.workspace import Workspace

    Workspace().jobs.get(name).cancel()
    print(f"Asked for {name} to end")


@app.command()
def download(
    name: str = NAME,
    to: Path = typer.Option(..., help="The folder to write under."),
    output: str = typer.Option(None, help="One output; default all."),
) -> None:
    """Write a job's outputs as plain files."""
    from mafunzo.workspace import Workspace

    for folder in Workspace().jobs.get(name).download(to, output):
        print(folder)
