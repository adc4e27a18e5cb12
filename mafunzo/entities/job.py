"""A job, the steps that it was planned into, and what flows between them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from mafunzo.entities.compute import Placement
from mafunzo.entities.environment import Environment
from mafunzo.entities.sweep import Sweep
from mafunzo.entities.uptime import Uptime

DEFAULT_OUTPUT = "default"
"""The output of a user's command that is what it wrote to `./outputs`, whatever else it declares."""
MAX_PROCESSES = 64
"""How many processes a step may run as."""
JOB_NAME_LETTERS = 255
JOB_NAME = re.compile(rf"[A-Za-z0-9][\w.-]{{0,{JOB_NAME_LETTERS - 1}}}")
"""What jobs, and the steps of their pipelines, may be called."""
Value = str | int | float | bool


class JobStatus(StrEnum):
    """The life of a job. Terminal: completed, failed, canceled."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELED = "canceled"

    @property
    def is_terminal(self) -> bool:
        return self in (JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELED)


class StepStatus(StrEnum):
    """The life of a step. `cached` is completed by the outputs of an earlier step; `skipped` never ran."""

    WAITING = "waiting"
    RUNNING = "running"
    COMPLETED = "completed"
    CACHED = "cached"
    FAILED = "failed"
    CANCELED = "canceled"
    SKIPPED = "skipped"

    @property
    def is_terminal(self) -> bool:
        return self not in (StepStatus.WAITING, StepStatus.RUNNING)

    @property
    def is_done(self) -> bool:
        return self in (StepStatus.COMPLETED, StepStatus.CACHED)


@dataclass(frozen=True)
class LiteralInput:
    """A parameter's value."""

    value: Value


@dataclass(frozen=True)
class ArtifactInput:
    """A file or folder of the store, by hash; `name` says to people where it came from (`train.jsonl`, `chitchat:2`)."""

    artifact: str
    name: str = ""


@dataclass(frozen=True)
class StepOutputInput:
    """What another step of the same job writes."""

    step: str
    output: str


StepInput = LiteralInput | ArtifactInput | StepOutputInput


@dataclass(frozen=True)
class Resources:
    """What a step or worker holds while it runs: cores, memory and devices, and how many processes share them.

    Asked for by a step, 0 cores are all that the machine has. gpus_if_any: how many it takes where there are any, for a step
    that runs without them too; a step as planned has them in `gpus`.
    """

    cpus: int = 1
    gpus: int = 0
    memory_mb: int = 0
    processes: int = 1
    gpus_if_any: int = 0

    def minus(self, other: "Resources") -> "Resources":
        """Return what is left of the cores, GPUs and memory once `other` is taken."""
        return Resources(self.cpus - other.cpus, self.gpus - other.gpus, self.memory_mb - other.memory_mb)

    def fits(self, left: "Resources") -> bool:
        """Return whether `left` has as much; of what isn't needed it may lack any amount."""
        pairs = ((self.cpus, left.cpus), (self.gpus, left.gpus), (self.memory_mb, left.memory_mb))
        return all(not amount or amount <= rest for amount, rest in pairs)


PLACEHOLDER = re.compile(r"\$\{\{\s*(name|output_name)\s*\}\}")
"""What stands in a path for the name of the job, or of the step of a pipeline, that writes there, and of the output."""
ROOT = "/"
"""The path of a destination that is the datastore itself."""


def named_path(path: str, job: str, output: str) -> str:
    """Return a path with the names of the job, or step, and of its output in the places that stand for them."""
    return PLACEHOLDER.sub(lambda match: job if match[1] == "name" else output, path)


@dataclass(frozen=True)
class Destination:
    """What else becomes of an output once its step is done: a version of an asset, blobs under a path of the datastore.

    asset_version: empty for the next one. path: with `PLACEHOLDER`s until it is planned; `ROOT` for the whole datastore.
    """

    folder_type: str
    asset_name: str = ""
    asset_version: str = ""
    path: str = ""

    def named(self, job: str, output: str) -> "Destination":
        """Return it with the names in its path."""
        return replace(self, path=named_path(self.path, job, output))


@dataclass(frozen=True)
class StepSpec:
    """A step as planned: what to run, from which inputs, into which outputs. Content only, so that it can be hashed.

    command: the component's shell command with `${{inputs.x}}` and `${{outputs.y}}` still in it.
    component: `name:version`; `code`: hash of the component's code and interface.
    outputs: output name to folder type.
    is_deterministic: whether equal inputs may reuse earlier outputs.
    code_artifact: the folder that the command works in; runtime: the packages that it finds, None for Mafunzo's own.
    timeout_s: how long it may run, all attempts together; 0 is for ever. display_name: what people call it.
    environment: variables, with `${{inputs.x}}` and `${{outputs.y}}` still in their values.
    trial_of: the step whose sweep it is a trial of. sweep: it runs nothing itself, and takes the outputs of its best trial.
    placement: where its processes run, if not on this machine, which `resources` are of then.
    """

    name: str
    component: str
    code: str
    command: str
    inputs: Mapping[str, StepInput] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    resources: Resources = Resources()
    is_deterministic: bool = True
    is_trusted: bool = False
    retries: int = 0
    code_artifact: str | None = None
    runtime: Environment | None = None
    destinations: Mapping[str, Destination] = field(default_factory=dict)
    timeout_s: float = 0.0
    display_name: str = ""
    trial_of: str = ""
    sweep: Sweep | None = None
    placement: Placement | None = None

    @property
    def literals(self) -> dict[str, Value]:
        """The inputs that are values."""
        return {name: source.value for name, source in self.inputs.items() if isinstance(source, LiteralInput)}

    @property
    def artifacts(self) -> set[str]:
        """The stored files and folders that it reads, besides what other steps write."""
        inputs = {source.artifact for source in self.inputs.values() if isinstance(source, ArtifactInput)}
        return inputs | ({self.code_artifact} if self.code_artifact else set())

    def output_path(self, output: str) -> str:
        """Return where among the outputs one is written: under its name, and a file that goes to a path is called as there."""
        destination = self.destinations.get(output)
        if self.outputs.get(output) != "uri_file" or destination is None or not destination.path:
            return output
        return f"{output}/{destination.path.rsplit('/', 1)[-1]}"


@dataclass(frozen=True)
class Step:
    """A step's state.

    attempt: 0 before the first start. outputs: output name to artifact hash, once done.
    cache_key: hash of all that decides its outputs. reason: why it runs again, waits, was skipped or failed.
    retry_at: no start before, after an attempt that failed or was cut off (backoff). properties: what is recorded of it.
    memory_budget_mb: what each of its processes may take from now on, as the system has ended an earlier attempt for want of
    memory; 0: as much as it plans by itself.
    started_uptime: `started_at` as limits are measured from it, None where that isn't known.
    """

    job: str
    spec: StepSpec
    status: StepStatus = StepStatus.WAITING
    attempt: int = 0
    cache_key: str = ""
    outputs: Mapping[str, str] = field(default_factory=dict)
    reason: str = ""
    error: Mapping[str, Any] | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    retry_at: datetime | None = None
    started_uptime: Uptime | None = None
    properties: Mapping[str, Any] = field(default_factory=dict)
    memory_budget_mb: int = 0

    @property
    def name(self) -> str:
        return self.spec.name


WEBHOOK = "webhook"
"""The property of a job that has ended whose webhook couldn't be told so: why."""
NOTES = "notes"
"""The property of a job that lists in sentences what it will do with its rows; absent where there is nothing to say."""


@dataclass(frozen=True)
class Job:
    """A request for work and its state. `outputs` maps a job output to (step, output). Higher `priority` runs first.

    sweep: its steps are trials of one, and the job is what the best of them is. started_uptime: as a step's.
    properties: what is recorded of it. user_properties: what the user notes of it. is_archived: it is hidden from lists.
    settings: the request as encoded for the store, without what can be changed later; None for a job whose request isn't known.
    echoes: what a way in keeps of a request's original body, under its own name, to answer with it; nothing else reads it.
    """

    name: str
    display_name: str
    experiment: str
    component: str
    inputs: Mapping[str, Any] = field(default_factory=dict)
    outputs: Mapping[str, StepOutputInput] = field(default_factory=dict)
    status: JobStatus = JobStatus.QUEUED
    priority: int = 0
    force_rerun: bool = False
    continue_on_step_failure: bool = False
    is_cancel_requested: bool = False
    tags: Mapping[str, str] = field(default_factory=dict)
    properties: Mapping[str, Any] = field(default_factory=dict)
    error: Mapping[str, Any] | None = None
    sweep: Sweep | None = None
    created_by: str = ""
    created_at: datetime | None = None
    started_at: datetime | None = None
    started_uptime: Uptime | None = None
    ended_at: datetime | None = None
    description: str | None = None
    user_properties: Mapping[str, Any] = field(default_factory=dict)
    is_archived: bool = False
    settings: Mapping[str, Any] | None = None
    echoes: Mapping[str, Any] = field(default_factory=dict)
