"""The parent of every child process: `python -m mafunzo.control.launcher.runner FOLDER PROCESSES ARGV...`.

It owns two files of FOLDER. `process.json` says who runs there; it is made once, so that of two starters, or of a starter
and someone who gave the folder up, one wins. `exit.json` says how it ended; it appears whole or not at all, and survives a
power cut. The runner outlives the scheduler that started it, loads little beside the standard library, and only waits.
"""

import contextlib
import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mafunzo import cgroup
from mafunzo.tracking.atomic_json import write_json
from mafunzo.tracking.step_folder import StepFolder

VMSTAT = Path("/proc/vmstat")
RANKS = "MAFUNZO_RANKS"
"""The environment variable that gives the processes of one machine their place among those of several (`Ranks.text`)."""
LAST_LINES = 20
RECORD_BYTES = 1024


class Ranks(NamedTuple):
    """The place of a machine's processes among all that work together: the rank of its first, and where rank 0 listens."""

    first: int
    size: int
    node: int
    address: str
    port: int

    @property
    def text(self) -> str:
        """It as the value of `RANKS`."""
        return json.dumps(self)

    @classmethod
    def of(cls, text: str | None, processes: int) -> "Ranks":
        """Return what the variable says; without it the processes are alone."""
        if text:
            return cls(*json.loads(text))
        return cls(0, processes, 0, "127.0.0.1", _free_port() if processes > 1 else 0)


def main(argv: Sequence[str]) -> int:
    """Run the command, `PROCESSES` times side by side, and record how it ended; return its exit code."""
    folder, processes, command = Path(argv[0]), int(argv[1]), list(argv[2:])
    me = {
        "pid": os.getpid(),
        "pid_start": process_start(),
        "identity": process_identity(os.getpid()),
        "started_at": time.time(),
        "command": command,
    }
    if not claim(folder, me):
        return 0
    room = _make_room(folder)
    _prefer_for_oom_kill()
    kills_before = _oom_kills()
    code, peak = _run(folder, processes, command)
    is_killed = code == -signal.SIGKILL or code == 128 + signal.SIGKILL
    record = {
        "exit_code": code if code >= 0 else 128 - code,
        "signal": -code if code < 0 else None,
        "pid": me["pid"],
        "pid_start": me["pid_start"],
        "started_at": me["started_at"],
        "ended_at": time.time(),
        "peak_memory_mb": round(peak / 2**20, 1),
        "is_out_of_memory": is_killed and _oom_kills() > kills_before,
    }
    _record_end(StepFolder(folder).exit, record, room)
    return code if code >= 0 else 128 - code


def _make_room(folder: Path) -> Path | None:
    """Return a file with room for the exit record: the step may fill the disk, and that it ended must be written then."""
    room = folder / f".{StepFolder(folder).exit.name}"
    try:
        with room.open("wb") as file:
            file.write(b" " * RECORD_BYTES)
            os.fsync(file.fileno())
    except OSError:  # the disk is full already
        return None
    return room


def _record_end(target: Path, record: Mapping[str, Any], room: Path | None) -> None:
    """Write the exit record, whole or not at all, into the room that was made for it."""
    text = json.dumps(record)
    if room is None or len(text) >= RECORD_BYTES or not room.exists():
        write_json(target, record, is_durable=True)
        return
    with room.open("r+b") as file:
        file.write(f"{text:<{RECORD_BYTES - 1}}\n".encode())
        file.flush()
        os.fsync(file.fileno())
    room.replace(target)


def claim(folder: Path, who: Mapping[str, Any]) -> bool:
    """Make `process.json` unless it exists, atomically; return whether it was made."""
    target = StepFolder(folder).process
    draft = folder / f".{target.name}.{os.getpid()}"
    write_json(draft, who, is_durable=True)
    try:
        os.link(draft, target)
    except FileExistsError:
        return False
    finally:
        draft.unlink()
    return True


def process_identity(pid: int) -> str:
    """Return what tells a process from every other that has had or will get its pid; empty where the system doesn't say.

    That is when it began, in clock ticks since the machine started, and which start that was: neither moves with the clock.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux, or it is gone
        return ""
    return f"{boot_id()}/{stat.rpartition(')')[2].split()[19]}"


def boot_id() -> str:
    """Return which start of the machine this is; empty where the system doesn't say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:  # not Linux
        return ""


def process_start() -> float:
    """Return when this process began, in epoch seconds as psutil counts them."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        boot = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime "))
    except OSError:  # not Linux: now is close enough, the reader allows for seconds
        return time.time()
    return ticks / os.sysconf("SC_CLK_TCK") + float(boot.split()[1])


def _run(folder: Path, processes: int, command: Sequence[str]) -> tuple[int, int]:
    """Return the first exit code that isn't 0 (negative: a signal), else 0, and the peak memory of the tree in bytes."""
    wake, wake_writer = os.pipe()
    os.set_blocking(wake_writer, False)
    signal.set_wakeup_fd(wake_writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    children: list[subprocess.Popen[bytes]] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda received, _: _pass_on(children, received))
    ranks = Ranks.of(os.environ.get(RANKS), processes)
    for rank in range(processes):
        with StepFolder(folder).log_of(rank).open("ab", buffering=0) as log:
            try:
                children.append(_start(command, log.fileno(), _rank_environment(rank, processes, ranks)))
            except OSError as error:
                log.write(f"error: {command[0]} can't be started: {error}\n".encode())
                _pass_on(children, signal.SIGKILL)
                return 127, 0
    return _wait(folder, children, wake)


def _wait(folder: Path, children: Sequence[subprocess.Popen[bytes]], wake: int) -> tuple[int, int]:
    peak, interval_s, first_failure, gives_up_at = 0, 0.02, 0, float("inf")
    while True:
        alive = [rank for rank, child in enumerate(children) if child.poll() is None]
        broken = [rank for rank, child in enumerate(children) if child.returncode]
        if broken and not first_failure:
            first_failure, gives_up_at = children[broken[0]].returncode, time.monotonic() + 10
            if len(children) > 1:
                _copy_last_lines(folder, broken[0], first_failure)
            _pass_on(children, signal.SIGTERM)
        if not alive:
            break
        if time.monotonic() > gives_up_at:
            _pass_on(children, signal.SIGKILL)
        peak = max(peak, sum(_tree_memory(children[rank].pid) for rank in alive))
        if select.select([wake], [], [], interval_s)[0]:
            os.read(wake, 4096)
        interval_s = min(1.0, interval_s * 1.5)
    unit = 1 if sys.platform == "darwin" else 1024
    return first_failure, max(peak, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit)


def _start(command: Sequence[str], log: int, environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **environment}
    )


def _rank_environment(local_rank: int, processes: int, ranks: Ranks) -> dict[str, str]:
    """The variables of torch.distributed's `env://`, and those that programs of MPI go by; none for a single process."""
    if ranks.size == 1:
        return {}
    rank, size = str(ranks.first + local_rank), str(ranks.size)
    return {
        "RANK": rank,
        "LOCAL_RANK": str(local_rank),
        "WORLD_SIZE": size,
        "LOCAL_WORLD_SIZE": str(processes),
        "NODE_RANK": str(ranks.node),
        "MASTER_ADDR": ranks.address,
        "MASTER_PORT": str(ranks.port),
        "OMPI_COMM_WORLD_RANK": rank,
        "OMPI_COMM_WORLD_LOCAL_RANK": str(local_rank),
        "OMPI_COMM_WORLD_SIZE": size,
        "OMPI_COMM_WORLD_LOCAL_SIZE": str(processes),
    }


def _pass_on(children: Sequence["subprocess.Popen[bytes]"], number: int) -> None:
    for child in children:
        if child.poll() is None:
            child.send_signal(number)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _copy_last_lines(folder: Path, rank: int, code: int) -> None:
    """Show in `log.txt` why a process other than the first ended the others."""
    if rank == 0:
        return
    own_log = StepFolder(folder).log_of(rank)
    lines = own_log.read_bytes().splitlines(keepends=True)[-LAST_LINES:]
    end = f"; the last lines of {own_log.name}:" if lines else ", and had printed nothing."
    with StepFolder(folder).log.open("ab") as log:
        log.write(f"process {rank} ended with {code}{end}\n".encode() + b"".join(lines))


def _tree_memory(pid: int) -> int:
    """Return the resident bytes of a process and its descendants; 0 where /proc doesn't tell."""
    total = 0
    with contextlib.suppress(OSError):
        total = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()
        for thread in os.listdir(f"/proc/{pid}/task"):
            children = Path(f"/proc/{pid}/task/{thread}/children").read_text().split()
            total += sum(_tree_memory(int(child)) for child in children)
    return total


def _oom_kills() -> int:
    """Return how many processes the kernel has ended for want of memory: of the machine, since boot, and of our control group.

    A container may show one of both only. Neither names the processes, so that a step counts as one if it was killed meanwhile.
    """
    of_group = cgroup.oom_kills()
    with contextlib.suppress(OSError):
        for line in VMSTAT.read_text().splitlines():
            if line.startswith("oom_kill "):
                return of_group + int(line.split()[1])
    return of_group


def _prefer_for_oom_kill() -> None:
    """Let the kernel end the step, not the server, when memory runs out; inherited by the children."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
