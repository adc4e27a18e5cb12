"""What a long log costs the server: its memory while three clients follow one, and the longest that it kept others waiting.

    python benchmarks/bench_logs.py [--megabytes 500] [--clients 3]

A home has a job whose step has printed so much. Each client reads the job's whole log as the Azure SDK does, as fast as it
comes, and throws it away; meanwhile another request is made every 50 ms. The server is a process of its own, and its memory
the most pages of its own that it had at any moment, against what it had before. Nothing is compared with a peer: the bar is
absolute, at most 50 MB more.
"""

import argparse
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
from record import machine, write

from mafunzo import Workspace
from mafunzo.entities.job import Job, JobStatus, Step, StepSpec, StepStatus
from mafunzo.entities.server_address import ServerAddress
from mafunzo.entrypoints.azure.sas import READ, sas_of
from mafunzo.entrypoints.http.identity import Identity

LINE = b"step 1200 loss 1.234 grad_norm 0.56 tokens 123456, and whatever else a program prints in one line of its log\n"
LIMIT_MB = 50.0
POLL_S = 0.05


def main() -> None:
    """Measure, and write the results file; fail above the limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=500)
    parser.add_argument("--clients", type=int, default=3)
    arguments = parser.parse_args()
    facts = machine()
    with tempfile.TemporaryDirectory(prefix="mafunzo-bench-") as root, Workspace(root, port=0) as workspace:
        add_job(workspace, arguments.megabytes)
        server = workspace.up()
        try:
            body = measure(workspace, server, arguments.clients)
        finally:
            workspace.down()
    write("logs", body | {"log_mb": arguments.megabytes, "clients": arguments.clients, "limit_mb": LIMIT_MB} | facts)
    if body["more_memory_mb"] > LIMIT_MB:
        raise SystemExit(f"The server took {body['more_memory_mb']} MB more, expected {LIMIT_MB} at most.")


def add_job(workspace: Workspace, megabytes: int) -> None:
    """Leave what a job leaves whose one step has printed much, and has ended."""
    spec = StepSpec("train", "train:1", "sha256:0", "true")
    job = Job("long", "long", "bench", "train:1", status=JobStatus.COMPLETED)
    workspace.records.jobs.add(job, [Step("long", spec, StepStatus.COMPLETED, 1)])
    folder = workspace.home.jobs / "long" / "train" / "1"
    folder.mkdir(parents=True)
    with (folder / "log.txt").open("wb") as log:
        for _ in range(megabytes):
            log.write(LINE * (2**20 // len(LINE)))


def measure(workspace: Workspace, server: ServerAddress, clients: int) -> dict[str, float]:
    """Return the server's memory before and at its most, and how long others waited."""
    process, has_ended = psutil.Process(server.pid), threading.Event()
    address = log_address(workspace, server)
    read(address, stop_after=1)  # what the first request of all loads isn't the log's
    before = own_memory(process)
    with ThreadPoolExecutor(clients + 2) as pool:
        peak = pool.submit(highest, process, has_ended)
        longest = pool.submit(longest_wait, server, has_ended)
        began = time.perf_counter()
        sizes = list(pool.map(read, [address] * clients))
        seconds = time.perf_counter() - began
        has_ended.set()
    assert len(set(sizes)) == 1, sizes
    more = peak.result() - before
    return {
        "before_mb": round(before / 2**20, 1),
        "more_memory_mb": round(more / 2**20, 1),
        "sent_mb_each": round(sizes[0] / 2**20, 1),
        "seconds": round(seconds, 1),
        "longest_wait_of_others_s": round(longest.result(), 3),
    }


def log_address(workspace: Workspace, server: ServerAddress) -> str:
    """Return the signed address of the job's log."""
    identity = Identity(workspace.home.secret(), workspace.home_user)
    query = sas_of(identity, identity.owner).sign("log of long", READ)
    return f"https://127.0.0.1:{server.https_port}/logs/long?{query}"


def read(address: str, stop_after: int | None = None) -> int:
    """Read the log and throw it away; return its bytes."""
    size = 0
    with httpx.stream("GET", address, verify=False, timeout=600) as answer:
        answer.raise_for_status()
        for piece in answer.iter_raw(2**16):
            size += len(piece)
            if stop_after is not None and size >= stop_after:
                break
    return size


def highest(process: psutil.Process, has_ended: threading.Event) -> int:
    """Return the most memory that a process had until the event."""
    most = 0
    while not has_ended.wait(POLL_S):
        most = max(most, own_memory(process))
    return most


def own_memory(process: psutil.Process) -> int:
    """Return the bytes that are the process's own."""
    return int(process.memory_full_info().uss)


def longest_wait(server: ServerAddress, has_ended: threading.Event) -> float:
    """Return the longest that a small request took until the event."""
    longest = 0.0
    with httpx.Client(base_url=server.url, timeout=600) as client:
        while not has_ended.wait(POLL_S):
            began = time.perf_counter()
            client.get("/v1/models")
            longest = max(longest, time.perf_counter() - began)
    return longest


if __name__ == "__main__":
    main()
