"""The ranks: the processes that train together (data parallelism), and what they tell one another.

Each holds the network, and goes through its share of a step's rows (data_order.py):

    rank 0   forward | backward ...        ─┐ loss, tokens, is memory out? stop?    ┌─ gradients  ─ optimizer step
    rank 1   forward | backward | ...      ─┘ of all ranks, told to all             └─ added up   ─ optimizer step

The invariant: all ranks make the same calls of this module, in the same order. So whatever decides what comes next (memory ran
out, a signal came, a loss isn't finite, the time to save) is agreed on before anybody acts on it. A rank that ends by
itself, by an error or a kill, makes the others' next call fail: `PeerLost`. These wait to be ended by whoever started all of
them, so that the first failure is the one that is told.
"""

import json
import logging
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn

from mafunzo.compute.device.out_of_memory import is_out_of_memory
from mafunzo.errors import PeerLost

logger = logging.getLogger(__name__)

BUCKET = 2**24
"""Elements of the gradients that are added up in one call."""
ENDED_WITHIN_S = 60.0
"""How long a rank that lost another waits to be ended."""


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together; alone unless it is told otherwise.

    local_rank, local_size: the same among the processes of this machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes metrics, checkpoints and the output."""
        return self.rank == 0

    def device(self) -> torch.device:
        """Return what this process computes on: the GPU of its number on this machine, or the CPU."""
        if not torch.cuda.is_available():
            return torch.device("cpu")
        if self.size == 1:
            return torch.device("cuda")
        torch.cuda.set_device(self.local_rank)
        return torch.device("cuda", self.local_rank)

    def processes_on(self, device: torch.device) -> int:
        """Return how many of the processes share a device's memory."""
        return self.local_size if device.type == "cpu" else 1

    def sums(self, values: Sequence[float]) -> list[float]:
        """Return the sum over all ranks of each value, added up in the order of ranks: equal on each, to the bit."""
        if self.size == 1:
            return list(values)
        return [float(value) for value in self._of_all(values).sum(0)]

    def any(self, *facts: bool) -> tuple[bool, ...]:
        """Return of each fact whether it holds on any rank."""
        return tuple(count > 0 for count in self.sums([float(fact) for fact in facts]))

    def least(self, value: int) -> int:
        """Return the least of the ranks' values."""
        return value if self.size == 1 else int(self._of_all([value]).min())

    def most(self, value: int) -> int:
        """Return the greatest of the ranks' values."""
        return value if self.size == 1 else int(self._of_all([value]).max())

    def from_first(self, value: Any) -> Any:
        """Return what the first rank has, a value of JSON; the others' is ignored."""
        if self.size == 1:
            return value
        texts = [json.dumps(value)]
        with _watched():
            distributed.broadcast_object_list(texts, src=0, device=torch.device("cpu"))
        return json.loads(texts[0])

    def of_each(self, tensors: Mapping[str, Tensor]) -> list[Mapping[str, Tensor]]:
        """Return the tensors of each rank, in the order of ranks; each has the same names and shapes, in the same order."""
        if self.size == 1:
            return [tensors]
        parts = {name: [torch.empty_like(tensor) for _ in range(self.size)] for name, tensor in tensors.items()}
        with _watched():
            for name, tensor in tensors.items():
                distributed.all_gather(parts[name], tensor)
        return [{name: parts[name][rank] for name in tensors} for rank in range(self.size)]

    def add_up(self, tensor: Tensor) -> Tensor:
        """Replace a tensor by its sum over all ranks, and return it."""
        if self.size > 1:
            with _watched():
                distributed.all_reduce(tensor)
        return tensor

    def wait(self) -> None:
        """Wait until all ranks are here."""
        self.sums([0.0])

    def add_up_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace each gradient by its sum over all ranks; a weight without one on every rank stays without."""
        if self.size == 1:
            return
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        has_gradient = torch.tensor([parameter.grad is not None for parameter in trained], dtype=torch.uint8)
        with _watched():
            distributed.all_reduce(has_gradient, distributed.ReduceOp.MAX)
            used = [parameter for parameter, is_used in zip(trained, has_gradient.tolist(), strict=True) if is_used]
            for bucket in _buckets(used):
                _add_up(bucket)

    def _of_all(self, values: Sequence[float]) -> Tensor:
        own = torch.tensor(values, dtype=torch.float64)
        parts = [torch.empty_like(own) for _ in range(self.size)]
        with _watched():
            distributed.all_gather(parts, own)
        return torch.stack(parts)


ALONE = Ranks()


def all_of(ranks: Ranks) -> list[Ranks]:
    """Return each of the processes that train together, as it knows itself but for the machine that it is on."""
    return [Ranks(rank, ranks.size) for rank in range(ranks.size)]


@contextmanager
def joined(environment: Mapping[str, str] = os.environ) -> Iterator[Ranks]:
    """Join the processes that the environment names (torch.distributed's `env://`) while this lasts.

    Only the first one logs and prints progress; warnings and errors are each one's own.
    """
    size = int(environment.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ALONE
        return
    rank, local_rank = int(environment["RANK"]), int(environment.get("LOCAL_RANK", environment["RANK"]))
    ranks = Ranks(rank, size, local_rank, int(environment.get("LOCAL_WORLD_SIZE", size)))
    is_owner = not distributed.is_initialized()
    with ExitStack() as stack:
        if not ranks.is_first:
            stack.enter_context(_quiet())
        try:
            if is_owner:
                _stay_on_loopback(ranks)
                with _watched():
                    distributed.init_process_group(_backend(), rank=rank, world_size=size)
            with peers_told():
                yield ranks
            ranks.wait()  # nobody leaves while the first still writes: were that to fail, it would go unnoticed
        except PeerLost as error:
            _wait_for_end(error)
        if is_owner:  # not after an error: there it might wait for the others
            distributed.destroy_process_group()


def _stay_on_loopback(ranks: Ranks) -> None:
    """Have processes of one machine talk by its loopback interface; gloo takes that of the host's name, which may be away."""
    if ranks.local_size == ranks.size and os.path.exists("/sys/class/net/lo"):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")


def _backend() -> str:
    """Tensors of the CPU go by gloo, those of a GPU by NCCL."""
    return "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"


@contextmanager
def _quiet() -> Iterator[None]:
    """Log nothing but warnings, and print no progress, while this lasts."""
    package = logging.getLogger("mafunzo")
    level = package.level
    package.setLevel(logging.WARNING)
    try:
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
            yield
    finally:
        package.setLevel(level)


@contextmanager
def _watched() -> Iterator[None]:
    """Tell a failure of what the ranks do together as `PeerLost`, but for memory that ran out here."""
    try:
        yield
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        raise PeerLost(f"Another process of this training can't be reached any more: {error}") from error


@contextmanager
def peers_told() -> Iterator[None]:
    """Tell a failure of what libraries do with all ranks within their own calls (ZeRO, FSDP) as `PeerLost`."""
    try:
        yield
    except RuntimeError as error:
        is_network = isinstance(error, distributed.DistBackendError | distributed.DistNetworkError)
        if not is_network and not any(words in str(error) for words in _OF_PEERS):
            raise
        raise PeerLost(f"Another process of this training can't be reached any more: {error}") from error


_OF_PEERS = ("third_party/gloo", "Connection closed by peer", "Connection reset by peer")
"""What gloo's errors say, which are of no class of their own."""


def _wait_for_end(error: PeerLost) -> None:
    """Wait for SIGTERM, which ends this process now; raises the error where nobody sends it.

    Whoever started the processes (the runner, torchrun) ends all once one has failed. If this one ended first, its exit code
    and its error would stand for that of the one that failed.
    """
    logger.warning("%s It waits to be ended.", error)
    sys.stdout.flush()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    time.sleep(ENDED_WITHIN_S)
    raise error


def _buckets(parameters: Iterable[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Yield parameters in their order, of one dtype and device at a time, in groups of about `BUCKET` elements."""
    bucket: list[nn.Parameter] = []
    for parameter in parameters:
        is_alike = bucket and (bucket[0].dtype, bucket[0].device) == (parameter.dtype, parameter.device)
        if bucket and (not is_alike or sum(one.numel() for one in bucket) >= BUCKET):
            yield bucket
            bucket = []
        bucket.append(parameter)
    if bucket:
        yield bucket


def _add_up(bucket: Sequence[nn.Parameter]) -> None:
    gradients = [torch.zeros_like(one) if one.grad is None else one.grad for one in bucket]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(flat)
    for parameter, part in zip(bucket, torch.split(flat, [one.numel() for one in bucket]), strict=True):
        parameter.grad = part.view_as(parameter)
