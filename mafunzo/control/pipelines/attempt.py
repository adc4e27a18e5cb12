"""One attempt of a step, which is a folder: lay out what it reads, store what it wrote, say why it failed, clean up.

<home>/jobs/<job>/<step>/<attempt>/   inputs/ code/ environment/ while it runs, outputs/ until the step has ended (a later
attempt may go on from them), and after that where they are all that there is; log.txt metrics.jsonl error.json exit.json stay
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from mafunzo.control.launcher.environment import make_overlay, setup_command
from mafunzo.control.launcher.local import HUB_TOKENS, ExitRecord, last_lines
from mafunzo.control.pipelines.command import filled_text, substitute
from mafunzo.control.store.artifact import Artifacts
from mafunzo.control.store.disk import remove_tree
from mafunzo.control.store.home import Home
from mafunzo.entities.asset import MODEL_TYPES
from mafunzo.entities.job import DEFAULT_OUTPUT, ArtifactInput, LiteralInput, Resources, Step, StepSpec, StepStatus
from mafunzo.entities.parameters.component import FETCHING
from mafunzo.errors import FailedError, MafunzoError, OutOfMemory, StepFailed
from mafunzo.tracking.metrics import read_metrics
from mafunzo.tracking.regular_file import is_regular, read_regular
from mafunzo.tracking.step_folder import CODE, ENVIRONMENT, INPUTS, LOGS, OUTPUTS, StepFolder

DEFAULT_FOLDER = "outputs"
MEMORY_BUDGET = "MAFUNZO_MEMORY_BUDGET_MB"
"""The environment variable that tells a step what each of its processes may take (`settings.py` reads it)."""


@dataclass(frozen=True)
class Prepared:
    """What to start: bash's command, where it works, and its own environment variables.

    inputs: values as text, files and folders by their paths; outputs: the paths that it writes to. variables: those of the
    environment that the step asks for itself. Paths of a step that runs on other machines are relative to the attempt's folder.
    """

    command: str
    directory: Path
    environment: dict[str, str]
    inputs: dict[str, str]
    outputs: dict[str, str]
    variables: Mapping[str, str] = field(default_factory=dict)


def step_folder(home: Home, step: Step) -> Path:
    """Return the folder of the step's latest attempt."""
    return StepFolder.of(home.jobs, step.job, step.name, step.attempt).path


def last_folder(home: Home, step: Step) -> Path:
    """Return where a step's log and metrics are: in the folder of its latest attempt, in that of a first one if it had none.

    A step that was taken over without running has there what is taken over with it.
    """
    return StepFolder.of(home.jobs, step.job, step.name, max(step.attempt, 1)).path


def take_over_metrics(home: Home, source: Step, step: Step) -> None:
    """Let a step that is taken over, rather than run, show what the one has logged that ran. Idempotent."""
    metrics = StepFolder(last_folder(home, source)).metrics
    if is_regular(metrics):
        folder = last_folder(home, step)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        shutil.copyfile(metrics, StepFolder(folder).metrics)


def written_to(spec: StepSpec, folder: Path, output: str) -> Path:
    """Return the file or folder that an attempt writes an output to."""
    return StepFolder(folder).outputs / spec.output_path(output)


def prepare(
    spec: StepSpec,
    folder: Path,
    upstream: Mapping[str, Mapping[str, str]],
    artifacts: Artifacts,
    held: Resources,
    devices: tuple[int, ...] | None,
    environments: Path,
) -> Prepared:
    """Lay out the inputs and return what to start.

    `upstream` has the outputs of earlier steps; `devices` are the GPUs that the step holds, None on a machine without;
    `environments` is where virtual environments are kept.
    A component that isn't ours gets copies that it may write to, so that it can't change what is stored.
    """
    is_writable = not spec.is_trusted
    inputs: dict[str, str] = {}
    for name, source in spec.inputs.items():
        if isinstance(source, LiteralInput):
            inputs[name] = str(source.value).lower() if isinstance(source.value, bool) else str(source.value)
            continue
        stored = source.artifact if isinstance(source, ArtifactInput) else upstream[source.step][source.output]
        artifacts.require_checked(stored)
        inputs[name] = _named(artifacts.checkout(stored, StepFolder(folder).inputs / name, is_writable), spec, folder)
    StepFolder(folder).outputs.mkdir()
    outputs: dict[str, str] = {}
    for name, kind in spec.outputs.items():
        place = written_to(spec, folder, name)
        (place.parent if kind == "uri_file" else place).mkdir(exist_ok=True)
        outputs[name] = _named(place, spec, folder)
    has_own_folder = spec.code_artifact is not None or DEFAULT_OUTPUT in spec.outputs
    directory = _lay_out_code(spec, folder, artifacts) if has_own_folder else folder
    command = substitute(spec.command, inputs, outputs)
    if spec.runtime is not None:
        overlay = StepFolder(folder).environment
        if not spec.runtime.packages:
            make_overlay(overlay)
        python_path = filled_text(spec.environment.get("PYTHONPATH", ""), inputs, outputs)
        command = f"{setup_command(environments, spec.runtime, overlay, python_path)}\n{command}"
    threads = max(1, held.cpus // max(1, held.processes))
    environment = {"OMP_NUM_THREADS": str(threads)}
    if spec.is_trusted and spec.component.partition(":")[0] in FETCHING:
        environment |= {name: os.environ[name] for name in HUB_TOKENS if name in os.environ}
    if devices is not None:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(str(device) for device in devices)
    variables = {name: filled_text(text, inputs, outputs) for name, text in spec.environment.items()}
    return Prepared(command, directory, environment | variables, inputs, outputs, variables)


def _named(path: Path, spec: StepSpec, folder: Path) -> str:
    """Return a path as the step's command names it."""
    return str(path if spec.placement is None else path.relative_to(folder))


def _lay_out_code(spec: StepSpec, folder: Path, artifacts: Artifacts) -> Path:
    """Return the folder that a user's command works in: its code, and in it `outputs` and `logs`.

    The files in `outputs` are the output `default`; those in `logs` stay with the attempt.
    """
    directory = StepFolder(folder).code
    if spec.code_artifact is not None:
        checkout = artifacts.checkout(spec.code_artifact, directory, is_writable=True)
        directory = checkout if checkout.is_dir() else checkout.parent
    directory.mkdir(exist_ok=True)
    if DEFAULT_OUTPUT in spec.outputs:
        _link(directory / DEFAULT_FOLDER, StepFolder(folder).outputs / DEFAULT_OUTPUT)
        _link(directory / LOGS, StepFolder(folder).logs)
    return directory


def _link(place: Path, folder: Path) -> None:
    """Let `place` be a link to `folder`, with what the code itself has there; a file of that name stays."""
    folder.mkdir(exist_ok=True)
    if place.is_dir() and not place.is_symlink():
        for entry in place.iterdir():
            shutil.move(entry, folder / entry.name)
        place.rmdir()
    if not place.exists():
        place.symlink_to(folder, target_is_directory=True)


def collect(spec: StepSpec, folder: Path, artifacts: Artifacts) -> dict[str, str]:
    """Store what the step wrote and return the hashes by output; raises `StepFailed` naming each that is missing."""
    faults = [
        fault
        for name, kind in spec.outputs.items()
        if (fault := _missing(folder, written_to(spec, folder, name), name, kind))
    ]
    if faults:
        raise StepFailed(f"Step '{spec.name}' ended without an error, but not all of its outputs are there.", faults)
    # Our own steps' files become the stored bytes without a copy; a user's process might still hold one of theirs open.
    return {name: artifacts.put(written_to(spec, folder, name), is_final=spec.is_trusted) for name in spec.outputs}


def _missing(folder: Path, path: Path, name: str, kind: str) -> str:
    if not path.resolve().is_relative_to(folder.resolve()):
        return f"{name} is a link at {path} that leads out of the step's folder. Put a copy in its place."
    if kind == "uri_file":
        return "" if path.is_file() else f"{name} is no file at {path}."
    if not path.is_dir():
        return f"{name} is no folder at {path}."
    return f"{name} is empty, expected a model in {path}." if kind in MODEL_TYPES and not any(path.iterdir()) else ""


def failure(step: Step, folder: Path, record: ExitRecord | None, reason: str) -> dict[str, Any]:
    """Return why a step failed: what its component recorded, else how its process ended and the last lines of its log."""
    facts = process_facts(folder, record)
    recorded = None if reason else _recorded(StepFolder(folder).error)
    if recorded is not None:
        return recorded | facts
    log = StepFolder(folder).log
    is_out_of_memory = record is not None and record.is_out_of_memory
    lines = last_lines(log)
    end = f"; the last lines of {log}:" if lines else f"; {log} is empty." if is_regular(log) else "."
    if reason:
        kind = OutOfMemory if is_out_of_memory else StepFailed
        error: MafunzoError = kind(f"Step '{step.name}': {reason}{end}", lines)
    elif is_out_of_memory:
        error = OutOfMemory(f"Step '{step.name}' was ended by the system because memory ran out{end}", lines)
    else:
        error = StepFailed(f"Step '{step.name}' ended with exit code {facts['exit_code']}{end}", lines)
    return error.record | facts


def process_facts(folder: Path, record: ExitRecord | None) -> dict[str, Any]:
    """Return how an attempt's process ended and where its log is, for the record of an error."""
    code, number = (record.exit_code, record.signal) if record else (None, None)
    log = StepFolder(folder).log
    return {"exit_code": code, "signal": number, "log": str(log) if log.exists() else None}


def failure_of(error: MafunzoError | OSError) -> dict[str, Any]:
    """Return the same for an error of our own process."""
    known = error if isinstance(error, MafunzoError) else FailedError(f"{type(error).__name__}: {error}")
    none = {"exit_code": None, "signal": None, "log": None}
    return known.record | none


def logged_values(folder: Path, metric: str) -> tuple[float | None, ...]:
    """Return what an attempt has logged of a metric, in order; None stands for a value that isn't finite."""
    path = StepFolder(folder).metrics
    return _values(path, path.stat().st_size, metric) if is_regular(path) else ()


@lru_cache(maxsize=4096)
def _values(path: Path, _size: int, metric: str) -> tuple[float | None, ...]:
    """Read a file once for each size that it has had."""
    return tuple(line[metric] for line in read_metrics(path) if metric in line)


def outputs_stay(step: Step, folder: Path) -> bool:
    """Return whether what an attempt has written stays: while others may go on from it, what failed last, and checkpoints."""
    if not step.status.is_terminal:
        return True
    is_last_of_a_failure = step.status is StepStatus.FAILED and folder.name == str(step.attempt)
    has_ended_early = step.status in (StepStatus.FAILED, StepStatus.CANCELED) and step.spec.is_trusted
    return is_last_of_a_failure or (has_ended_early and bool(StepFolder(folder).checkpoints))


def with_leftovers(job: Path) -> Iterator[Path]:
    """Yield the attempts' folders of a job's folder that have anything which `clean` deletes. No link is followed."""
    if job.is_symlink() or not job.is_dir():
        return
    for step in os.scandir(job):
        attempts = os.scandir(step) if step.is_dir(follow_symlinks=False) else ()
        for attempt in attempts:
            if attempt.name[0].isdigit() and (attempt.is_symlink() or _holds_leftovers(attempt)):
                yield Path(attempt.path)


def _holds_leftovers(attempt: "os.DirEntry[str]") -> bool:
    return attempt.is_dir() and not {INPUTS, CODE, ENVIRONMENT, OUTPUTS}.isdisjoint(os.listdir(attempt))


def clean(folder: Path, keeps_outputs: bool = False) -> None:
    """Delete what an attempt needs only while it runs, and what it wrote. Raises `OSError` for what can't be deleted."""
    if folder.is_symlink():  # the step has put it in its folder's place
        folder.unlink()
        return
    for name in (INPUTS, CODE, ENVIRONMENT, *([] if keeps_outputs else [OUTPUTS])):
        remove_tree(folder / name)
    StepFolder(folder).built.unlink(missing_ok=True)
    StepFolder(folder).without_cores.unlink(missing_ok=True)
    with suppress(OSError):
        StepFolder(folder).logs.rmdir()  # to which the command wrote nothing


def _recorded(path: Path) -> dict[str, Any] | None:
    """Return a component's own record of its error; None if there is none that can be read."""
    try:
        record = json.loads(read_regular(path) or "")
        return {
            "code": str(record["code"]),
            "message": str(record["message"]),
            "faults": [str(fault) for fault in record.get("faults", [])],
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None  # there is none, or it was cut off, or isn't ours: the log says more
