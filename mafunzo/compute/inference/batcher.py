"""Continuous batching: which sequences the network works on next. A pure plan, `decide`, and the transitions of its state.

The idea. A forward pass over one row costs nearly as much as one over sixteen: on the way through the network the weights are
read once, for however many rows. So all sequences decode together, one token each a step. A batch that ran until its longest
reply ended would make the short ones wait, and new ones before the door: here the batch changes between two steps. Whoever
has finished leaves its row, and the head of the queue takes one (Orca, OSDI 2022; vLLM does the same).

Two kinds of work alternate:
- *prefill* reads a prompt: many tokens of one sequence in one forward, which fills its row of the KV cache. It is bound by
  arithmetic. A long prompt is read in chunks, and between two decode steps only `prefill_tokens` of prompts pass, so that
  running streams stall for a bounded time.
- *decode* writes one token of every running sequence, reading the keys and values of all before it. It is bound by memory.

    step        1  2  3  4  5  6  7  8  9
    A           P  .  D  .  D  .  D  |          P  prefill: a chunk of its prompt
    B              P  .  P  .  P  D  .  D       D  decode: one token
    C                 q  q  q  q  q  P  D       .  has a row, and waits for this step
                                                q  in the queue; here two may run at once
                                                |  has finished, and left its row to C

The KV cache is one tensor a layer, whose rows are all as long as the longest (`kv_cache.py`), so memory is rows x longest row:

    row 0  [#################-------]       # cached   - padding that a short row costs beside a long one
    row 1  [########################]       the whole rectangle must stay within `cache_tokens`
    row 2  [#####-------------------]

Invariants:
- One sequence at most is prefilled at a time, and it is the last row; `running` is in order of admission.
- The rectangle fits into `cache_tokens` after each action, unless a single sequence is all there is: one of full length
  must fit.
- Nothing starves. The queue is first come, first served, and nobody overtakes; a prompt that has its row waits for one decode
  step at most, a decode step for `prefill_tokens` at most.

When decoding would outgrow the cache, the newest sequence is preempted: it gives its row back, waits at the front, and is
prefilled again with what it has generated (recomputed, not swapped: its tokens are known, so its reply doesn't change). The
newest, because the least work is lost with it, and the oldest goes on to its end.
"""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Limits:
    """max_batch: sequences at once. prefill_tokens: how many prompt tokens may pass between two decode steps, which bounds
    how long a running stream stalls. cache_tokens: rows x longest row; at least one sequence of full length must fit.
    headroom_tokens: what a row must have left to grow when it is admitted, so that it isn't sent back at once."""

    max_batch: int = 16
    prefill_tokens: int = 512
    cache_tokens: int = 1 << 20
    headroom_tokens: int = 64


@dataclass(frozen=True)
class Sequence:
    """cached: tokens whose keys and values are in the cache. pending: tokens yet to be prefilled."""

    id: int
    pending: int
    cached: int = 0

    @property
    def total(self) -> int:
        return self.cached + self.pending


@dataclass(frozen=True)
class State:
    """`running` is in order of admission. `prefilled` counts the prompt tokens since the last decode step."""

    waiting: tuple[Sequence, ...] = ()
    prefilling: Sequence | None = None
    running: tuple[Sequence, ...] = ()
    prefilled: int = 0

    @property
    def active(self) -> tuple[Sequence, ...]:
        """The sequences that hold a row."""
        return self.running if self.prefilling is None else (*self.running, self.prefilling)


@dataclass(frozen=True)
class Prefill:
    """Run the next `count` tokens of a sequence; `is_first` when it takes its row, `is_last` when it then decodes."""

    id: int
    count: int
    is_first: bool
    is_last: bool


@dataclass(frozen=True)
class Decode:
    """Run one token of each."""

    ids: tuple[int, ...]


@dataclass(frozen=True)
class Preempt:
    """Take a sequence's row back; it waits again."""

    id: int


@dataclass(frozen=True)
class Rest:
    """There is nothing to do."""


Action = Prefill | Decode | Preempt | Rest


def decide(state: State, limits: Limits) -> Action:
    """Return the next action. Prompts and decode steps take turns, so that neither starves the other."""
    # Prompts first, as long as what may pass between two decode steps isn't used up; decoding resets the count.
    if not state.running or state.prefilled < limits.prefill_tokens:
        candidate = state.prefilling or _next_admitted(state, limits)
        if candidate is not None:
            count = min(candidate.pending, limits.prefill_tokens)
            if state.running:
                count = min(count, limits.prefill_tokens - state.prefilled)
            return Prefill(candidate.id, count, candidate is not state.prefilling, count == candidate.pending)
    if not state.running:
        return Rest()
    # Each row grows by a token, so the rectangle grows by a column: make room for it before, not after.
    if _padded(state.active, growth=1) > limits.cache_tokens and len(state.active) > 1:
        return Preempt(state.active[-1].id)
    return Decode(tuple(sequence.id for sequence in state.running))


def submit(state: State, id: int, prompt_tokens: int) -> State:
    """Put a new sequence at the end of the queue."""
    return replace(state, waiting=(*state.waiting, Sequence(id, prompt_tokens)))


def apply(state: State, action: Action) -> State:
    """Return the state once `action` is done."""
    match action:
        case Prefill():
            sequence = state.prefilling or state.waiting[0]
            sequence = Sequence(sequence.id, sequence.pending - action.count, sequence.cached + action.count)
            waiting = state.waiting[1:] if action.is_first else state.waiting
            prefilled = state.prefilled + action.count
            if action.is_last:
                return State(waiting, None, (*state.running, sequence), prefilled)
            return State(waiting, sequence, state.running, prefilled)
        case Decode():
            running = tuple(replace(sequence, cached=sequence.cached + 1) for sequence in state.running)
            return replace(state, running=running, prefilled=0)
        case Preempt():
            sequence = state.active[-1]
            # One more than is cached: the token that was chosen last hasn't been run yet.
            restart = Sequence(sequence.id, sequence.total + (sequence is not state.prefilling))
            return replace(remove(state, sequence.id), waiting=(restart, *state.waiting))
        case Rest():
            return state


def remove(state: State, id: int) -> State:
    """Return the state without a sequence that finished, failed or was cancelled, wherever it was."""
    return State(
        tuple(sequence for sequence in state.waiting if sequence.id != id),
        None if state.prefilling is not None and state.prefilling.id == id else state.prefilling,
        tuple(sequence for sequence in state.running if sequence.id != id),
        state.prefilled,
    )


def _next_admitted(state: State, limits: Limits) -> Sequence | None:
    """Return the head of the queue if it fits, and nobody else: a short one behind doesn't overtake a long one.

    It must fit with `headroom_tokens` for every row to grow: a sequence that is admitted into the last free token would be
    preempted by the next decode step, prefilled again, and so on.
    """
    if not state.waiting or len(state.running) >= limits.max_batch:
        return None
    head = state.waiting[0]
    if state.running and _padded((*state.running, head), limits.headroom_tokens) > limits.cache_tokens:
        return None
    return head


def _padded(sequences: tuple[Sequence, ...], growth: int) -> int:
    return len(sequences) * (max(sequence.total for sequence in sequences) + growth)
