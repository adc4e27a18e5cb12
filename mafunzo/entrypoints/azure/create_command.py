"""`mafunzo create`: anything that a file of `az ml` describes."""

from pathlib import Path

import typer

from mafunzo.entrypoints.terminal.follow import DETACH, follow
from mafunzo.entrypoints.terminal.output import AS_JSON, print_json
from mafunzo.entrypoints.terminal.words import pairs

GRACE_S = 30.0
"""How long a deployment is waited for beyond its worker's start limit, so that its own error is shown."""


def create(
    file: Path = typer.Option(..., "--file", "-f", help="A YAML file that az ml takes; its paths are relative to it."),
    changes: list[str] = typer.Option([], "--set", help="key=value, or key.below=value: wins over the file's."),
    detach: bool = DETACH,
    as_json: bool = AS_JSON,
) -> None:
    """Make what a file describes: a model, data, component, environment, compute, job, endpoint or deployment.

    A job is followed to its end, and a deployment until it answers, unless --detach is given.
    """
    from mafunzo.control.workspace import Workspace
    from mafunzo.entrypoints.azure.files.creation import create as create_from
    from mafunzo.entrypoints.azure.files.kind import FileKind

    workspace = Workspace()
    resource = create_from(workspace, file, pairs(changes))
    if resource.kind is FileKind.JOB:
        if not as_json and not detach:
            print(resource.name)
        job = workspace.jobs.get(resource.name)
        outputs, log = (
            f"Outputs: mafunzo job download {resource.name} --to FOLDER",
            f"Log: mafunzo job logs {resource.name}",
        )
        follow(job, detach, as_json, outputs if job.job.outputs else log)
        return
    if resource.kind is FileKind.DEPLOYMENT and not detach:
        limit_s = workspace.deployments.get(resource.endpoint, resource.name).initial_delay_s
        workspace.endpoints.get(resource.endpoint).wait(resource.name, limit_s + GRACE_S)
    if as_json:
        print_json(resource)
    else:
        print(f"Made {resource.kind} {f'{resource.name}:{resource.version}' if resource.version else resource.name}")
