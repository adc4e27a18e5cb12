"""Whether the server is there that a verb waits for: without it nothing goes on, and waiting would never end."""

import shlex
from pathlib import Path

from mafunzo.control.launcher.server_process import find_server
from mafunzo.control.store.home import Home
from mafunzo.control.workspace.services import Services
from mafunzo.entities.endpoint import Deployment
from mafunzo.entities.job import Step, StepStatus
from mafunzo.errors import ServerFailed
from mafunzo.tracking.step_folder import StepFolder


def server_is_there(home: Home) -> bool:
    """Return whether a server runs on the home, or one is just starting or ending, which hold it too."""
    return find_server(home) is not None or home.holder() is not None


def require_server(services: Services, job: str) -> None:
    """Raise `ServerFailed` where nothing goes on with a job that hasn't ended: what it left, and how to go on."""
    if server_is_there(services.home) or services.records.jobs.get(job).status.is_terminal:
        return
    status = services.records.jobs.get(job).status
    raise ServerFailed(
        f"The server of {services.home.root} has stopped, and job {job} is {status}. It goes on when the server starts "
        f"again: {_command(services.home, 'up --detach')}. Then follow it: {_command(services.home, f'job stream {job}')}. "
        "What the server left:",
        [_left(services.home, step) for step in services.records.steps.of(job)],
    )


def require_server_for_deployment(services: Services, deployment: Deployment) -> None:
    """Raise `ServerFailed` where nothing goes on with a deployment that is starting."""
    if not server_is_there(services.home):
        raise ServerFailed(
            f"The server of {services.home.root} has stopped, and deployment {deployment.endpoint}/{deployment.name} is "
            f"{deployment.status}. It goes on when the server starts again: "
            f"{_command(services.home, 'up --detach')}"
        )


def _command(home: Home, words: str) -> str:
    """Return a command that is right wherever the home lies."""
    return f"MAFUNZO_HOME={shlex.quote(str(home.root))} mafunzo {words}"


def _left(home: Home, step: Step) -> str:
    """Return what became of a step without the server, in one line."""
    from mafunzo.control.launcher.local import LocalLauncher  # it starts steps, which lists don't

    if step.status is StepStatus.RUNNING:
        folder = StepFolder.of(home.jobs, step.job, step.name, step.attempt).path
        if LocalLauncher().lives(folder):
            return f"Step '{step.name}' still runs; the next server takes it over."
        return f"Step '{step.name}' has ended meanwhile; the next server stores what it wrote, or runs it again."
    if step.status is not StepStatus.WAITING or not step.attempt:
        return f"Step '{step.name}' is {step.status}."
    steps = [int(path.name.rpartition("-")[2]) for path in _checkpoints(home, step)]
    goes_on = f" from its checkpoint of step {max(steps)}" if steps else " from its beginning"
    return f"Step '{step.name}' was cut off in attempt {step.attempt} and goes on{goes_on}."


def _checkpoints(home: Home, step: Step) -> list[Path]:
    attempts = (StepFolder.of(home.jobs, step.job, step.name, number) for number in range(1, step.attempt + 1))
    return [path for attempt in attempts for path in attempt.checkpoints]
