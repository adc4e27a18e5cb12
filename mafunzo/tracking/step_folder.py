"""The folder that a process runs in: its files and folders by what they are, for all who write or read them."""

import signal
from pathlib import Path
from typing import NamedTuple

STEP_FOLDER = "MAFUNZO_STEP_FOLDER"
"""The environment variable that names a process's folder; child processes inherit it."""
INPUTS = "inputs"
OUTPUTS = "outputs"
CODE = "code"
ENVIRONMENT = "environment"
LOGS = "logs"
SAVES_FIRST = "save-first"
"""The file in a job's folder that is there where its steps are to have the time to save what they have before they end."""
TERMINATED = 128 + signal.SIGTERM
"""The exit code of a process that SIGTERM ended: whoever started it knows by this that it was cut off, and didn't fail."""


class StepFolder(NamedTuple):
    """`<home>/jobs/<job>/<step>/<attempt>/` of a step's attempt; a worker has the same logs and records.

    No dataclass: the runner, of which every step and worker waits for one, is to load little.
    """

    path: Path

    @classmethod
    def of(cls, jobs: Path, job: str, step: str, attempt: int) -> "StepFolder":
        """Return the folder of an attempt, under a home's folder of jobs."""
        return cls(jobs / job / step / str(attempt))

    @property
    def log(self) -> Path:
        """What the process prints; of several processes, the first."""
        return self.path / "log.txt"

    def log_of(self, rank: int) -> Path:
        """Return the log of one of several processes: `log.txt` for the first, `log.<rank>.txt` for the others."""
        return self.log if rank == 0 else self.log.with_suffix(f".{rank}.txt")

    @property
    def process(self) -> Path:
        """The runner's claim of the folder: pid and start time."""
        return self.path / "process.json"

    @property
    def exit(self) -> Path:
        """The runner's exit record: it is there once the process has ended."""
        return self.path / "exit.json"

    @property
    def error(self) -> Path:
        """Why the step failed, in its own words: code, message and faults."""
        return self.path / "error.json"

    @property
    def metrics(self) -> Path:
        """What the step has logged, a JSON object a line."""
        return self.path / "metrics.jsonl"

    @property
    def inputs(self) -> Path:
        """The checked-out inputs, by name, while the step runs."""
        return self.path / INPUTS

    @property
    def outputs(self) -> Path:
        """What the step writes, by name, until it is stored."""
        return self.path / OUTPUTS

    @property
    def logs(self) -> Path:
        """What a user's own command writes to `./logs`."""
        return self.path / LOGS

    @property
    def checkpoints(self) -> list[Path]:
        """The checkpoints among the outputs, from which a later attempt can go on; without what wasn't written whole."""
        return [manifest.parent for manifest in self.outputs.glob("*/checkpoint-*/manifest.json")]

    @property
    def code(self) -> Path:
        """The working directory of a user's own command, while it runs."""
        return self.path / CODE

    @property
    def environment(self) -> Path:
        """The virtual environment of a user's own step, while it runs."""
        return self.path / ENVIRONMENT

    @property
    def without_cores(self) -> Path:
        """It is there while the process has no lease of cores: it builds its environment, and then waits for them."""
        return self.path / "without-cores"

    @property
    def built(self) -> Path:
        """It is there once the process has built its environment, and wants its cores."""
        return self.path / "built"

    @property
    def key(self) -> Path:
        """The cache key of the step, which all its attempts share."""
        return self.path.parent / "key.json"


def earlier_outputs(output: Path) -> tuple[Path, ...]:
    """Return the same output of the step's earlier attempts: `<step>/<attempt>/outputs/<name>`, newest first.

    Attempt 0 has what the job left that this one goes on with.
    """
    attempt = output.absolute().parent.parent
    if output.absolute().parent.name != OUTPUTS or not attempt.name.isdigit():
        return ()
    siblings = [path for path in attempt.parent.iterdir() if path.name.isdigit() and int(path.name) < int(attempt.name)]
    newest_first = sorted(siblings, key=lambda path: int(path.name), reverse=True)
    return tuple(StepFolder(path).outputs / output.name for path in newest_first)
