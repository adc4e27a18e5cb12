"""A home with a scheduler, and shell components of two lines to run on it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from mafunzo.control.launcher.local import LocalLauncher
from mafunzo.control.pipelines.attempt import step_folder
from mafunzo.control.pipelines.plan import Facts, PinnedComponent, plan
from mafunzo.control.pipelines.scheduler import Scheduler, UserVariables
from mafunzo.control.store.artifact import Artifacts
from mafunzo.control.store.home import Home
from mafunzo.control.store.lease import Leases
from mafunzo.control.store.migrations import open_database
from mafunzo.control.store.records import Records
from mafunzo.entities.component import Component, Input, Node, Output
from mafunzo.entities.compute import Hardware
from mafunzo.entities.job import ArtifactInput, Job, Resources, Step, Value
from mafunzo.entities.job_request import JobRequest
from tests.support.step_process import leftovers
from tests.support.waiting import pause, until

MACHINE = Resources(cpus=2, memory_mb=8000)
VERSIONS = {"python": "3"}


def shell(name: str, command: str, version: str = "1", **more: Any) -> Component:
    """A component whose inputs and outputs are those that its command uses: `data_*` are files, `out` a file, `folder` a folder."""
    from mafunzo.control.pipelines.command import placeholders

    used = placeholders(command)
    inputs = {use.name: _input(use.name, use.is_optional) for use in used if use.kind == "inputs"}
    kinds = {"out": "uri_file", "folder": "uri_folder", "model": "custom_model"}
    outputs = {use.name: Output(use.name, kinds[use.name]) for use in used if use.kind == "outputs"}
    return Component(name, version, "command", command=command, inputs=inputs, outputs=outputs, **more)


def _input(name: str, is_optional: bool) -> Input:
    kind = "uri_file" if name.startswith("data") else "uri_folder" if name.startswith("folder") else "string"
    return Input(name, kind, is_optional=is_optional)


def pipeline(components: Mapping[str, Component], **bindings: Mapping[str, Any]) -> Component:
    """A pipeline of one node for each component. `bindings[node][input]` is `<node>.<output>` or the job's input of that name.

    Inputs of nodes that aren't bound are the job's, under the same name, but for those that `bindings[node]["sweep"]` draws.
    """
    inputs: dict[str, Input] = {}
    nodes = {}
    for node, component in components.items():
        bound = {}
        sweep = bindings.get(node, {}).get("sweep")
        for name, declared in component.inputs.items():
            if sweep is not None and name in sweep.space:
                continue
            source = bindings.get(node, {}).get(name, name)
            if "." in source:
                step, output = source.split(".")
                bound[name] = f"${{{{parent.jobs.{step}.outputs.{output}}}}}"
            else:
                bound[name] = f"${{{{parent.inputs.{source}}}}}"
                inputs[source] = replace(declared, name=source)
        retries, timeout_s = (bindings.get(node, {}).get(name, 0) for name in ("retries", "timeout_s"))
        nodes[node] = Node(node, node, inputs=bound, retries=retries, timeout_s=timeout_s, sweep=sweep)
    return Component("pipeline", "1", "pipeline", inputs=inputs, nodes=nodes)


@dataclass
class Bench:
    """Everything that a server would have open for one home."""

    root: Path
    capacity: Resources = MACHINE
    grace_s: float = 0.5
    user_variables: UserVariables = lambda _job, _step, _inputs, _outputs: {}

    def __post_init__(self) -> None:
        self.home = Home(self.root)
        self.database = open_database(self.home)
        self.records, self.leases = Records(self.database), Leases(self.database)
        self.artifacts = Artifacts(self.home.artifacts)
        self.launcher = LocalLauncher()
        self.versions = dict(VERSIONS)
        self.moved_s = 0.0
        self.schedulers: list[Scheduler] = []
        self.scheduler = self.new_scheduler()

    def new_scheduler(self) -> Scheduler:
        made = Scheduler(
            self.records,
            self.artifacts,
            self.leases,
            LocalLauncher(),
            self.home,
            self.capacity,
            grace_s=self.grace_s,
            versions=lambda: self.versions,
            clock=self.clock,
            user_variables=self.user_variables,
        )
        self.schedulers.append(made)
        return made

    def clock(self) -> datetime:
        """The time by which steps wait before they are tried again; `moved_s` moves it."""
        return datetime.now(UTC) + timedelta(seconds=self.moved_s)

    def skip_backoff(self) -> None:
        """Move the clock to where no step waits to be tried again."""
        steps = [step for job in self.records.jobs.queue() for step in self.records.steps.of(job.name)]
        waits_s = [(step.retry_at - self.clock()).total_seconds() for step in steps if step.retry_at is not None]
        self.moved_s += max([0.0, *waits_s])

    def file(self, name: str, text: str) -> ArtifactInput:
        path = self.root / "given" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return ArtifactInput(self.artifacts.put(path), name)

    def submit(
        self,
        name: str,
        components: Mapping[str, Component] | Component,
        inputs: Mapping[str, Value | ArtifactInput] | None = None,
        bindings: Mapping[str, Mapping[str, Any]] | None = None,
        is_trusted: bool = False,
        **request: Any,
    ) -> Job:
        """Plan and add a job; `components` are its nodes, or one command component."""
        if isinstance(components, Component):
            whole, parts = components, {f"{components.name}:{components.version}": components}
        else:
            whole, parts = pipeline(components, **(bindings or {})), dict(components)
        pinned = {
            reference: PinnedComponent(part, f"sha256:{part.name}{part.version}", is_trusted)
            for reference, part in parts.items()
        }
        hardware = Hardware(self.capacity.cpus, self.capacity.memory_mb)
        facts = Facts(pinned, hardware, datetime.now(UTC))
        return self.records.jobs.add(*plan(JobRequest(name, whole, inputs or {}, **request), facts))

    def until(self, is_so: Callable[[], Any]) -> None:
        """Tick until something is so; no step is waited for that is to be tried again later."""
        until(is_so, self.summary, self.tick)

    def tick(self) -> None:
        if not self.scheduler.tick():
            self.skip_backoff()
            pause()

    def finish(self, *names: str) -> Job:
        """Tick until the jobs have ended; return the last."""
        self.until(lambda: all(self.records.jobs.get(name).status.is_terminal for name in names))
        return self.records.jobs.get(names[-1])

    def run(self, name: str, *args: Any, **more: Any) -> Job:
        self.submit(name, *args, **more)
        return self.finish(name)

    def step(self, job: str, name: str) -> Step:
        return next(step for step in self.records.steps.of(job) if step.name == name)

    def folder(self, job: str, name: str) -> Path:
        return step_folder(self.home, self.step(job, name))

    def log(self, job: str, name: str) -> str:
        path = self.folder(job, name) / "log.txt"
        return path.read_text() if path.exists() else ""

    def read(self, job: str, name: str, output: str = "out", file: str | None = None) -> str:
        """The text of a step's output."""
        stored = self.step(job, name).outputs[output]
        return self.artifacts.open_file(stored, file or output).read_text()

    def statuses(self, job: str) -> dict[str, str]:
        return {step.name: str(step.status) for step in self.records.steps.of(job)}

    def summary(self) -> dict[str, Any]:
        return {job.name: (str(job.status), self.statuses(job.name)) for job in self.records.jobs.list()}

    def leftovers(self) -> list[int]:
        """Processes of any attempt that still live."""
        return [pid for folder in self.home.jobs.glob("*/*/[0-9]*") for pid in leftovers(folder)]

    def close(self) -> None:
        for made in self.schedulers:
            made.close()
        for folder in self.home.jobs.glob("*/*/[0-9]*"):
            self.launcher.kill(folder, grace_s=0)
        self.database.close()
