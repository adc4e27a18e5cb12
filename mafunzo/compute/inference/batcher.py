"""Continuous batching: which tokens of which sequences the network works on next. A pure plan, `decide`, and the transitions of
its state.

The idea. A forward pass over one token costs nearly as much as one over sixteen: on the way through the network the weights
are read once, for however many tokens. So a step takes one token of every sequence that is writing its reply (*decode*), and a
piece of the prompts that are still to be read (*prefill*), all in one forward. A batch that ran until its longest reply ended
would make the short ones wait, and new ones before the door: here the batch changes between two steps. Whoever has finished
leaves, and the head of the queue comes in (Orca, OSDI 2022; vLLM does the same).

A long prompt is read in chunks: a step reads `prefill_tokens` of prompts at most, so that running streams stall for a bounded
time. A prompt isn't cut only to fill a step: its first token would come later, and nobody's sooner.

    step        1  2  3  4  5  6
    A           P  D  D  D  |          P  prefill: its prompt, or a chunk of it
    B              P  P  D  D  D       D  decode: one token
    C                       P  D       |  has finished, and left its place to C; here two may run at once

The KV cache is a pool of blocks (`block_pool.py`). A sequence has blocks for all of its tokens from its admission on, and gets
one more whenever the last is full:

    tokens  T T T T T T T T T T .      length: how many tokens are known, prompt and reply
    cached  # # # # # # # - -  -      computed: of how many the keys and values are in the blocks
    blocks  [  0  ] [  7  ] [  8  ]

A sequence *decodes* where all tokens but its last are computed. A prompt whose beginning is in the pool, since another one had
the same, shares those blocks, has a copy of the tokens after them (`Prefix`), and is read from there on; its last token is
always computed, for its logits choose the next.

Invariants:
- `running` is in order of admission; at most one sequence is in the middle of its prompt, and it is the newest.
- Blocks that are held never exceed the pool. One sequence of full length must fit.
- Nothing starves. The queue is first come, first served, and nobody overtakes; every step has a token of each that decodes.

When there is no block for the next token, the newest sequence is preempted: it gives its blocks back, waits at the front, and
is prefilled again with what it has generated (recomputed, not swapped: its tokens are known, so its reply doesn't change), but
for the blocks that nobody took meanwhile. The newest, since the least work is lost with it, and the oldest goes on to its end.
"""

from collections import Counter
from collections.abc import Mapping
from collections.abc import Sequence as Tokens
from dataclasses import dataclass, replace

from mafunzo.compute.inference.block_pool import (
    BLOCK_TOKENS,
    KEYS_PER_BLOCK,
    SHARE_TOKENS,
    BlockPool,
    Prefix,
    block_count,
    prefix_keys,
)


@dataclass(frozen=True)
class Limits:
    """max_batch: sequences at once. prefill_tokens: how many prompt tokens a step reads at most, which bounds how long a
    running stream stalls. cache_tokens: what the pool has room for; one sequence of full length must fit. headroom_tokens:
    what each sequence must have left to grow when one is admitted, so that it isn't sent back at once."""

    max_batch: int = 16
    prefill_tokens: int = 512
    cache_tokens: int = 1 << 20
    headroom_tokens: int = 64


@dataclass(frozen=True)
class Sequence:
    """length: tokens that are known. computed: tokens whose keys and values are in `blocks`.

    keys: of its prefixes (`prefix_keys`), as far as they are known. root: what the first of them begins with.
    may_share: whether what is in the pool already needn't be computed; not where the logits of the whole prompt are wanted.
    """

    id: int
    length: int
    computed: int = 0
    blocks: tuple[int, ...] = ()
    keys: tuple[bytes, ...] = ()
    root: bytes = b""
    may_share: bool = True

    @property
    def pending(self) -> int:
        """How many tokens are yet to be run: one where it decodes."""
        return self.length - self.computed


@dataclass(frozen=True)
class State:
    """`running` is in order of admission."""

    waiting: tuple[Sequence, ...] = ()
    running: tuple[Sequence, ...] = ()


@dataclass(frozen=True)
class Part:
    """The next `count` tokens of a sequence."""

    id: int
    count: int


@dataclass(frozen=True)
class Step:
    """What comes next. `preempted` go back to the queue, the newest first; `admitted` leave it, each with `prefixes[id]`."""

    parts: tuple[Part, ...] = ()
    preempted: tuple[int, ...] = ()
    admitted: tuple[int, ...] = ()
    prefixes: Mapping[int, Prefix] | None = None

    def prefix(self, id: int) -> Prefix:
        """Return what needn't be computed of an admitted sequence."""
        return (self.prefixes or {}).get(id, Prefix())


def decide(state: State, pool: BlockPool, limits: Limits) -> Step:
    """Return the next step, without changing anything: the tokens of those that run, then of those that come in."""
    running, preempted, available = _with_room_to_grow(state, pool)
    budget = limits.prefill_tokens
    parts = []
    for sequence in running:
        count = min(sequence.pending, budget) if sequence.pending > 1 else 1
        budget -= count if sequence.pending > 1 else 0
        parts.append(Part(sequence.id, count))
    admitted: list[int] = []
    prefixes = {}
    for head in state.waiting if not preempted else ():
        prefix = pool.match(head.keys[: (head.length - 1) // SHARE_TOKENS]) if head.may_share else Prefix()
        pending = head.length - prefix.tokens
        needed = block_count(head.length) - sum(pool.references(block) > 0 for block in prefix.blocks)
        if not _is_admissible(len(parts), pending, needed, budget, available, limits):
            break  # and nobody else: a short one behind doesn't overtake a long one
        count = min(pending, budget)
        budget, available = budget - count, available - needed
        parts.append(Part(head.id, count))
        admitted.append(head.id)
        prefixes[head.id] = prefix
    return Step(tuple(parts), preempted, tuple(admitted), prefixes)


def submit(state: State, sequence: Sequence) -> State:
    """Put a new sequence at the end of the queue."""
    return replace(state, waiting=(*state.waiting, sequence))


def begin(state: State, pool: BlockPool, step: Step) -> State:
    """Return the state in which the step's sequences have the blocks that it writes to."""
    waiting, running = list(state.waiting), list(state.running)
    for _ in step.preempted:
        victim = running.pop()
        pool.release(victim.blocks)
        waiting.insert(0, replace(victim, computed=0, blocks=()))
    for id in step.admitted:
        sequence = waiting.pop(0)
        prefix = step.prefix(id)
        pool.share(prefix.blocks)
        if prefix.source is not None:
            pool.renew(prefix.source)
        running.append(replace(sequence, computed=prefix.tokens, blocks=prefix.blocks))
    return State(tuple(waiting), tuple(_grown(sequence, pool) for sequence in running))


def copies(state: State, step: Step) -> dict[int, tuple[int, int]]:
    """Return, for the state that `begin` returned, from which block to which is copied for each sequence, by its id.

    They are made all at once, before the step writes anything. A source isn't held meanwhile, so that copying never needs more
    room than computing: where room is short it is taken from the pool in `begin`, perhaps as the target of a copy, even of
    its own. What is in it is still the same then.
    """
    tables = {sequence.id: sequence.blocks for sequence in state.running}
    prefixes = {id: step.prefix(id) for id in step.admitted}
    return {
        id: (prefix.source, tables[id][len(prefix.blocks)])
        for id, prefix in prefixes.items()
        if prefix.source is not None
    }


def finish(state: State, pool: BlockPool, step: Step, token_ids: Mapping[int, Tokens[int]]) -> State:
    """Return the state once the step has run; what has run to its last token gets one more. `token_ids`: of each sequence."""
    counts = {part.id: part.count for part in step.parts}
    running = (
        _advanced(sequence, pool, counts[sequence.id], token_ids[sequence.id]) if sequence.id in counts else sequence
        for sequence in state.running
    )
    return replace(state, running=tuple(running))


def remove(state: State, pool: BlockPool, id: int) -> State:
    """Return the state without a sequence that finished, failed or was cancelled, wherever it was."""
    for sequence in state.running:
        if sequence.id == id:
            pool.release(sequence.blocks)
    return State(
        tuple(sequence for sequence in state.waiting if sequence.id != id),
        tuple(sequence for sequence in state.running if sequence.id != id),
    )


def _with_room_to_grow(state: State, pool: BlockPool) -> tuple[list[Sequence], tuple[int, ...], int]:
    """Return who goes on, who is preempted, and how many blocks are left beside those that the next tokens need."""
    running, preempted = list(state.running), []
    available, dropped = pool.available, Counter[int]()
    needed = sum(_missing(sequence) for sequence in running)
    while needed > available and len(running) > 1:
        victim = running.pop()
        preempted.append(victim.id)
        needed -= _missing(victim)
        dropped.update(victim.blocks)
        available += sum(dropped[block] == pool.references(block) for block in victim.blocks)
    assert needed <= available, "a single sequence always fits"
    return running, tuple(preempted), available - needed


def _is_admissible(running: int, pending: int, needed: int, budget: int, available: int, limits: Limits) -> bool:
    """Return whether one more may run: alone it always goes.

    Beside others it must leave `headroom_tokens` for each to grow: a sequence that is admitted into the last free block would
    be preempted by the next step, prefilled again, and so on.
    """
    if not running:
        return True
    is_cut_to_fill = budget < pending and budget < limits.prefill_tokens
    headroom = block_count(limits.headroom_tokens) * (running + 1)
    return running < limits.max_batch and not is_cut_to_fill and budget > 0 and needed + headroom <= available


def _missing(sequence: Sequence) -> int:
    return block_count(sequence.length) - len(sequence.blocks)


def _grown(sequence: Sequence, pool: BlockPool) -> Sequence:
    """Return a sequence with blocks for all of its tokens."""
    missing = _missing(sequence)
    if not missing:
        return sequence
    more = pool.take(missing, sequence.blocks[-1] if sequence.blocks else None)
    return replace(sequence, blocks=(*sequence.blocks, *more))


def _advanced(sequence: Sequence, pool: BlockPool, count: int, token_ids: Tokens[int]) -> Sequence:
    computed = sequence.computed + count
    full = computed // SHARE_TOKENS
    keys = sequence.keys
    if full > len(keys):
        keys = prefix_keys(sequence.root, token_ids[: full * SHARE_TOKENS], keys)
    # From the beginning of the block on: where the one that had its first tokens is gone, this one has them.
    for index in range(sequence.computed // BLOCK_TOKENS * KEYS_PER_BLOCK, full):
        pool.publish(sequence.blocks[index // KEYS_PER_BLOCK], keys[index])
    # Who has run to the last token chooses another, which is the next to run.
    length = sequence.length + (computed == sequence.length)
    return replace(sequence, computed=computed, length=length, keys=keys)
