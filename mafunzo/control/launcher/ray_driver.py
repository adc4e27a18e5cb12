"""The driver of a step on a Ray cluster: `python -m mafunzo.control.launcher.ray_driver TASK`, in the step's folder.

It is a process of this machine, started as any step is, so that whoever started it sees a local step: a log, metrics and
outputs that grow in the folder, SIGTERM that saves first, an exit code. On each node an actor works for it (`ray_node.py`):

    driver                                   node 10.0.0.1                       node 10.0.0.2
    inputs, earlier checkpoints  - once ->   contents, by hash                   contents, by hash
    log.txt, metrics, outputs    <- each second -  rank 0 ...   <-- gloo, NCCL -->    rank 1 ...

A node that is lost, or the whole cluster, ends the attempt as if it had been cut off, so that the next one goes on from the
newest checkpoint, with the nodes that are there then. Ray ends a process that has lost its cluster for good; so the driver is
two processes, of which the first knows whether the second has ended by itself.
"""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass, field
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from mafunzo.control.launcher.local import ExitRecord
from mafunzo.control.launcher.mirror import Mirror
from mafunzo.control.launcher.ray_cluster import ClusterTask, require_port
from mafunzo.control.launcher.ray_connection import connect, disconnect
from mafunzo.control.launcher.ray_node import Look, Node
from mafunzo.control.launcher.runner import Ranks
from mafunzo.control.launcher.transfer import SentFile, blocks_of, files_of, read_block
from mafunzo.entities.compute import ClusterNode, Placement
from mafunzo.errors import (
    FailedError,
    Faults,
    InvalidParameter,
    MafunzoError,
    OutOfMemory,
    PeerLost,
    StepFailed,
    Unreachable,
)
from mafunzo.tracking.atomic_json import write_json, write_text
from mafunzo.tracking.step_folder import StepFolder

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
SILENT_S = 180.0
"""A node that says nothing for so long is lost, whatever Ray says of it."""
HELD_WITHIN_S = 5.0
"""How long nodes are waited for before they are chosen anew."""
ANSWER_S = 120.0
"""How long a node may take to say what it has installed before it counts as away."""
LOST = 128 + signal.SIGKILL
STOPPED = 128 + signal.SIGTERM
PATIENT_GRACE_S = 900.0
"""How long processes may take to save: whoever ends the driver decides when that is over."""
FORGET_S = 30.0
BLOCKS_UNDER_WAY = 4
JOIN_FOLDER = "ray"
END_FILE = "driver-ended"
"""It is there once the driver has ended by itself, and wasn't ended by Ray."""
COMPARED = ("mafunzo", "torch", "transformers", "peft", "safetensors", "numpy")
"""The packages whose versions must be those of this machine."""


class NodeLost(Exception):
    """A node, or the whole cluster, is gone."""


NOTHING = Look({}, None, ())


@dataclass
class Member:
    """A node at work. actor: Ray's handle of its `Node`. first_rank: of its processes. sizes: how much of its files is here."""

    node: ClusterNode
    actor: Any
    processes: int
    first_rank: int
    sizes: dict[str, int] = field(default_factory=dict)
    look: Look = NOTHING

    def ask(self, method: str, *arguments: Any) -> Any:
        """Return what a method of its `Node` does; raises `NodeLost`, and what it raises."""
        return self.answer(getattr(self.actor, method).remote(*arguments))

    def answer(self, promise: Any) -> Any:
        """Return what a call that is under way does, as `ask`."""
        import ray

        try:
            return ray.get(promise, timeout=SILENT_S)
        except ray.exceptions.RayTaskError as error:
            cause = getattr(error, "cause", None)
            if isinstance(cause, FileNotFoundError | MafunzoError):
                raise cause from error
            raise StepFailed(f"Node {self.node.host}: {_first_line(cause or error)}") from error
        except (ray.exceptions.RayError, TimeoutError) as error:
            raise NodeLost(f"Node {self.node.host} is lost: {_first_line(error)}") from error

    def files(self, part: str) -> list[SentFile]:
        return [SentFile(*file) for file in self.ask("files", part)]

    def read(self, path: str, start: int, size: int) -> bytes:
        return bytes(self.ask("read", path, start, size))


class Driver:
    """Runs one attempt on a cluster that this process is connected to. `is_stopping` says whether SIGTERM came."""

    def __init__(self, folder: Path, placement: Placement, is_stopping: Callable[[], bool]) -> None:
        self._folder, self._placement, self._is_stopping = StepFolder(folder), placement, is_stopping
        self._members: list[Member] = []
        self._group: Any = None
        self._mirror = Mirror(folder, lambda: self._members[0])

    def run(self, command: str, variables: Mapping[str, str]) -> int:
        """Run the command on the nodes and return its exit code; raises `NodeLost`."""
        nodes = self._held(self._enough(self._usable_nodes()))
        if self._is_stopping():
            return STOPPED
        self._members = self._placed(nodes)
        try:
            self._wait_for_actors()
            self._send()
            self._start(command, variables)
            return self._follow()
        except NodeLost:
            self._end(0.0)
            with suppress(
                NodeLost, MafunzoError, OSError
            ):  # of the first node, if that is there, each whole checkpoint counts
                self._mirror.wait()
                self._take(self._members[0], self._members[0].ask("look", self._members[0].sizes))
                self._mirror.finish(self._members[0].look.checkpoints)
            raise
        finally:
            settle([member.actor.forget.remote() for member in self._members])

    # Which nodes

    def _usable_nodes(self) -> dict[str, ClusterNode]:
        """Return the nodes that answer, by Ray's id, in their order; raises `InvalidParameter` for other versions than here."""
        import ray

        nodes = {
            of["NodeID"]: ClusterNode(
                of["NodeManagerAddress"], int(of["Resources"]["CPU"]), int(of["Resources"].get("GPU", 0))
            )
            for of in ray.nodes()  # type: ignore[no-untyped-call]
            if of["Alive"] and of["Resources"].get("CPU")
        }
        ask = ray.remote(num_cpus=0, max_retries=0)(installed)
        answers = {ask.options(**_on(node_id)).remote(COMPARED): node_id for node_id in nodes}
        done = ray.wait(list(answers), num_returns=len(answers), timeout=ANSWER_S)[0] if answers else []
        own, faults, usable = installed(COMPARED), Faults(), dict[str, ClusterNode]()
        for answer in done:
            node_id = answers[answer]
            with suppress(ray.exceptions.RayError):
                faults.add(version_fault(nodes[node_id].host, own, ray.get(answer)))
                usable[node_id] = nodes[node_id]
        faults.require_none("The nodes of the cluster can't train with this machine.")
        for node_id in nodes.keys() - usable.keys():
            logger.info("Node %s doesn't answer, and is left out", nodes[node_id].host)
        return dict(sorted(usable.items(), key=lambda pair: ip_address(pair[1].host)))

    def _enough(self, usable: Mapping[str, ClusterNode]) -> Mapping[str, ClusterNode]:
        """Return the nodes; raises `NodeLost` where there is none, and `InvalidParameter` for too few where that is refused."""
        if not usable:
            raise NodeLost("No node of the cluster answers")
        if shortage := self._placement.shortage(list(usable.values())):
            if self._placement.is_strict:
                raise InvalidParameter(f"strict_compute is 'true', and {shortage}.")
            logger.info("%s: the steps keep their rows, by gradient accumulation", shortage)
        return usable

    def _chosen(self, usable: Mapping[str, ClusterNode], free: Set[str]) -> dict[str, ClusterNode]:
        """Return the nodes that are to run the step, in their order: rather such as are free."""
        chosen = self._placement.choose(sorted_by(usable, free))
        return {node_id: node for node_id, node in usable.items() if any(node is one for one in chosen)}

    def _held(self, usable: Mapping[str, ClusterNode]) -> dict[str, ClusterNode]:
        """Return the nodes that run the step, once all their cores and GPUs are held for it in Ray's books.

        They are held all at once or not at all, as a group of Ray's, so that two steps that want the same nodes never wait for
        one another; and chosen anew while others hold them, so that no step waits beside a node that is free. Raises
        `NodeLost` for one that goes away meanwhile.
        """
        is_told = False
        while not self._is_stopping():
            free, there = free_nodes(usable)
            if usable.keys() - there:
                raise NodeLost(f"Node {usable[min(usable.keys() - there)].host} is lost")
            nodes = self._chosen(usable, free)
            self._group = hold(nodes.values(), self._placement)
            if self._group.wait(HELD_WITHIN_S):
                return nodes
            release(self._group)
            if not is_told:
                logger.info("Waits for the cores of %s", ", ".join(node.host for node in nodes.values()))
                is_told = True
        return {}

    def _placed(self, nodes: Mapping[str, ClusterNode]) -> list[Member]:
        """Return an actor on each node, which has what is held there."""
        import ray
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        attempt, step, job = self._folder.path.name, self._folder.path.parent.name, self._folder.path.parent.parent.name
        token, members, rank = os.urandom(4).hex(), list[Member](), 0
        for number, node in enumerate(nodes.values()):
            gpus = min(self._placement.gpus, node.gpus)
            options = {"num_cpus": node.cpus, "num_gpus": gpus, "max_concurrency": 8, "max_restarts": 0}
            held = PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=number)
            actor = (
                ray.remote(Node)
                .options(**options, scheduling_strategy=held)
                .remote(node.host, job, step, attempt, token)
            )
            members.append(Member(node, actor, self._placement.processes_on(node), rank))
            rank += members[-1].processes
        return members

    def _wait_for_actors(self) -> None:
        """Wait until all actors have started; raises `NodeLost`."""
        for member, promise in [(member, member.actor.free_port.remote()) for member in self._members]:
            member.answer(promise)

    # What goes to them

    def _send(self) -> None:
        """Have all that the step reads be on each node: its inputs, and the checkpoints of earlier attempts."""
        step = self._folder.path.parent
        earlier = [
            path for path in step.iterdir() if path.name.isdigit() and int(path.name) < int(self._folder.path.name)
        ]
        parts = [self._folder.inputs, *(checkpoint for path in earlier for checkpoint in StepFolder(path).checkpoints)]
        self._files = files_of(step, parts)
        lacks = [set(member.ask("missing", self._files)) for member in self._members]
        for file in {file.sha256: file for file in self._files}.values():
            members = [member for member, lack in zip(self._members, lacks, strict=True) if file.sha256 in lack]
            under_way: list[tuple[Member, Any]] = []
            for start, size in blocks_of(file.size) if members else ():
                block = put(read_block(step / file.path, start, size))  # once, however many nodes take it
                under_way += [(member, member.actor.write.remote(file.sha256, start, block)) for member in members]
                while len(under_way) > BLOCKS_UNDER_WAY * len(members):
                    member, promise = under_way.pop(0)
                    member.answer(promise)
            for member, promise in under_way:
                member.answer(promise)
            for member in members:
                member.ask("finish", file.sha256)
        sent = sum(
            file.size for file in {file.sha256: file for file in self._files}.values() if file.sha256 in lacks[0]
        )
        logger.info(
            "Sent %.1f MB to each of %d node(s), %.1f MB were there", sent / 1e6, len(lacks), self._known_mb(lacks[0])
        )

    def _known_mb(self, lack: set[str]) -> float:
        return sum(file.size for file in self._files if file.sha256 not in lack) / 1e6

    def _start(self, command: str, variables: Mapping[str, str]) -> None:
        first = self._members[0]
        port, size = int(first.ask("free_port")), sum(member.processes for member in self._members)
        for number, member in enumerate(self._members):
            ranks = Ranks(member.first_rank, size, number, first.node.host, port)
            member.ask("start", self._files, command, variables, member.processes, member.node.cpus, ranks)
        hosts = ", ".join(f"{member.node.host} ({member.processes})" for member in self._members)
        logger.info(
            "Runs on %d node(s) of compute '%s', processes in brackets: %s",
            len(self._members),
            self._placement.compute,
            hosts,
        )

    # What comes from them

    def _follow(self) -> int:
        """Take what the nodes write until all have ended; return the exit code of the first that failed, else 0."""
        is_told, code = False, 0
        while True:
            promises = [(member, member.actor.look.remote(member.sizes)) for member in self._members]
            for member, promise in promises:
                self._take(member, member.answer(promise))
            records = [member.look.record for member in self._members]
            if all(record is not None for record in records) and not any(m.look.gains for m in self._members):
                break
            if not code and (failed := self._first_failed()) is not None:
                code = self._exit_code(failed)
                self._end(10.0)
            self._mirror.follow(self._members[0].look.checkpoints)
            if self._is_stopping() and not is_told:
                is_told = True
                self._end(PATIENT_GRACE_S)
            time.sleep(LOOK_EVERY_S)
        self._mirror.finish(self._members[0].look.checkpoints)
        return code or (self._exit_code(failed) if (failed := self._first_failed()) is not None else 0)

    def _first_failed(self) -> Member | None:
        """Return a node whose processes failed: rather one of which they ended by themselves than by a signal."""
        failed = [m for m in self._members if m.look.record is not None and _code(m.look) != 0]
        return min(failed, key=lambda member: _code(member.look) in (LOST, STOPPED), default=None)

    def _exit_code(self, failed: Member) -> int:
        """Return the exit code of a node that failed; what it has recorded of its error is the step's."""
        record, text = failed.look.record, str(failed.ask("error"))
        if isinstance(record, ExitRecord) and record.is_out_of_memory:
            error: MafunzoError = OutOfMemory(
                f"Memory ran out on node {failed.node.host}, at {record.peak_memory_mb:,.0f} MB. Set max_memory_gb, or lower "
                "max_seq_length, lora_r or the size of the model."
            )
            write_json(self._folder.error, error.record)
            return error.exit_code
        if text and json.loads(text).get("code") == PeerLost.code:
            raise NodeLost(f"Node {failed.node.host} has lost another one: {json.loads(text)['message']}")
        if text:
            write_text(self._folder.error, text)
        code = _code(failed.look)
        if failed is not self._members[0] and code not in (STOPPED, LOST):
            logger.info("Node %s ended with %d", failed.node.host, code)
        return code

    def _take(self, member: Member, look: Look) -> None:
        """Write what a node has gained into the step's folder."""
        member.look = Look(*look)
        for name, gain in member.look.gains.items():
            is_log = name != self._folder.metrics.name
            whole = gain if is_log and member.look.record is not None else gain[: gain.rfind(b"\n") + 1]
            member.sizes[name] = member.sizes.get(name, 0) + len(whole)
            if is_log:
                self._take_log(member, name, whole)
            elif member is self._members[0] and whole:
                with self._folder.metrics.open("ab") as metrics:
                    metrics.write(whole)

    def _take_log(self, member: Member, name: str, text: bytes) -> None:
        """Write lines of a node's log: of its first process into the step's own, of the others into theirs."""
        parts = name.split(".")
        local_rank = int(parts[1]) if len(parts) == 3 else 0
        place = self._folder.log if local_rank == 0 else self._folder.log_of(member.first_rank + local_rank)
        with place.open("ab") as log:
            log.write(b"".join(marked(line, member.node.host) for line in text.splitlines(keepends=True)))

    def _end(self, grace_s: float) -> None:
        """Have the processes end on all nodes, and don't wait for it."""
        for member in self._members:
            member.actor.end.remote(grace_s)


def sorted_by(usable: Mapping[str, ClusterNode], free: Set[str]) -> list[ClusterNode]:
    """Return nodes in their order, those that are free before the others."""
    return [usable[node_id] for node_id in sorted(usable, key=lambda node_id: node_id not in free)]


def free_nodes(nodes: Mapping[str, ClusterNode]) -> tuple[set[str], set[str]]:
    """Return which nodes nobody holds anything of, and which are there at all."""
    from ray._private.state import available_resources_per_node

    left = available_resources_per_node()  # type: ignore[no-untyped-call]
    there = nodes.keys() & left.keys()
    free = {
        node_id
        for node_id in there
        if left[node_id].get("CPU", 0) >= nodes[node_id].cpus and left[node_id].get("GPU", 0) >= nodes[node_id].gpus
    }
    return free, there


def hold(nodes: Iterable[ClusterNode], placement: Placement) -> Any:
    """Ask Ray for all cores of nodes and the GPUs that the step has there; it lasts until this process is disconnected."""
    from ray.util.placement_group import placement_group

    bundles = [
        {"CPU": node.cpus, f"node:{node.host}": 0.001}
        | ({"GPU": gpus} if (gpus := min(placement.gpus, node.gpus)) else {})
        for node in nodes
    ]
    return placement_group(bundles, strategy="SPREAD")


def release(group: Any) -> None:
    """Take back what was asked for, or is held."""
    from ray.util.placement_group import remove_placement_group

    remove_placement_group(group)


def settle(promises: Sequence[Any]) -> None:
    """Wait for what nodes do at the end, but not for one that doesn't answer."""
    import ray

    if promises:
        ray.wait(list(promises), num_returns=len(promises), timeout=FORGET_S)


def put(block: bytes) -> Any:
    """Return what stands for a block in Ray's object store, from where every node takes it."""
    import ray

    return ray.put(block)


def marked(line: bytes, host: str) -> bytes:
    """Return a line of a log with the node that it is of; what programs read stays as it is."""
    return line if line.startswith(b"{") else f"[{host}] ".encode() + line


def installed(packages: Sequence[str]) -> dict[str, str]:
    """Return what a machine has installed. It runs on nodes that may lack this package, so that it imports nothing of it."""
    import hashlib
    import platform
    from importlib import metadata, util
    from pathlib import Path

    facts = {"python": platform.python_version()}
    for package in packages:
        try:
            facts[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            facts[package] = "none"
    spec, digest = util.find_spec("mafunzo"), hashlib.sha256()
    if spec is not None and spec.origin is not None:
        root = Path(spec.origin).parent
        for path in sorted(root.rglob("*.py")):
            digest.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return {**facts, "mafunzo's code": digest.hexdigest()[:12]}


def version_fault(host: str, own: Mapping[str, str], other: Mapping[str, str]) -> str:
    """Return in what a node differs from this machine, and what to do; empty where it doesn't."""
    pairs = [f"{name} {other.get(name)} (here {own[name]})" for name in own if own[name] != other.get(name)]
    return f"node {host} has {', '.join(pairs)}. Install the same there: pip install 'mafunzo[ray]'" if pairs else ""


def _on(node_id: str) -> dict[str, Any]:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return {"scheduling_strategy": NodeAffinitySchedulingStrategy(node_id, soft=False)}


def _code(look: Look) -> int:
    return look.record.exit_code if isinstance(look.record, ExitRecord) else LOST


def _first_line(error: BaseException) -> str:
    return next((line.rstrip(".") for line in str(error).splitlines() if line.strip()), type(error).__name__)


def drive(folder: Path, task: ClusterTask) -> int:
    """Connect to the cluster and run the attempt; return its exit code, with its error recorded."""
    has_signal: list[int] = []
    leash = None

    def note(number: int, _: object) -> None:
        has_signal.append(number)

    signal.signal(signal.SIGTERM, note)
    try:
        placement = Placement(**task.placement)  # type: ignore[arg-type]
        require_port(placement.compute, task.address)
        leash = connect(task.address, folder / JOIN_FOLDER)
        signal.signal(signal.SIGTERM, note)  # Ray has put a handler of its own in its place
        return Driver(folder, placement, partial(bool, has_signal)).run(task.command, task.variables)
    except (NodeLost, Unreachable) as error:
        logger.warning("%s. What is saved is gone on from, with the nodes that are there then.", error)
        return STOPPED if has_signal else LOST
    except Exception as error:  # the border of the process: whatever broke becomes its record
        if type(error).__module__.startswith("ray."):
            logger.warning("The cluster is lost: %s", _first_line(error))
            return LOST
        known = error if isinstance(error, MafunzoError) else FailedError(f"{type(error).__name__}: {error}")
        logger.error("error: %s", known, exc_info=None if known is error else error)
        write_json(StepFolder(folder).error, known.record)
        return known.exit_code
    finally:
        disconnect(leash)


def main() -> int:
    """Run the driver's second process, and return how it ended."""
    folder = Path.cwd()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    if sys.argv[1] == "--inner":
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):  # Ray prints what other processes say
            code = drive(folder, ClusterTask(*json.loads(sys.argv[2])))
        (folder / END_FILE).touch()
        return code
    inner = subprocess.Popen([sys.executable, "-m", "mafunzo.control.launcher.ray_driver", "--inner", sys.argv[1]])
    signal.signal(signal.SIGTERM, lambda number, _: inner.send_signal(number))
    code = inner.wait()
    if (folder / END_FILE).exists():
        return code
    logger.warning("The cluster is lost: Ray has ended its driver (%d). What is saved is gone on from.", code)
    return LOST


if __name__ == "__main__":
    sys.exit(main())
