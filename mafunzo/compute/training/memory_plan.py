"""The memory plan: how a run fits into the memory that is free, at the best speed that does.

What a pass keeps for its backward pass grows with its tokens, and is most of what training takes beside the weights: some
1.2 MB a token for 135M parameters in float32. It is counted in two short passes, operation by operation (live_memory.py), and
in two more whose layers are all recomputed, where memory is short. Beyond a thousand tokens or so a CPU gets no faster; a GPU
needs more to be busy. Four things are chosen, the cheapest first:

    logits at a time       as many as a sixteenth of the budget has room for, of the head's loss (head_loss.py)
    attention weights      kept for the backward pass up to an eighth of the budget, over all layers, else computed again
    recomputed layers      as few as give room for the longest row, and for a pass of 512 tokens
    tokens of a pass       as many as have room then

    the rows of a step       512 300 200 100 480 90        planned: 1,024 tokens a pass
    its forward passes       512 300 200 | 100 480 90      gradients add up, so that the step is the same whatever the plan

The peak is the higher of two moments, each beside the weights and the optimizer's state: within a pass, and when the
optimizer takes its step, with all gradients there. Where a checkpoint is written while training goes on, its copy is there too.

The invariant: the plan decides how rows are grouped, never which rows a step has; loss and gradient stay but for rounding.
The numbers of tokens and of logits are powers of two, so that a little more or less free memory plans the same, to the bit.
Where memory runs out all the same, the plan is tightened (tightening.py).
"""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mafunzo.compute.device.memory import free_bytes, peak_bytes, release, used_bytes
from mafunzo.compute.device.out_of_memory import is_out_of_memory
from mafunzo.compute.training import attention
from mafunzo.compute.training.announcement import rough_costs
from mafunzo.compute.training.batch import Batch, pack
from mafunzo.compute.training.distributed import Replicated
from mafunzo.compute.training.fsdp import local
from mafunzo.compute.training.head_loss import CHUNK, PART, chunk_bytes, limit_chunk
from mafunzo.compute.training.live_memory import NOTHING, Apart, PassMemory, trace_pass
from mafunzo.compute.training.optimizer import hidden_matrices
from mafunzo.compute.training.recomputation import recomputable_layers, recompute_layers, recomputed_layers
from mafunzo.compute.training.run import Run
from mafunzo.compute.training.snapshot import weights_of
from mafunzo.compute.training.tightening import Tightness
from mafunzo.compute.training.timing import evaluated_steps, seconds, work_of
from mafunzo.errors import OutOfMemory

logger = logging.getLogger(__name__)

MOST_TOKENS = {"cpu": 1024, "cuda": 16384}
"""Tokens of a forward pass from which on training gets no faster."""
SHARE = 0.7
"""The share of the free memory that is planned with: others' work and the allocator's gaps need the rest."""
HEADROOM = 1.25
"""What the backward pass takes at its peak, to what the forward pass kept; where the backward pass can't be tried."""
PROBE_TOKENS, FEWEST_PROBE_TOKENS = 32, 16
"""Tokens of the passes that are counted, and how few there may be where memory runs out even in these."""
BLOCK_COPIES = 3
"""How often the attention weights of a block of queries are there while they are computed: scores, softmax, gradient."""
STEP_COPIES = {"adafactor": 3, "muon": 4}
"""Matrices of a weight's size, in its own precision, that an optimizer's step makes for it; others work in place."""
FRAGMENTATION = {"cpu": 1.1, "cuda": 1.25}
"""What an allocator takes for a pass, to what is live in it at most: freed blocks don't fit all that comes."""
USEFUL_TOKENS = 512
"""Tokens of a pass below which a processor's matrix products lose speed: as much as recomputing layers costs."""
ATTENTION_SHARE = 1 / 8
"""The share of the budget that may hold attention weights."""
HEAD_SHARE = 1 / 16
"""The share of the budget that may hold logits."""
Needs = Callable[[int, int], float]
"""The bytes that a run takes at its peak, for the tokens of a pass and how many layers are recomputed."""


@dataclass(frozen=True)
class Costs:
    """What a pass takes: as the run is set, and with all its `layers` recomputed, where that was counted."""

    whole: PassMemory
    recomputed: PassMemory | None = None
    layers: int = 0

    def peak(self, tokens: int, recomputed: int, apart: Apart = NOTHING, is_accumulated: bool = False) -> float:
        """Return the bytes of a pass where the first so many layers are recomputed.

        The peak is where the backward pass begins. Of n recomputed layers it holds the inputs, of the others all, one of
        which it is at: so all layers but one recomputed take as much as all.
        """
        whole = self.whole.peak(tokens, apart, is_accumulated)
        if not recomputed or self.recomputed is None:
            return whole
        least = self.recomputed.peak(tokens, apart, is_accumulated)
        return max(least, whole - (whole - least) * recomputed / max(self.layers - 1, 1))


@dataclass(frozen=True)
class MemoryPlan:
    """forward_tokens: tokens that share a forward pass; a longer row has its own. Bytes: as they were then.

    recomputed_layers: of `layers`, those that run again in the backward pass. attention_bytes: of attention weights, kept over
    all layers at most. head_chunk: of how many positions logits are made at a time, 0 where the network makes all at once;
    head_bytes: what they take. peak_bytes: the most that the process will hold. budget_bytes: what it was told to hold at most,
    as the system has ended an earlier attempt for want of memory; 0 where none was.
    """

    forward_tokens: int
    recomputed_layers: int
    layers: int
    bytes_per_token: int
    attention_bytes: int
    state_bytes: int
    free_bytes: int
    peak_bytes: int
    head_chunk: int = 0
    head_bytes: int = 0
    budget_bytes: int = 0

    def __str__(self) -> str:
        recomputed = (
            f", {self.recomputed_layers} of {self.layers} layers computed again" if self.recomputed_layers else ""
        )
        return (
            f"up to {self.forward_tokens:,} tokens in a forward pass, {self.bytes_per_token / 2**10:,.0f} KiB each"
            f"{recomputed}; "
            f"{self.attention_bytes / 2**30:.1f} GiB for attention weights at most; {self._logits}"
            f"{self.state_bytes / 2**30:.1f} GiB for gradients and the optimizer; a peak of {self.peak_bytes / 2**30:.1f} GiB "
            f"in all; {self.free_bytes / 2**30:.1f} GiB are free{self._budget}"
        )

    @property
    def _budget(self) -> str:
        budget = f"{self.budget_bytes / 2**30:.1f} GiB may be taken"
        return f"; {budget}, as an earlier attempt was ended for want of memory" if self.budget_bytes else ""

    @property
    def tightness(self) -> Tightness:
        """How it has passes made."""
        return Tightness(self.forward_tokens, self.recomputed_layers, self.head_chunk)

    @property
    def _logits(self) -> str:
        return f"logits of {self.head_chunk} positions at a time; " if self.head_chunk else ""


def plan_memory(run: Run) -> MemoryPlan:
    """Make the plan of a run, before its first step, and have its network keep to it.

    Raises `OutOfMemory` where `max_memory_gb` has no room for a row.
    """
    lengths = [sum(len(ids) for ids, _ in run.rows.row(index)) for index in range(len(run.rows))]
    longest, row = max(lengths), lengths.index(max(lengths))
    costs = Costs(_pass_memory(run, row))
    release(run.device)  # else the allocator keeps what the passes took, in pieces that no whole pass has use for
    free, used = free_bytes(run.device) // run.ranks.processes_on(run.device), used_bytes(run.device)
    state, budget = _gradient_bytes(run) + _state_bytes(run), _budget(run, free, used)
    most, step_tokens = MOST_TOKENS.get(run.device.type, 1024), run.order.rows_per_step * longest
    fewest = max(longest, min(USEFUL_TOKENS, step_tokens))
    head_chunk, head_bytes = _bound_head(run, (budget - state) * HEAD_SHARE)
    attention_budget = (budget - state - head_bytes) * ATTENTION_SHARE
    attention_bytes = _bound_attention(run, longest, min(most, step_tokens), attention_budget)
    around = _surroundings(run, longest, attention_bytes, head_chunk)
    is_short = around.needs(costs, longest, step_tokens)(fewest, 0) > budget
    if run.ranks.any(is_short)[0]:
        costs = _with_recomputation(run, row, costs)
        _require_row(run, around, costs, longest, used)
    needs = around.needs(costs, longest, step_tokens)
    tokens, recomputed = fit(needs, costs.layers, budget, fewest, most)
    tokens, recomputed = run.ranks.least(tokens), run.ranks.most(recomputed)
    if recomputed:
        recompute_layers(run.network, recomputed)
    peak = used + needs(max(longest, min(tokens, step_tokens)), recomputed)
    return MemoryPlan(
        tokens,
        recomputed or recomputed_layers(run.network),
        recomputable_layers(run.network),
        round((costs.peak(2 * most, recomputed) - costs.peak(most, recomputed)) / most),
        attention_bytes,
        state,
        free,
        round(max(peak, peak_bytes(run.device))),  # loading may have taken more
        run.ranks.least(head_chunk),
        head_bytes,
        run.request.memory_budget_bytes,
    )


def _budget(run: Run, free: int, used: int) -> int:
    """Return how many bytes the run may take beside what it holds now."""
    budget = free * SHARE
    if limit := run.arguments.max_memory_gb * 1e9:
        budget = min(budget, limit - used)
    if target := run.request.memory_budget_bytes:  # kept to as far as can be: what ended an earlier attempt may be gone
        budget = min(budget, target - used)
    return run.ranks.least(int(budget))  # all plan the same: layers that run again may gather weights together


def fit(needs: Needs, layers: int, budget_bytes: float, fewest: int, most: int) -> tuple[int, int]:
    """Return the tokens of a forward pass and how many of the layers are recomputed: as few as let a pass be useful.

    fewest: tokens of a useful pass: of the longest row at least.
    """
    room = (n for n in range(layers + 1) if needs(fewest, n) <= budget_bytes)
    recomputed = next(room, layers)
    return forward_tokens(lambda tokens: needs(tokens, recomputed), budget_bytes, most), recomputed


def _require_row(run: Run, around: "_Surroundings", costs: Costs, longest: int, used: int) -> None:
    """Raise `OutOfMemory` where `max_memory_gb` has no room for the longest row with all given up that can be."""
    limit = run.arguments.max_memory_gb * 1e9
    if not limit:
        return
    least = replace(around, attention=0, apart=_apart(run, longest, PART if run.packed.head is not None else 0))
    needed = used + least.needs(costs, longest, run.order.rows_per_step * longest)(1, costs.layers)
    if needed > limit:
        raise OutOfMemory(
            f"max_memory_gb is {limit / 1e9:g}, and training needs about {needed / 1e9:.2f} GB, all layers "
            f"computed again: the longest row has {longest:,} tokens. Raise it, lower max_seq_length, or set apply_lora true."
        )


def forward_tokens(needs: Callable[[int], float], budget_bytes: float, most: int) -> int:
    """Return the greatest power of two that the budget has room for, from 1 to `most`."""
    tokens = most
    while tokens > 1 and needs(tokens) > budget_bytes:
        tokens //= 2
    return tokens


def _gradient_bytes(run: Run) -> int:
    return sum(int(weight.nbytes) for weight in _trained(run))


def _state_bytes(run: Run) -> int:
    """Return what the optimizer's state will need beside what a resumed run holds of it already."""
    held: int = sum(
        local(value).nbytes
        for state in run.optimizer.state.values()
        for value in state.values()
        if torch.is_tensor(value)
    )
    return max(0, _optimizer_bytes(run) - held)


def _trained(run: Run) -> list[Tensor]:
    return [local(weight) for weight in run.network.parameters() if weight.requires_grad]


def _optimizer_bytes(run: Run) -> int:
    """Return what the optimizer holds for all weights after its first step."""
    arguments, weights = run.arguments, _trained(run)
    if arguments.optim == "sgd":
        return sum(int(weight.nbytes) for weight in weights) if arguments.momentum else 0
    matrices = hidden_matrices(run.network) if arguments.optim == "muon" else []
    of_adamw = sum(optimizer_bytes(weight, arguments.optim) for weight in weights)
    return of_adamw - sum(int(matrix.nbytes) for matrix in matrices)


def optimizer_bytes(weight: Tensor, name: str) -> int:
    """Return what an optimizer holds for a weight: AdamW two numbers for each, Adafactor one a row and column of a matrix."""
    numbers = int(weight.numel())
    if name != "adafactor":
        return 2 * numbers * weight.element_size()
    if weight.dim() < 2:
        return 4 * numbers
    rows, columns = weight.shape[-2:]
    return 4 * int(numbers // columns + numbers // rows)


def head_positions(budget_bytes: float, vocabulary: int, element_bytes: int) -> int:
    """Return of how many positions logits are made at a time: a power of two that the budget has room for, within bounds."""
    positions = CHUNK
    while positions > PART and chunk_bytes(positions, vocabulary, element_bytes) > budget_bytes:
        positions //= 2
    return positions


def _bound_head(run: Run, budget_bytes: float) -> tuple[int, int]:
    """Have the head make as many logits at a time as the budget has room for; return how many, and their bytes."""
    head, element_bytes = run.packed.head, run.precision.compute.itemsize
    if head is None:
        return 0, 0
    vocabulary = run.size.vocabulary
    positions = head_positions(budget_bytes, vocabulary, element_bytes)
    limit_chunk(run.network, positions)
    return positions, chunk_bytes(positions, vocabulary, element_bytes)


def _bound_attention(run: Run, longest: int, tokens: int, budget_bytes: float) -> int:
    """Have the layers keep no more attention weights than fit the budget together; return the bytes that they may come to."""
    config = run.network.config.get_text_config()
    if run.device.type != "cpu" or not run.packed.packs:
        return 0
    layers = int(config.num_hidden_layers)
    layer_bytes = min(attention.SAVED_BYTES, max(0, int(budget_bytes / layers)))
    attention.limit_saved(run.network, layer_bytes)
    bounds = [*range(0, max(longest, tokens), longest), max(longest, tokens)]
    element_bytes = run.precision.compute.itemsize
    return layers * min(layer_bytes, attention.weights_bytes(int(config.num_attention_heads), bounds, element_bytes))


def _pass_memory(run: Run, row: int) -> PassMemory:
    """Count what a pass over a row takes, as the network is set.

    Attention weights are counted apart, as they grow with the square of a row.
    """
    if run.packed.packs:
        attention.limit_saved(run.network, 0)
    most = PROBE_TOKENS if run.packed.packs else 0
    while True:
        try:
            return _counted(run, row, most)
        except Exception as error:
            if not is_out_of_memory(error) or run.stepper.in_lockstep:  # the others wait for this one within a pass
                raise
            if most <= FEWEST_PROBE_TOKENS:
                raise OutOfMemory(
                    f"Out of memory before the first step, in a pass of {f'{most} tokens' if most else 'one row'}: the "
                    "network itself takes nearly all. End other work, or take a smaller model or a larger machine."
                ) from error
            release(run.device, error)
        most //= 2


def _with_recomputation(run: Run, row: int, costs: Costs) -> Costs:
    """Count passes with all layers recomputed, too, where that can be chosen."""
    layers = recomputable_layers(run.network)
    if not layers or recomputed_layers(run.network):
        return costs
    recompute_layers(run.network, layers)
    recomputed = _pass_memory(run, row)
    recompute_layers(run.network, 0)
    release(run.device)
    return replace(costs, recomputed=recomputed, layers=layers)


def _counted(run: Run, row: int, most: int) -> PassMemory:
    """Count passes over a row. most: of each sequence's tokens, those that are taken, in one pass, and half as many in
    another; 0 takes all, in one."""
    weights = [weight for weight in run.network.parameters() if weight.requires_grad]
    if not isinstance(run.stepper, Replicated):
        return _counted_forward(run, row, most)
    width = run.size.vocabulary if run.packed.head is not None else 0
    long = trace_pass(lambda: _run_pass(run, row, most), weights, width)
    short = trace_pass(lambda: _run_pass(run, row, most // 2), weights, width) if most > 1 else long
    return PassMemory.of(short, long, weights)


def _run_pass(run: Run, row: int, most: int) -> int:
    """Run a forward and backward pass over so many of a row's tokens, and return how many they are."""
    batch = _beginning(run, row, most)
    run.network.train()  # activations are recomputed in training only
    with _random_state_kept(run):
        with run.autocast():
            result = run.loss(batch)
        if result.loss_sum.requires_grad:
            result.loss_sum.backward()  # type: ignore[no-untyped-call]
    return len(batch.ids_T)


def _beginning(run: Run, row: int, most: int) -> Batch:
    """Return a batch of so many tokens of each of a row's sequences, all of them trained; 0 takes all."""
    return pack([tuple((ids[: most or None], ids[: most or None]) for ids, _ in run.rows.row(row))])


def _random_state_kept(run: Run) -> AbstractContextManager[None]:
    own_device = [run.device] if run.device.type == "cuda" else []  # left out, those of other ranks are touched too
    return torch.random.fork_rng(own_device)


def _counted_forward(run: Run, row: int, most: int) -> PassMemory:
    """Count forward passes alone, where a backward pass shares gradients out among processes."""
    tokens, kept = _kept_bytes(run, row, most)
    half_tokens, half_kept = _kept_bytes(run, row, most // 2) if most > 1 else (0, 0)
    per_token = max(0, kept - half_kept) / max(tokens - half_tokens, 1)
    fixed = max(0.0, kept - per_token * tokens)
    weights = [local(weight) for weight in run.network.parameters() if weight.requires_grad]
    return PassMemory.of_line(fixed, per_token * HEADROOM, weights)


def _kept_bytes(run: Run, row: int, most: int) -> tuple[int, int]:
    """Return the tokens of a forward pass over a row, and the bytes that it keeps for its backward pass."""
    batch = _beginning(run, row, most)
    weights = {local(weight).untyped_storage().data_ptr() for weight in run.network.parameters()}
    shared = [weight for weight in run.network.parameters() if hasattr(weight, "ds_tensor")]
    kept: dict[int, torch.UntypedStorage] = {}  # held until all is counted: addresses must not be used twice

    def count(tensor: Tensor) -> None:  # a tensor handed back would hold the pass that made it, for ever
        storage = tensor.untyped_storage()
        is_weight = storage.data_ptr() in weights or any(  # or what ZeRO 3 gathered for the pass
            weight.data_ptr() and weight.untyped_storage().data_ptr() == storage.data_ptr() for weight in shared
        )
        if not is_weight:
            kept[storage.data_ptr()] = storage

    run.network.train()
    hooks = torch.autograd.graph.saved_tensors_hooks(count, lambda _: torch.empty(0))
    with _random_state_kept(run), hooks, run.autocast():
        run.loss(batch)
    return len(batch.ids_T), sum(storage.nbytes() for storage in kept.values())


@dataclass(frozen=True)
class _Surroundings:
    """What is there beside a pass, in bytes.

    optimizer: its state, as far as it isn't there yet. gradients: of all weights. step: what the optimizer makes for a moment.
    copy: of all that a checkpoint holds, if one is written while training goes on. attention: weights that are kept; apart:
    what else no short pass tells.
    """

    optimizer: float
    gradients: float
    step: float
    copy: float
    attention: float
    apart: Apart
    fragmentation: float

    def needs(self, costs: Costs, longest: int, step_tokens: int) -> Needs:
        """Return what the run takes beside what it holds now, by the tokens of a pass and the recomputed layers."""

        def peak(tokens: int, recomputed: int) -> float:
            pass_tokens = max(longest, tokens)
            passing = costs.peak(pass_tokens, recomputed, self.apart, step_tokens > pass_tokens)
            passing = (passing + self.attention) * self.fragmentation
            return self.optimizer + self.copy + max(passing, self.gradients + self.step)

        return peak


def _surroundings(run: Run, longest: int, attention_bytes: float, head_chunk: int) -> _Surroundings:
    trained = _trained(run)
    largest = max(int(weight.nbytes) for weight in trained)
    return _Surroundings(
        optimizer=_state_bytes(run),
        gradients=_gradient_bytes(run),
        step=STEP_COPIES.get(run.arguments.optim, 0) * largest,
        copy=_copy_bytes(run) if is_saved_within(run) else 0,
        attention=attention_bytes,
        apart=_apart(run, longest, head_chunk),
        fragmentation=FRAGMENTATION.get(run.device.type, max(FRAGMENTATION.values())),
    )


def _apart(run: Run, longest: int, head_chunk: int) -> Apart:
    element_bytes = run.precision.compute.itemsize
    vocabulary = run.size.vocabulary if run.packed.head is not None else 0
    block = 0
    if run.device.type == "cpu" and run.packed.packs:
        heads = int(run.network.config.get_text_config().num_attention_heads)
        block = BLOCK_COPIES * heads * min(attention.BLOCK, longest) * longest * element_bytes
    return Apart(head_chunk * vocabulary * element_bytes, PART * vocabulary * 4, block)


def _copy_bytes(run: Run) -> int:
    """Return what a checkpoint's copy takes in the main memory, as large as what it is of."""
    if run.device.type != "cpu" or not isinstance(run.stepper, Replicated):
        return 0
    weights = {
        weight.data_ptr(): int(weight.nbytes) for weight in weights_of(run.network, run.adapter is not None).values()
    }
    return sum(weights.values()) + _optimizer_bytes(run)


def is_saved_within(run: Run) -> bool:
    """Return whether a checkpoint is probably saved before the last step: after an evaluation, or by the clock."""
    total = run.order.total_steps
    if any(step < total for step in evaluated_steps(run)):
        return True
    return total > 1 and seconds(work_of(run), rough_costs(run)) > run.arguments.save_interval_s
