"""Live memory: what the tensors of a pass hold at each of its operations, and so how much a pass of any length takes.

A forward and backward pass over twice the tokens does the same operations, in the same order, on tensors that are twice as
long, beside some whose size no token changes (gradients of weights, weights in another precision). So two short passes tell
what each operation's moment takes of any number of tokens, and the peak is the highest of them:

    operation            1        2        3   ...   forward ends   ...   backward ends
    16 tokens           10       22       20                  300                   730
    32 tokens           20       44       40                  600                   760
    1,024 tokens       640    1,408    1,280               19,200                 2,620     each on the line through the two

A pass of few tokens is at its peak where it ends, with all gradients; one of many where its backward pass begins, with all that
was kept for it.

Two things grow otherwise, and are added by who asks: the logits, which are made for so many positions at a time whatever the
tokens (head_loss.py): they are left out, but the moments at which there are some are known; and attention weights, which grow
with the square of a sequence (attention.py) and are next to nothing in a short one.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Self
from weakref import ref

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

Floats = NDArray[np.float64]
MOST_MOMENTS = 512
"""Of how many moments two passes are compared that don't do the same operations, as a mixture of experts doesn't."""


@dataclass(frozen=True)
class Trace:
    """What was live after each operation of a pass, in bytes; gradients: of those, what is a gradient of a weight at the end.

    logits: how many tensors of logits there were, which aren't counted.
    """

    tokens: int
    live: Floats
    gradients: Floats
    logits: NDArray[np.int64]

    def in_moments(self, count: int) -> Self:
        """Return the highest of every so many operations, so that there are `count` of them."""
        starts = np.arange(count) * len(self.live) // count
        return type(self)(
            self.tokens,
            np.maximum.reduceat(self.live, starts),
            np.minimum.reduceat(self.gradients, starts),
            np.maximum.reduceat(self.logits, starts),
        )


@dataclass(frozen=True)
class Apart:
    """What no short pass tells, in bytes: the logits of a chunk, another copy of a part of them, and the attention weights
    that are being computed."""

    logits: float = 0.0
    part: float = 0.0
    block: float = 0.0


NOTHING = Apart()


@dataclass(frozen=True)
class PassMemory:
    """What a pass takes, as a line over its tokens for each of its moments: `fixed + per_token * tokens` bytes.

    gradients: bytes that it has made by then of the gradients that are there when it ends. gradient_bytes: all of them;
    largest_gradient: of one weight.
    """

    fixed: Floats
    per_token: Floats
    gradients: Floats
    logits: NDArray[np.int64]
    gradient_bytes: int = 0
    largest_gradient: int = 0

    @classmethod
    def of(cls, short: Trace, long: Trace, weights: Iterable[Tensor]) -> Self:
        """Return the lines through two passes; through one and nothing where both have as many tokens."""
        if len(short.live) != len(long.live):
            count = min(MOST_MOMENTS, len(short.live), len(long.live))
            short, long = short.in_moments(count), long.in_moments(count)
        more = long.tokens - short.tokens
        per_token = (long.live - short.live) / more if more else long.live / max(long.tokens, 1)
        sizes = [int(weight.nbytes) for weight in weights]
        return cls(
            long.live - per_token * long.tokens,
            per_token,
            long.gradients,
            np.maximum(long.logits, short.logits),
            sum(sizes),
            max(sizes, default=0),
        )

    @classmethod
    def of_line(cls, fixed: float, per_token: float, weights: Iterable[Tensor] = ()) -> Self:
        """Return that of a pass of which one moment is known."""
        n_bytes = sum(int(weight.nbytes) for weight in weights)
        return cls(np.array([fixed]), np.array([per_token]), np.zeros(1), np.ones(1, np.int64), n_bytes)

    def peak(self, tokens: int, apart: Apart = NOTHING, is_accumulated: bool = False) -> float:
        """Return the most bytes that a pass holds beside what was there before it.

        is_accumulated: whether it adds its gradients to those of a pass before it, which don't count as there before.
        """
        logits = apart.logits + (self.logits - 1) * apart.part
        live = self.fixed + self.per_token * tokens + np.where(self.logits > 0, logits, apart.block)
        if is_accumulated:  # each is made anew, added, and freed
            live = live - self.gradients + self.gradient_bytes + (self.gradients > 0) * self.largest_gradient
        return float(live.max(initial=0.0))


class LiveMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all tensors that are made while it lasts, as long as each of them lives.

    logits_width: matrices of so many columns are logits; 0 where none are to be left out.
    """

    def __init__(self, logits_width: int = 0) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._logits_width = logits_width
        self._storages: dict[int, tuple[int, int, Any]] = {}  # address -> moment, counted bytes, what tells of its end
        self._live, self._logits = 0, 0
        self._lives: list[int] = []
        self._logits_counts: list[int] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Have torch not import its compiler for this, which takes a second, and more at each operation."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        is_new = not (func.is_view or func._schema.is_mutable)  # else it may be of what was there before
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, Tensor):
                self._add(tensor, is_new)
        self._lives.append(self._live)
        self._logits_counts.append(self._logits)
        return result

    def _add(self, tensor: Tensor, is_new: bool) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._storages:
            return
        is_logits = is_new and tensor.dim() > 1 and tensor.shape[-1] == self._logits_width
        n_bytes = storage.nbytes() if is_new and not is_logits else 0

        def drop(_: Any) -> None:  # another storage may come to lie at its address
            del self._storages[key]
            self._live -= n_bytes
            self._logits -= is_logits

        self._storages[key] = len(self._lives), n_bytes, ref(storage, drop)
        self._live += n_bytes
        self._logits += is_logits

    def trace(self, tokens: int, gradients: Iterable[Tensor]) -> Trace:
        """Return what was counted. gradients: of weights, as the pass has left them."""
        made = np.zeros(len(self._lives))
        for key in {_key(gradient) for gradient in gradients}:
            moment, n_bytes, _ = self._storages[key]
            made[moment] += n_bytes
        return Trace(tokens, np.array(self._lives, float), np.cumsum(made), np.array(self._logits_counts))


def trace_pass(run_pass: Callable[[], int], weights: Iterable[Tensor], logits_width: int = 0) -> Trace:
    """Run a forward and backward pass, which returns its tokens, and return its trace; the gradients are gone afterwards."""
    trained = [weight for weight in weights if weight.requires_grad]
    memory = LiveMemory(logits_width)
    try:
        with memory:
            tokens = run_pass()
        return memory.trace(tokens, (weight.grad for weight in trained if weight.grad is not None))
    finally:
        for weight in trained:
            weight.grad = None


def _key(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
