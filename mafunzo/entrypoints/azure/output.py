"""Jobs' outputs and logs, published as blobs where Azure's clients look for them."""

from mafunzo.control.workspace import Workspace
from mafunzo.control.workspace.job_handle import JobHandle, job_view
from mafunzo.entities.job import DEFAULT_OUTPUT, Step
from mafunzo.entrypoints.azure.wire.envelope import ARTIFACT_CONTAINER, CONTAINER
from mafunzo.entrypoints.azure.wire.run import artifact_path, child_name, output_path
from mafunzo.tracking.regular_file import is_regular
from mafunzo.tracking.step_folder import LOGS, StepFolder

Files = dict[str, tuple[str, str]]
"""Paths in a folder, each with the artifact that has the file and the path in it."""


def publish(workspace: Workspace, job: str, step: str | None = None) -> tuple[str, ...]:
    """Publish the outputs, the log and `./outputs` of a job, or of one step of it; return the names of the outputs.

    Of a whole sweep only its trials' logs: each trial has `./outputs` of its own.
    """
    outputs, blobs, view = workspace.jobs.get(job), workspace.blobs, job_view(job)
    name = child_name(outputs.step(step)) if step else job
    written = outputs.written(step)
    for output, artifact in written.items():
        blobs.publish(CONTAINER, output_path(name, output), artifact, view)
    steps = [outputs.maker(outputs.step(step))] if step else outputs.steps
    has_files = step is not None or outputs.job.sweep is None
    files: Files = {}
    for one in steps:
        prefix = f"{one.name}/" if len(steps) > 1 else ""
        files |= {f"{LOGS}/{prefix}{path.removeprefix(f'{LOGS}/')}": at for path, at in outputs.log_files(one).items()}
        files |= _log(workspace, outputs, one, prefix)
        if has_files:
            artifacts = {f"{prefix}{path}": source for path, source in outputs.logged(one).items()}  # MLflow's
            files = artifacts | files | _default_output(workspace, outputs, one, prefix)
    blobs.publish(ARTIFACT_CONTAINER, artifact_path(name), workspace.artifacts.assemble(files), view)
    return tuple(written)


def _log(workspace: Workspace, outputs: JobHandle, step: Step, prefix: str) -> Files:
    """Return a step's log, whose bytes the store shares once the step has ended, so that they aren't there twice."""
    log = StepFolder(outputs.folder(step.name)).log
    if not is_regular(log):
        return {}
    artifact = workspace.artifacts.put(log, is_final=step.status.is_terminal)
    return {f"user_logs/{prefix}std_log.txt": (artifact, log.name)}


def _default_output(workspace: Workspace, outputs: JobHandle, step: Step, prefix: str) -> Files:
    """Return a step's files in `./outputs`."""
    stored = outputs.written_by(step, DEFAULT_OUTPUT)
    manifest = workspace.artifacts.manifest(stored) if stored else ()
    return {f"outputs/{prefix}{file.path}": (str(stored), file.path) for file in manifest}
