"""How a home with many past jobs answers: the first step after a start, each list, the idle server, and MLflow.

    python benchmarks/bench_growth.py [--jobs 10000] [--rounds 5] [--idle-s 60]

The peer of each list is `mafunzo --help`, and what counts is the CPU time beyond it, the median of the rounds. Each is a
process of its own; CPU time hardly follows what else the machine does. The home is made anew, in a temporary folder: each job
has five steps with their folders, metrics, a version of a model and one of a data set; each tenth a component and an
environment too.
"""

import argparse
import os
import resource
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))  # for tests.support, whose past jobs the tests have too

from record import machine, write

from mafunzo import Workspace
from mafunzo.control.launcher.server_process import find_server
from mafunzo.entities.job import StepStatus
from mafunzo.entrypoints.http.auth import operator_key
from tests.support.past_jobs import add_past_jobs, job_name

MAFUNZO = str(Path(sys.executable).parent / "mafunzo")
LISTS = ("job", "model", "data", "endpoint", "component", "environment", "compute", "user")
BARS = {"first step s": 5.0, "list cpu s": 0.3, "idle share": 0.01}
LIMIT_S = 1800.0


def main() -> None:
    """Make the home, measure, and write the results file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--idle-s", type=float, default=60.0)
    arguments = parser.parse_args()
    facts = machine()
    folder = Path(tempfile.mkdtemp(prefix="mafunzo-growth-"))
    os.environ |= {"MAFUNZO_HOME": str(folder / "home"), "MAFUNZO_OFFLINE": "1"}
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # the first round writes what the others read
    try:
        with Workspace(folder / "home", port=0) as workspace:
            began = time.perf_counter()
            add_past_jobs(workspace.database, workspace.home, arguments.jobs)
            body: dict[str, Any] = {"jobs": arguments.jobs, "making them s": since(began)}
            body["cpu s beyond --help"] = list_costs(arguments.rounds)
            body |= server_costs(workspace, arguments.idle_s)
            body |= mlflow_costs(workspace, arguments.jobs, arguments.idle_s)
            workspace.down()
        write("growth", body | {"bars": BARS, "rounds": arguments.rounds} | facts)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def list_costs(rounds: int) -> dict[str, float]:
    """Return each list command's CPU seconds beyond those of `mafunzo --help`: medians."""
    commands = {"help": [MAFUNZO, "--help"]} | {noun: [MAFUNZO, noun, "list"] for noun in LISTS}
    times = [{name: cpu_s(command) for name, command in commands.items()} for _ in range(rounds + 1)][1:]
    return {
        noun: round(statistics.median(one[noun] - one["help"] for one in times), 3)
        for noun in commands
        if noun != "help"
    } | {"--help itself": round(statistics.median(one["help"] for one in times), 3)}


def cpu_s(command: list[str]) -> float:
    """Run a command; return the CPU seconds that it and its children took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def server_costs(workspace: Workspace, idle_s: float) -> dict[str, float]:
    """Start the server; return when the first step of a new job began, and the idle server's share of a core."""
    began = time.perf_counter()
    workspace.up()
    up_s = since(began)
    job = workspace.models.import_("tiny-llama")
    until(lambda: all(step.status is not StepStatus.WAITING for step in job.steps))
    step_s = since(began)
    job.wait()
    return {"server up s": up_s, "first step s": step_s, "idle share": share_of_a_core(server(workspace), idle_s)}


def mlflow_costs(workspace: Workspace, jobs: int, seconds: float) -> dict[str, Any]:
    """Ask for MLflow; return when it answered and had the newest past job, and its share of a core beside that in a while.

    It takes past jobs in behind, newest first: how many a while adds, and what share that takes; idle it is once all are in.
    """
    address = find_server(workspace.home)
    assert address is not None
    auth, url = ("mafunzo", operator_key(workspace.home)), f"{address.url}/mlflow"
    began = time.perf_counter()
    assert httpx.get(f"{url}/health", auth=auth, timeout=LIMIT_S).text == "OK"
    up_s = since(began)
    run = {"run_id": job_name(jobs - 1)}
    until(lambda: httpx.get(f"{url}/api/2.0/mlflow/runs/get", params=run, auth=auth, timeout=LIMIT_S).is_success)
    facts: dict[str, Any] = {"mlflow up s": up_s, "mlflow has the newest past job s": since(began)}
    child = next(one for one in server(workspace).children() if "mafunzo.entrypoints.mlflow" in one.cmdline())
    before = jobs_in_mlflow(workspace)
    share = share_of_a_core(child, seconds)
    after = jobs_in_mlflow(workspace)
    name = "mlflow idle share" if after > jobs else "mlflow share while past jobs are added"
    return facts | {name: share, "past jobs added a second": round((after - before) / seconds, 1)}


def jobs_in_mlflow(workspace: Workspace) -> int:
    """Return how many jobs are in MLflow's database whole."""
    with closing(sqlite3.connect(workspace.home.root / "mlflow" / "mlflow.db", timeout=60)) as database:
        (number,) = database.execute("SELECT count(*) FROM tags WHERE key = 'mafunzo.settled'").fetchone()
    return int(number)


def server(workspace: Workspace) -> psutil.Process:
    """Return the server's process."""
    address = find_server(workspace.home)
    assert address is not None
    return psutil.Process(address.pid)


def share_of_a_core(process: psutil.Process, seconds: float) -> float:
    """Return the share of a core that a process takes in a while, without its children."""
    time.sleep(3.0)  # what it was asked for has ended
    before, began = process.cpu_times(), time.perf_counter()
    time.sleep(seconds)
    after = process.cpu_times()
    return round((after.user + after.system - before.user - before.system) / (time.perf_counter() - began), 4)


def until(is_so: Callable[[], bool], every_s: float = 0.02) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + LIMIT_S
    while not is_so():
        if time.monotonic() > deadline:
            raise SystemExit(f"It isn't so after {LIMIT_S:g} s.")
        time.sleep(every_s)


def since(began: float) -> float:
    """Return the seconds since a moment."""
    return round(time.perf_counter() - began, 2)


if __name__ == "__main__":
    main()
