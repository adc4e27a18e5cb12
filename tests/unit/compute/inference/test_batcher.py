"""The batcher's decisions, and what follows from many of them."""

import random
from collections import Counter
from dataclasses import dataclass, field

import pytest

from mafunzo.compute.inference import batcher
from mafunzo.compute.inference.batcher import (
    Limits,
    Part,
    Sequence,
    State,
    Step,
    begin,
    copies,
    decide,
    finish,
    remove,
    submit,
)
from mafunzo.compute.inference.block_pool import BLOCK_TOKENS, SHARE_TOKENS, BlockPool, Prefix, block_count, prefix_keys

LIMITS = Limits(max_batch=2, prefill_tokens=100, headroom_tokens=16)


def waiting(*lengths: int) -> tuple[Sequence, ...]:
    return tuple(Sequence(7 + i, length) for i, length in enumerate(lengths))


def situation(
    running: tuple[tuple[int, int], ...], queue: tuple[Sequence, ...] = (), size: int = 100
) -> tuple[State, BlockPool]:
    """Return a state whose running sequences have (computed, pending) tokens, and the pool that their blocks are from."""
    pool = BlockPool(size)
    sequences = tuple(
        Sequence(i, computed + pending, computed, pool.take(block_count(computed + pending - (pending == 1))))
        for i, (computed, pending) in enumerate(running)
    )
    return State(queue, sequences), pool


def parts(*counts: tuple[int, int]) -> tuple[Part, ...]:
    return tuple(Part(*count) for count in counts)


@pytest.mark.parametrize(
    ("running", "queue", "size", "expected", "preempted"),
    [
        pytest.param((), (), 100, (), (), id="nothing to do"),
        pytest.param((), (30, 5), 100, ((7, 30), (8, 5)), (), id="two prompts in one step"),
        pytest.param((), (80, 30), 100, ((7, 80),), (), id="a prompt isn't cut to fill a step"),
        pytest.param((), (300,), 100, ((7, 100),), (), id="a long prompt in chunks"),
        pytest.param(((100, 200),), (5,), 100, ((0, 100),), (), id="the begun one goes on first"),
        pytest.param(((100, 20),), (5,), 100, ((0, 20), (7, 5)), (), id="what it leaves of a step is another's"),
        pytest.param(((5, 1),), (), 100, ((0, 1),), (), id="decode"),
        pytest.param(((5, 1),), (30,), 100, ((0, 1), (7, 30)), (), id="decode and prefill in one step"),
        pytest.param(((5, 1),), (300,), 100, ((0, 1), (7, 100)), (), id="and a chunk"),
        pytest.param(((5, 1), (6, 1)), (30,), 100, ((0, 1), (1, 1)), (), id="the batch is full"),
        pytest.param(((5, 1),), (600, 5), 20, ((0, 1),), (), id="no room, nor does a short one overtake"),
        pytest.param(((5, 1),), (480,), 18, ((0, 1), (7, 100)), (), id="room, and some to grow"),
        pytest.param(((5, 1),), (481,), 18, ((0, 1),), (), id="room, but none to grow"),
        pytest.param((), (576,), 18, ((7, 100),), (), id="alone it always goes"),
        pytest.param(((32, 1), (320, 1)), (5,), 11, ((0, 1),), (1,), id="the newest goes back when no block is left"),
        pytest.param(((32, 1), (320, 1)), (), 13, ((0, 1), (1, 1)), (), id="not while there is one"),
        pytest.param(((32, 1), (100, 120)), (), 8, ((0, 1),), (1,), id="nor one that is being prefilled stays"),
        pytest.param(((352, 1),), (5,), 12, ((0, 1),), (), id="the last one never goes back"),
    ],
)
def test_decide(
    running: tuple[tuple[int, int], ...],
    queue: tuple[int, ...],
    size: int,
    expected: tuple[tuple[int, int], ...],
    preempted: tuple[int, ...],
) -> None:
    state, pool = situation(running, waiting(*queue), size)
    step = decide(state, pool, LIMITS)
    assert (step.parts, step.preempted) == (parts(*expected), preempted)
    assert step.admitted == tuple(part.id for part in step.parts if part.id >= 7)


def test_a_decision_changes_nothing() -> None:
    state, pool = situation(((5, 1),), waiting(30))
    assert decide(state, pool, LIMITS) == decide(state, pool, LIMITS)
    assert (pool.available, state.waiting) == (99, waiting(30))


def test_a_sequence_that_was_sent_back_waits_in_front_with_all_its_tokens() -> None:
    state, pool = situation(((32, 1), (320, 1)), waiting(3), 11)
    state = begin(state, pool, decide(state, pool, LIMITS))
    assert [(sequence.id, sequence.length, sequence.computed) for sequence in state.waiting] == [(1, 321, 0), (7, 3, 0)]
    assert [(sequence.id, len(sequence.blocks)) for sequence in state.running] == [(0, 2)]


def test_several_that_are_sent_back_keep_their_order() -> None:
    state, pool = situation(((128, 1), (32, 1), (32, 1)), (), 6)
    step = decide(state, pool, Limits(3))
    assert step.preempted == (2, 1)
    state = begin(state, pool, step)
    assert [sequence.id for sequence in state.waiting] == [1, 2]


@pytest.mark.parametrize("id", [0, 1, 7, 8])
def test_a_cancelled_sequence_is_gone_wherever_it_was_and_so_are_its_blocks(id: int) -> None:
    state, pool = situation(((3, 1), (100, 100)), waiting(5, 6))
    state = remove(state, pool, id)
    assert [s.id for s in (*state.running, *state.waiting)] == [other for other in (0, 1, 7, 8) if other != id]
    assert pool.size - pool.available == sum(len(sequence.blocks) for sequence in state.running)


def read(tokens: list[int], pool: BlockPool, root: bytes = b"", id: int = 0) -> State:
    """Return the state once a prompt was read."""
    state = submit(State(), Sequence(id, len(tokens), keys=prefix_keys(root, tokens), root=root))
    step = decide(state, pool, Limits())
    return finish(begin(state, pool, step), pool, step, {id: tokens})


def prefix_of(tokens: list[int], pool: BlockPool, root: bytes = b"", may_share: bool = True) -> Prefix:
    """Return what a prompt that comes in needn't compute."""
    state = submit(State(), Sequence(9, len(tokens), keys=prefix_keys(root, tokens), root=root, may_share=may_share))
    step = decide(state, pool, Limits())
    assert step.parts == (Part(9, len(tokens) - step.prefix(9).tokens),)
    return step.prefix(9)


def test_a_prompt_shares_full_blocks_and_copies_what_is_left_but_always_computes_its_last_token() -> None:
    tokens, pool = list(range(80)), BlockPool(20)
    first = read(tokens, pool).running[0].blocks
    for length, expected in {
        80: Prefix(first[:2], first[2], 72),
        72: Prefix(first[:2], None, 64),
        65: Prefix(first[:2], None, 64),
        64: Prefix(first[:1], first[1], 56),
        33: Prefix(first[:1], None, 32),
        32: Prefix((), first[0], 24),
        9: Prefix((), first[0], 8),
        8: Prefix(),
    }.items():
        assert prefix_of(tokens[:length], pool) == expected
        assert prefix_of([*tokens[: length - 1], 99], pool) == expected
    assert prefix_of(tokens, pool, may_share=False) == prefix_of(tokens, pool, b"another adapter or salt") == Prefix()


def test_what_one_computes_others_copy_before_it_has_a_full_block() -> None:
    tokens, pool, limits = list(range(20)), BlockPool(20), Limits()
    state = read(tokens, pool)
    state = submit(state, Sequence(1, 18, keys=prefix_keys(b"", tokens[:18])))
    step = decide(state, pool, limits)
    assert step.parts == (Part(0, 1), Part(1, 2))
    state = begin(state, pool, step)
    assert copies(state, step) == {1: (state.running[0].blocks[0], state.running[1].blocks[0])}
    assert len({block for sequence in state.running for block in sequence.blocks}) == 2


def test_a_prompt_that_is_guessed_is_told_by_eight_tokens_at_once() -> None:
    """Whoever has some of another's tokens right learns so only of whole eights: no token can be tried alone."""
    secret, pool = [random.Random(1).randrange(1000) for _ in range(100)], BlockPool(20)
    read(secret, pool)
    for right in range(100):
        guess = [*secret[:right], *(token + 1 for token in secret[right:])]
        assert prefix_of(guess, pool).tokens == right // SHARE_TOKENS * SHARE_TOKENS
    assert SHARE_TOKENS >= 8


@pytest.mark.parametrize("seed", range(5))
def test_as_much_is_shared_as_any_earlier_one_has_in_common(seed: int) -> None:
    draw, pool, earlier = random.Random(seed), BlockPool(1000), list[list[int]]()
    for id in range(40):
        beginning = draw.choice(earlier)[: draw.randrange(150)] if earlier else []
        tokens = [*beginning, *(draw.randrange(3) for _ in range(draw.randrange(1, 80)))]
        common = max((shared(tokens, one) for one in earlier), default=0)
        assert prefix_of(tokens, pool).tokens == min(common, len(tokens) - 1) // SHARE_TOKENS * SHARE_TOKENS
        state = read(tokens, pool, id=id)
        if draw.random() < 0.5:
            remove(state, pool, id)
        earlier.append(tokens)


def shared(first: list[int], second: list[int]) -> int:
    """Return how many tokens two prompts have in common."""
    pairs = zip(first, second, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))


def test_a_source_that_is_taken_at_once_is_copied_as_it_was() -> None:
    """Where room is short, the block that a prompt goes on like becomes its own."""
    tokens, pool, limits = list(range(80)), BlockPool(10), Limits()
    remove(read(tokens, pool), pool, 0)
    pool.take(7)
    state = submit(State(), Sequence(1, 80, keys=prefix_keys(b"", tokens)))
    step = decide(state, pool, limits)
    state = begin(state, pool, step)
    [(source, target)] = copies(state, step).values()
    assert source == target == state.running[0].blocks[2] and pool.available == 0


@dataclass
class Simulation:
    """Runs a random load until all are done, and checks at every step what must always hold.

    Prompts begin alike, so that they share blocks. What a network would write is simulated: each block has, place by place, the
    tokens that were written there, and every step must find its sequences' own tokens in their blocks.
    """

    limits: Limits
    size: int
    seed: int
    keeps_prefixes: bool = True
    state: State = field(default_factory=State)
    started: list[int] = field(default_factory=list)
    preempted: int = 0
    shared_tokens: int = 0
    copied: int = 0
    copied_from_taken: int = 0
    memory: dict[int, int] = field(default_factory=dict)

    def run(self) -> None:
        draw = random.Random(self.seed)
        pool = BlockPool(self.size, self.keeps_prefixes)
        openings = [[draw.randrange(5) for _ in range(150)] for _ in range(3)]
        arrivals = {i: draw.randrange(120) for i in range(30)}
        tokens = {i: [*draw.choice(openings)[: draw.randrange(1, 130)], i] for i in arrivals}
        to_go = {i: draw.randrange(1, 60) for i in arrivals}
        cancellations = {i for i in arrivals if draw.random() < 0.1}
        for step_number in range(100_000):
            for i, when in arrivals.items():
                if when == step_number:
                    keys = prefix_keys(b"", tokens[i])
                    self.state = submit(self.state, Sequence(i, len(tokens[i]), keys=keys, may_share=i % 7 != 0))
            if step_number > 120 and not self.state.waiting and not self.state.running:
                break
            decoding = [sequence.id for sequence in self.state.running if sequence.pending == 1]
            step = decide(self.state, pool, self.limits)
            sources = [step.prefix(id).source for id in step.admitted]
            idle = {source for source in sources if source is not None and not pool.references(source)}
            self.state = begin(self.state, pool, step)
            self._check(pool, step, decoding)
            self._copy(step, {source for source in idle if pool.references(source)})
            self._write(step, tokens)
            self.state = finish(self.state, pool, step, tokens)
            for part in step.parts:
                sequence = next(one for one in self.state.running if one.id == part.id)
                if sequence.length > len(tokens[part.id]):
                    tokens[part.id].append(draw.randrange(5))
                    to_go[part.id] -= 1
                if to_go[part.id] == 0 or (part.id in cancellations and draw.random() < 0.1):
                    self.state, to_go[part.id] = remove(self.state, pool, part.id), 0
        assert all(count == 0 for count in to_go.values()), "someone starved"
        assert self.started == sorted(self.started, key=lambda i: (arrivals[i], i))
        assert pool.available == pool.size, "a block leaked"
        if not self.keeps_prefixes:
            assert pool.is_empty and self.shared_tokens == self.copied == 0

    def _check(self, pool: BlockPool, step: Step, decoding: list[int]) -> None:
        running, counts = self.state.running, {part.id: part.count for part in step.parts}
        self.preempted += len(step.preempted)
        self.started += [id for id in step.admitted if id not in self.started]
        self.shared_tokens += sum(len(step.prefix(id).blocks) for id in step.admitted) * BLOCK_TOKENS
        assert set(counts) == {sequence.id for sequence in running}, "all that run go on"
        assert set(decoding) - set(step.preempted) <= set(counts)
        assert len(running) <= self.limits.max_batch
        prefilled = sum(counts[s.id] for s in running if s.pending > 1)
        assert prefilled <= self.limits.prefill_tokens
        assert [s.id for s in running if s.pending > counts[s.id]] in ([], [s.id for s in running[-1:]]), (
            "only the newest is cut"
        )
        held = Counter(block for sequence in running for block in sequence.blocks)
        assert all(pool.references(block) == count for block, count in held.items()), "a reference is off"
        assert len(held) + pool.available == self.size, "the pool is all there is"
        for sequence in running:
            assert len(set(sequence.blocks)) == len(sequence.blocks) == block_count(sequence.length)
            first = sequence.computed // BLOCK_TOKENS
            written = sequence.blocks[first : block_count(sequence.computed + counts[sequence.id])]
            assert all(held[block] == 1 for block in written), "a shared block is written to"

    def _copy(self, step: Step, taken: set[int]) -> None:
        """Do what an executor does: all copies at once, before anything is written; `taken`: sources that now are another's."""
        made = copies(self.state, step)
        self.copied += len(made)
        self.copied_from_taken += sum(source in taken for source, _ in made.values())
        targets = {target for _, target in made.values()}
        assert len(targets) == len(made), "two are copied to one block"
        places = [
            (source * BLOCK_TOKENS + i, target * BLOCK_TOKENS + i)
            for source, target in made.values()
            for i in range(BLOCK_TOKENS)
        ]
        self.memory |= {target: self.memory.get(source, -1) for source, target in places}

    def _write(self, step: Step, tokens: dict[int, list[int]]) -> None:
        counts = {part.id: part.count for part in step.parts}
        for sequence in self.state.running:
            places = [block * BLOCK_TOKENS + i for block in sequence.blocks for i in range(BLOCK_TOKENS)]
            end = sequence.computed + counts[sequence.id]
            for place, token in list(zip(places, tokens[sequence.id], strict=False))[sequence.computed : end]:
                self.memory[place] = token
        for sequence in self.state.running:
            places = [block * BLOCK_TOKENS + i for block in sequence.blocks for i in range(BLOCK_TOKENS)]
            end = sequence.computed + counts[sequence.id]
            assert [self.memory[place] for place in places[:end]] == tokens[sequence.id][:end], "another's tokens"


@pytest.mark.parametrize("seed", range(40))
def test_any_load_is_served_in_order_within_the_limits_and_nobody_starves(seed: int) -> None:
    draw = random.Random(-seed - 1)
    limits = Limits(draw.randrange(1, 9), draw.randrange(1, 120), headroom_tokens=draw.randrange(40))
    Simulation(limits, draw.randrange(13, 70), seed, keeps_prefixes=seed % 5 > 0).run()


def test_the_simulation_reaches_the_full_cache_and_shares_prefixes() -> None:
    simulation = Simulation(Limits(8, 64, headroom_tokens=0), 16, 3)
    simulation.run()
    assert simulation.preempted > 0 and simulation.shared_tokens > 0
    assert simulation.copied > simulation.copied_from_taken > 0


def test_the_picture_of_the_module_is_what_happens() -> None:
    """A has a short prompt and 4 tokens to write; B a long prompt and 4 too; C comes third, and two may run at once."""
    limits, pool = Limits(max_batch=2, prefill_tokens=512), BlockPool(400)
    names, to_go = {1: "A", 2: "B", 3: "C"}, {1: 4, 2: 4, 3: 4}
    state = submit(submit(State(), Sequence(1, 100)), Sequence(2, 1000))
    state = submit(state, Sequence(3, 50))
    marks = dict.fromkeys("ABC", "")
    for _ in range(6):
        step = decide(state, pool, limits)
        pending = {sequence.id: sequence.pending for sequence in (*state.running, *state.waiting)}
        busy = {names[part.id]: "D" if pending[part.id] == 1 else "P" for part in step.parts}
        marks = {name: text + busy.get(name, " ") for name, text in marks.items()}
        state = finish(begin(state, pool, step), pool, step, dict.fromkeys(names, [0] * 1100))
        for sequence in state.running:
            to_go[sequence.id] -= sequence.pending == 1
            if not to_go[sequence.id]:
                state = remove(state, pool, sequence.id)
    lines = {line[4]: line for line in (batcher.__doc__ or "").splitlines() if line[4:16].strip() in list("ABC")}
    picture = {name: "".join(c if c in "PD" else " " for c in lines[name].ljust(34)[16:34:3]) for name in "ABC"}
    assert picture == marks
