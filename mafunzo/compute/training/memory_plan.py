"""The memory plan: how a run fits into the memory that is free, at the best speed that does.

What a pass keeps for its backward pass grows with its tokens, and is nearly all that training takes beside the weights: some
1.2 MB a token for 135M parameters in float32. It is counted in two short passes, and in one whose layers are recomputed. Beyond
a thousand tokens or so a CPU gets no faster; a GPU needs more to be busy. Four things are chosen, the cheapest first:

    logits at a time       as many as a sixteenth of the budget has room for, of the head's loss (head_loss.py)
    attention weights      kept for the backward pass up to an eighth of the budget, over all layers, else computed again
    recomputed layers      as few as give room for the longest row, and for a pass of 512 tokens
    tokens of a pass       as many as have room then

    the rows of a step       512 300 200 100 480 90        planned: 1,024 tokens a pass
    its forward passes       512 300 200 | 100 480 90      gradients add up, so that the step is the same whatever the plan

The invariant: the plan decides how rows are grouped, never which rows a step has; loss and gradient stay but for rounding.
The numbers of tokens and of logits are powers of two, so that a little more or less free memory plans the same, to the bit.
Where memory runs out all the same, the plan is tightened (tightening.py).
"""

import logging
from dataclasses import dataclass

import torch
from torch import Tensor

from mafunzo.compute.device.memory import free_bytes, release, used_bytes
from mafunzo.compute.device.out_of_memory import is_out_of_memory
from mafunzo.compute.training import attention
from mafunzo.compute.training.batch import pack
from mafunzo.compute.training.fsdp import local
from mafunzo.compute.training.head_loss import CHUNK, PART, chunk_bytes, limit_chunk
from mafunzo.compute.training.recomputation import recomputable_layers, recompute_layers, recomputed_layers
from mafunzo.compute.training.run import Run
from mafunzo.compute.training.tightening import Tightness
from mafunzo.errors import OutOfMemory

logger = logging.getLogger(__name__)

MOST_TOKENS = {"cpu": 1024, "cuda": 16384}
"""Tokens of a forward pass from which on training gets no faster."""
SHARE = 0.7
"""The share of the free memory that is planned with: others' work and the allocator's gaps need the rest."""
HEADROOM = 1.25
"""What the backward pass takes at its peak, to what the forward pass kept."""


PROBE_TOKENS, FEWEST_PROBE_TOKENS = 256, 16
"""Tokens of the passes that are counted, and how few there may be where memory runs out even in these."""
USEFUL_TOKENS = 512
"""Tokens of a pass below which a processor's matrix products lose speed: as much as recomputing layers costs."""
ATTENTION_SHARE = 1 / 8
"""The share of the budget that may hold attention weights."""
HEAD_SHARE = 1 / 16
"""The share of the budget that may hold logits."""


@dataclass(frozen=True)
class Costs:
    """What a pass keeps. per_token: bytes a token if nothing is recomputed. per_layer: of them, those that recomputing one of
    the `layers` saves. fixed: bytes that a pass of any length keeps, such as weights in another precision."""

    per_token: float
    per_layer: float
    layers: int
    fixed: float = 0.0

    def kept(self, recomputed: int) -> float:
        """Return the bytes a token where so many layers are recomputed, of which one is whole at a time."""
        return self.per_token - self.per_layer * max(0, recomputed - 1)


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
    longest = max(lengths)
    free, state, used = free_bytes(run.device), _state_bytes(run), used_bytes(run.device)  # before a pass is counted
    free //= run.ranks.processes_on(run.device)
    costs = _costs(run, lengths.index(longest))
    release(
        run.device
    )  # the allocator would keep what the counted passes took, in pieces that a whole pass has no use for
    held, limit = used + state, run.arguments.max_memory_gb * 1e9
    budget = free * SHARE - state
    if limit:
        _require_row(longest, held + _least_bytes(run, costs, longest), limit)
        budget = min(budget, limit - held)
    if target := run.request.memory_budget_bytes:  # kept to as far as can be: what ended an earlier attempt may be gone
        budget = min(budget, target - held)
    budget = run.ranks.least(
        int(budget)
    )  # all processes plan the same: layers that run again may gather weights together
    head_chunk, head_bytes = _bound_head(run, budget * HEAD_SHARE)
    budget -= head_bytes + round(costs.fixed)
    most = MOST_TOKENS.get(run.device.type, 1024)
    step_tokens = run.order.rows_per_step * longest
    attention_bytes = _bound_attention(run, longest, min(most, step_tokens), budget * ATTENTION_SHARE)
    tokens, recomputed = fit(costs, budget - attention_bytes, longest, min(step_tokens, most), most)
    tokens, recomputed, head_chunk = (
        run.ranks.least(tokens),
        run.ranks.most(recomputed),
        run.ranks.least(head_chunk),
    )
    if recomputed:
        recompute_layers(run.network, recomputed)
    kept = costs.kept(recomputed)
    pass_bytes = kept * max(longest, min(tokens, step_tokens)) * HEADROOM
    peak = held + attention_bytes + head_bytes + costs.fixed + pass_bytes
    return MemoryPlan(
        tokens,
        recomputed or recomputed_layers(run.network),
        recomputable_layers(run.network),
        round(kept),
        attention_bytes,
        state,
        free,
        round(peak),
        head_chunk,
        head_bytes,
        run.request.memory_budget_bytes,
    )


def fit(costs: Costs, budget_bytes: float, longest: int, step_tokens: int, most: int) -> tuple[int, int]:
    """Return the tokens of a forward pass and how many layers are recomputed: as few as let a pass be useful.

    longest: tokens of the longest row, which has a pass at least. step_tokens: of an optimizer step, beyond which none goes.
    """
    needed = max(longest, min(USEFUL_TOKENS, step_tokens))
    room = (n for n in range(costs.layers + 1) if needed * costs.kept(n) * HEADROOM <= budget_bytes)
    recomputed = next(room, costs.layers)
    return forward_tokens(budget_bytes, costs.kept(recomputed) * HEADROOM, most), recomputed


def _require_row(tokens: int, needed_bytes: float, limit_bytes: float) -> None:
    if needed_bytes > limit_bytes:
        raise OutOfMemory(
            f"max_memory_gb is {limit_bytes / 1e9:g}, and training needs about {needed_bytes / 1e9:.2f} GB, all layers "
            f"computed again: the longest row has {tokens:,} tokens. Raise it, lower max_seq_length, or set apply_lora true."
        )


def forward_tokens(budget_bytes: float, bytes_per_token: float, most: int) -> int:
    """Return the greatest power of two that the budget has room for, from 1 to `most`."""
    tokens = most
    while tokens > 1 and tokens * bytes_per_token > budget_bytes:
        tokens //= 2
    return tokens


def _state_bytes(run: Run) -> int:
    """Return what gradients and the optimizer's state will need beside what a resumed run holds of it already."""
    weights = [local(weight) for weight in run.network.parameters() if weight.requires_grad]
    gradients = sum(int(weight.nbytes) for weight in weights)
    held: int = sum(
        local(value).nbytes
        for state in run.optimizer.state.values()
        for value in state.values()
        if torch.is_tensor(value)
    )
    return gradients + max(0, sum(optimizer_bytes(weight, run.arguments.optim) for weight in weights) - held)


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
    vocabulary = int(head.weight_VH.shape[0])
    positions = head_positions(budget_bytes, vocabulary, element_bytes)
    limit_chunk(run.network, positions)
    return positions, chunk_bytes(positions, vocabulary, element_bytes)


def _least_bytes(run: Run, costs: Costs, tokens: int) -> float:
    """Return what a row takes with all layers computed again, and the fewest logits at a time."""
    return tokens * costs.kept(costs.layers) * HEADROOM + costs.fixed + _bound_head(run, 0)[1]


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


def _costs(run: Run, row: int) -> Costs:
    """Count what a pass over a row keeps, as the run is set and with all layers recomputed."""
    if run.packed.packs:
        attention.limit_saved(run.network, 0)  # they are counted apart, as they grow with the square of a row
    tokens, kept = _most_counted(run, row)
    per_token, fixed = kept / max(tokens, 1), 0.0
    if run.packed.packs and tokens > 1:  # what half of them keep says what any number does
        half_tokens, half_kept = _kept_bytes(run, row, tokens // (2 * len(run.rows.sequences)) or 1)
        if half_tokens < tokens:
            per_token = max(0.0, kept - half_kept) / (tokens - half_tokens)
            fixed = max(0.0, kept - per_token * tokens)
    layers = recomputable_layers(run.network)
    if not layers or recomputed_layers(run.network):
        return Costs(per_token, 0.0, 0, fixed)
    recompute_layers(run.network, layers)
    tokens, kept = _most_counted(run, row)
    recompute_layers(run.network, 0)
    least = (kept - fixed) / max(tokens, 1)
    return Costs(per_token, min(per_token, max(0.0, per_token - least)) / layers, layers, fixed)


def _most_counted(run: Run, row: int) -> tuple[int, int]:
    """Return what a pass keeps (`_kept_bytes`), of as many tokens as there is room for; raises `OutOfMemory` for none."""
    most = PROBE_TOKENS if run.packed.packs else 0
    while True:
        try:
            return _kept_bytes(run, row, most)
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


def _kept_bytes(run: Run, row: int, most: int) -> tuple[int, int]:
    """Return the tokens of a forward pass over a row, and the bytes that it keeps for its backward pass.

    most: of each sequence's tokens, those that are taken; 0 takes all.
    """
    batch = pack([tuple((ids[: most or None], ids[: most or None]) for ids, _ in run.rows.row(row))])
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

    run.network.train()  # activations are recomputed in training only
    hooks = torch.autograd.graph.saved_tensors_hooks(count, lambda _: torch.empty(0))
    own_device = (
        [run.device] if run.device.type == "cuda" else []
    )  # left out, all GPUs are touched, those of other ranks too
    with torch.random.fork_rng(own_device), hooks, run.autocast():
        run.loss(batch)
    return len(batch.ids_T), sum(storage.nbytes() for storage in kept.values())
