"""Following a job from a command: its events until it ends, then what to do next."""

from typing import TYPE_CHECKING

import typer

from mafunzo.entrypoints.terminal.output import print_json

if TYPE_CHECKING:
    from mafunzo.control.workspace.jobs import JobHandle

DETACH = typer.Option(False, "--detach", help="Return once the job is in the queue; it goes on in the background.")


def follow(job: "JobHandle", detach: bool, as_json: bool, next_step: str) -> None:
    """Return at once, or show the job until it ends; with `--json` the last thing printed is the job as JSON."""
    if not detach:
        job.stream()
    if as_json:
        print_json(job.job)
    else:
        print(job.name if detach else next_step)
