"""A storm of kill -9: of the scheduler, of steps, of both, at random moments; and what must be true when it is over.

`python -m tests.faults.storm HOME SEED KILLS` is one on a disk that is full now and then: HOME lies on a small file system of its own.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from mafunzo.control.pipelines.plan import Facts, PinnedComponent, plan
from mafunzo.control.store.artifact import Artifacts
from mafunzo.control.store.home import Home
from mafunzo.control.store.lease import Leases
from mafunzo.control.store.migrations import open_database
from mafunzo.control.store.records import Records
from mafunzo.entities.component import Component, Input, Node, Output
from mafunzo.entities.compute import Hardware
from mafunzo.entities.job import ArtifactInput, JobStatus, Resources, Step, StepStatus
from mafunzo.entities.job_request import JobRequest
from mafunzo.errors import StorageFull
from mafunzo.tracking.step_folder import STEP_FOLDER
from tests.support.waiting import LIMIT_S

CPUS = 2
CHANGES_OF_A_JOB = 150  # about as many as a scheduler makes for one job: it dies before one of them
REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass
class Storm:
    """What happened, and what was wrong in the end."""

    seed: int
    kills: Counter[str] = field(default_factory=Counter)
    jobs: int = 0
    attempts: int = 0
    starts: int = 0
    seconds: float = 0.0
    failed: int = 0
    fillings: int = 0
    faults: list[str] = field(default_factory=list)


class World:
    """A home, and jobs of shell components whose right answers are known.

    Each step holds a lock while it runs: an attempt that runs beside another of the same step leaves word of it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.home = Home(root)
        self.database = open_database(self.home)
        self.records, self.leases = Records(self.database), Leases(self.database)
        self.artifacts = Artifacts(self.home.artifacts)
        self.overlaps = root / "overlaps"
        self.expected: dict[str, str] = {}

    def add_job(self, number: int, rng: random.Random) -> None:
        """Two branches and a join: the words of a file in upper case, and counted."""
        name, text = f"job-{number}", " ".join(rng.choices(["sun", "moon", "star", "sky"], k=rng.randint(3, 9)))
        given = self.root / "given.txt"
        given.write_text(text)
        lock = f"exec 9> {self.root}/lock-{name}-${{{{inputs.me}}}}; flock -n 9 || echo ${{{{inputs.me}}}} >> {self.overlaps}; "
        nap = f"sleep {rng.uniform(0.05, 0.5):.2f}; "
        upper = _component("upper", lock + nap + "setsid sleep 60 & tr a-z A-Z < ${{inputs.a}} > ${{outputs.o}}", "a")
        count = _component("count", lock + nap + "wc -w < ${{inputs.a}} > ${{outputs.o}}; " + nap, "a")
        join = _component(
            "join",
            lock + "cat ${{inputs.a}} > ${{outputs.o}}; " + nap + "cat ${{inputs.b}} >> ${{outputs.o}}",
            "a",
            "b",
        )
        data = "${{parent.inputs.data}}"
        nodes = {
            "upper": Node("upper", "upper", {"me": "upper", "a": data}),
            "count": Node("count", "count", {"me": "count", "a": data}),
            "join": Node(
                "join",
                "join",
                {"me": "join", "a": "${{parent.jobs.upper.outputs.o}}", "b": "${{parent.jobs.count.outputs.o}}"},
                {"o": "${{parent.outputs.result}}"},
            ),
        }
        whole = Component(
            "words",
            "1",
            "pipeline",
            inputs={"data": Input("data", "uri_file")},
            outputs={"result": Output("result", "uri_file")},
            nodes=nodes,
        )
        is_ours = rng.choice([True, False])
        pinned = {part.name: PinnedComponent(part, f"sha256:{part.name}", is_ours) for part in (upper, count, join)}
        facts = Facts(pinned, Hardware(CPUS, 8000), datetime.now(UTC))
        inputs = {"data": ArtifactInput(self.artifacts.put(given), "given.txt")}
        request = JobRequest(name, whole, inputs, priority=rng.randint(0, 2), force_rerun=True)
        self.records.jobs.add(*plan(request, facts))
        self.expected[name] = f"{text.upper()}{len(text.split())}\n"

    def step_processes(self) -> dict[str, list[psutil.Process]]:
        """Return what runs of this home's steps, by step folder, the runner first."""
        found: dict[str, list[psutil.Process]] = {}
        for process in psutil.process_iter():
            try:
                folder = process.environ().get(STEP_FOLDER, "")
                if folder.startswith(str(self.root)) and process.status() != psutil.STATUS_ZOMBIE:
                    found.setdefault(folder, []).append(process)
            except psutil.Error:
                continue
        return found

    def faults(self, may_fail: bool = False) -> list[str]:
        """Return all that isn't as it must be, once nothing is left to do.

        may_fail: a job may also have failed, with why, since its steps couldn't write.
        """
        told = [f"{pid} still runs" for group in self.step_processes().values() for pid in group]
        told += [f"{lease.owner} still holds a lease" for lease in self.leases.list()]
        told += [f"two attempts ran at once: {self.overlaps.read_text()}"] if self.overlaps.exists() else []
        for name, text in self.expected.items():
            job = self.records.jobs.get(name)
            if may_fail and job.status == JobStatus.FAILED:
                told += [] if (job.error or {}).get("message") else [f"{name} failed without a reason"]
                told += [f"{one.job}/{one.name} is {one.status}" for one in self.failed_steps(name, is_open=True)]
                continue
            if job.status != JobStatus.COMPLETED:
                told.append(f"{name} is {job.status}: {job.error}")
                continue
            for step in self.records.steps.of(name):
                told += [f"{name}/{step.name} is {step.status}"] if step.status != StepStatus.COMPLETED else []
                told += [
                    f"{name}/{step.name}: {fault}"
                    for stored in step.outputs.values()
                    for fault in self.artifacts.verify(stored)
                ]
                told += (
                    [f"{name}/{step.name} has the outputs {dict(step.outputs)}"] if set(step.outputs) != {"o"} else []
                )
            result = job.outputs["result"]
            stored = next(
                step.outputs[result.output] for step in self.records.steps.of(name) if step.name == result.step
            )
            found = self.artifacts.open_file(stored, "o").read_text()
            told += [f"{name} wrote {found!r}, expected {text!r}"] if found != text else []
        left = [path for part in ("inputs", "outputs", "code") for path in self.home.jobs.glob(f"*/*/*/{part}")]
        stays = {
            self.home.jobs / s.job / s.name / str(s.attempt) / "outputs"
            for n in self.expected
            for s in self.failed_steps(n)
        }
        told += [f"{path} is left" for path in left if not (may_fail and path in stays)]
        return told

    def failed_steps(self, job: str, is_open: bool = False) -> list[Step]:
        """Return a job's steps that have failed, or those that haven't ended."""
        steps = self.records.steps.of(job)
        return [s for s in steps if (not s.status.is_terminal if is_open else s.status == StepStatus.FAILED)]

    def failed_jobs(self) -> int:
        """Return how many jobs have failed."""
        return sum(self.records.jobs.get(name).status == JobStatus.FAILED for name in self.expected)


class FullDisk:
    """Fills the disk of a home, in part or wholly, and frees it again, as the dice fall."""

    def __init__(self, root: Path) -> None:
        self._filler = root.with_name("filler")
        self.fillings = 0

    def change(self, rng: random.Random) -> None:
        """Fill it, or free it."""
        if self._filler.exists():
            self.clear()
            return
        leave = rng.choice([0, 0, rng.randint(1, 64) << 20, rng.randint(64, 500) << 20])
        while not self._fill(leave):  # others write meanwhile
            leave += 1 << 18
        self.fillings += 1

    def _fill(self, leave: int) -> bool:
        free = shutil.disk_usage(self._filler.parent).free
        with self._filler.open("wb") as file, suppress(OSError):
            os.posix_fallocate(file.fileno(), 0, max(1, free - leave))
            return True
        return False

    def clear(self) -> None:
        """Free it."""
        self._filler.unlink(missing_ok=True)


def rage(root: Path, seed: int, kills: int = 10, disk: FullDisk | None = None) -> Storm:
    """Run jobs on a new home while `kills` kills fall, then let them finish, and look at what is there.

    disk: the home's, which is full now and then; it is freed before the jobs finish.
    """
    rng, world, storm = random.Random(seed), World(root), Storm(seed)
    began = time.monotonic()
    scheduler: subprocess.Popen[bytes] | None = None
    try:
        while sum(storm.kills.values()) < kills:
            if len(world.records.jobs.queue()) < 2:
                storm.jobs += 1
                with suppress(*([StorageFull, OSError] if disk else [])):
                    world.add_job(storm.jobs, rng)
            if scheduler is None or scheduler.poll() is not None:
                if scheduler is not None and scheduler.returncode == -signal.SIGKILL:
                    storm.kills["scheduler, at a change"] += 1
                delay_ms = rng.choice([0.0, 0.0, rng.uniform(1, 40)])
                scheduler = _start(root, rng.choice([0, 0, rng.randint(1, CHANGES_OF_A_JOB)]), delay_ms)
                storm.starts += 1
            _wait(scheduler, rng.uniform(0.1, 2.0))
            if disk is not None and rng.random() < 0.5:
                disk.change(rng)
            if scheduler.poll() is None:
                _strike(rng.choice(["scheduler", "step", "step", "step and scheduler"]), world, scheduler, rng, storm)
        if scheduler is not None:
            scheduler.kill()
            scheduler.wait()
        if disk is not None:
            disk.clear()
            storm.fillings = disk.fillings
        storm.starts += 1
        scheduler = _start(root)
        try:
            scheduler.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            storm.faults.append(f"the jobs didn't end within {LIMIT_S:.0f} s")
        storm.faults += world.faults(may_fail=disk is not None)
        storm.failed = world.failed_jobs()
        storm.attempts = sum(step.attempt for name in world.expected for step in world.records.steps.of(name))
    finally:
        if scheduler is not None:
            scheduler.kill()
            scheduler.wait()
        for group in world.step_processes().values():
            for process in group:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        world.database.close()
    storm.seconds = round(time.monotonic() - began, 1)
    return storm


def changes_of_a_job(root: Path) -> int:
    """Return how many changes a scheduler makes for one job."""
    world = World(root)
    world.add_job(1, random.Random(0))
    world.database.close()
    scheduler = _start(root)
    assert scheduler.wait(LIMIT_S) == 0
    return int((root / "scheduler.log").read_text().split()[-1])


def die_at_change(root: Path, number: int, delay_ms: float) -> list[str]:
    """Run one job with a scheduler that dies at its `number`-th change, then with another; return all that is wrong then."""
    world = World(root)
    try:
        world.add_job(1, random.Random(0))
        if _start(root, number, delay_ms).wait(LIMIT_S) not in (0, -signal.SIGKILL):
            return [f"the scheduler broke: {(root / 'scheduler.log').read_text()[-2000:]}"]
        last = _start(root)
        try:
            last.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            last.kill()
            return [f"the job didn't end within {LIMIT_S:.0f} s", *world.faults()]
        return world.faults()
    finally:
        world.database.close()


def _strike(kind: str, world: World, scheduler: "subprocess.Popen[bytes]", rng: random.Random, storm: Storm) -> None:
    """Kill; with "step", either one process of a step's tree (its runner as likely as any) or all of them."""
    groups = list(world.step_processes().values()) if "step" in kind else []
    if kind == "step" and not groups:
        return
    if groups:
        group = rng.choice(groups)
        for process in rng.choice([group, [rng.choice(group)]]):
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
    if "scheduler" in kind:
        scheduler.kill()
        scheduler.wait()
    storm.kills[kind if groups or "step" not in kind else "scheduler"] += 1


def _start(root: Path, die_at: int = 0, delay_ms: float = 0.0) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "tests.faults.run_scheduler", str(root), str(CPUS), str(die_at), str(delay_ms)]
    with (root / "scheduler.log").open("ab") as log:
        return subprocess.Popen(
            command, cwd=REPOSITORY, stdout=log, stderr=log, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}
        )


def _wait(scheduler: "subprocess.Popen[bytes]", seconds: float) -> None:
    try:
        scheduler.wait(seconds)
    except subprocess.TimeoutExpired:
        return


def _component(name: str, command: str, *files: str) -> Component:
    inputs: dict[str, Any] = {file: Input(file, "uri_file") for file in files} | {"me": Input("me", "string")}
    return Component(
        name,
        "1",
        "command",
        inputs=inputs,
        outputs={"o": Output("o", "uri_file")},
        command=command,
        resources=Resources(cpus=1),
    )


if __name__ == "__main__":
    home = Path(sys.argv[1])
    print(json.dumps(vars(rage(home, int(sys.argv[2]), int(sys.argv[3]), FullDisk(home)))))
