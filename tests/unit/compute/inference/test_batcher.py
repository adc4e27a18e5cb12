"""The batcher's decisions, and what follows from many of them."""

import random
from dataclasses import dataclass, field

import pytest

from mafunzo.compute.inference import batcher
from mafunzo.compute.inference.batcher import (
    Decode,
    Limits,
    Preempt,
    Prefill,
    Rest,
    Sequence,
    State,
    apply,
    decide,
    remove,
    submit,
)

LIMITS = Limits(max_batch=2, prefill_tokens=100, cache_tokens=1000, headroom_tokens=10)


def running(*lengths: int) -> tuple[Sequence, ...]:
    return tuple(Sequence(i, 0, length) for i, length in enumerate(lengths))


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        pytest.param(State(), Rest(), id="nothing to do"),
        pytest.param(State((Sequence(7, 30), Sequence(8, 5))), Prefill(7, 30, True, True), id="first come, first served"),
        pytest.param(State((Sequence(7, 300),)), Prefill(7, 100, True, False), id="a long prompt in chunks"),
        pytest.param(
            State((Sequence(8, 5),), Sequence(7, 200, 100)), Prefill(7, 100, False, False), id="the begun one goes on first"
        ),
        pytest.param(State(running=running(5)), Decode((0,)), id="decode"),
        pytest.param(State((Sequence(7, 30),), running=running(5)), Prefill(7, 30, True, True), id="admit before decoding"),
        pytest.param(
            State((Sequence(7, 30),), running=running(5), prefilled=90),
            Prefill(7, 10, True, False),
            id="only what is left of the turn",
        ),
        pytest.param(
            State((Sequence(7, 30),), running=running(5), prefilled=100), Decode((0,)), id="then it's the others' turn"
        ),
        pytest.param(State((Sequence(7, 30),), running=running(5, 6)), Decode((0, 1)), id="the batch is full"),
        pytest.param(
            State((Sequence(7, 600), Sequence(8, 5)), running=running(5)), Decode((0,)), id="the cache has no room, nor does a short one overtake"
        ),
        pytest.param(State((Sequence(7, 5000),)), Prefill(7, 100, True, False), id="alone it always goes"),
        pytest.param(State(running=running(10, 500)), Preempt(1), id="the newest goes back when the cache is full"),
        pytest.param(State(running=running(2000)), Decode((0,)), id="the last one never goes back"),
        pytest.param(
            State((), Sequence(9, 100, 400), running(500), 100), Preempt(9), id="one that is being prefilled goes back too"
        ),
    ],
)  # fmt: skip
def test_decide(state: State, expected: object) -> None:
    assert decide(state, LIMITS) == expected


def test_a_sequence_that_was_sent_back_waits_in_front_with_all_its_tokens() -> None:
    state = apply(State((Sequence(9, 3),), running=running(10, 500)), Preempt(1))
    assert state.waiting == (Sequence(1, 501), Sequence(9, 3))
    assert state.running == running(10)


@pytest.mark.parametrize("id", [0, 1, 7, 8])
def test_a_cancelled_sequence_is_gone_wherever_it_was(id: int) -> None:
    state = remove(State((Sequence(8, 5),), Sequence(7, 200, 100), running(3, 4)), id)
    ids = [s.id for s in (*state.active, *state.waiting)]
    assert ids == [candidate for candidate in (0, 1, 7, 8) if candidate != id]


@dataclass
class Simulation:
    """Runs a random load until all are done, and checks at every step what must always hold."""

    limits: Limits
    seed: int
    state: State = field(default_factory=State)
    started: list[int] = field(default_factory=list)
    preempted: int = 0

    def run(self) -> None:
        draw = random.Random(self.seed)
        arrivals = {i: (draw.randrange(200), draw.randrange(1, 150), draw.randrange(1, 60)) for i in range(30)}
        tokens_to_go = {i: new for i, (_, _, new) in arrivals.items()}
        cancellations = {i for i in arrivals if draw.random() < 0.1}
        since_decode = 0
        for step in range(100_000):
            for i, (when, prompt, _) in arrivals.items():
                if when == step:
                    self.state = submit(self.state, i, prompt)
            if step > 200 and not self.state.waiting and not self.state.active:
                break
            action = decide(self.state, self.limits)
            had_running = bool(self.state.running)
            self.state = apply(self.state, action)
            match action:
                case Prefill():
                    since_decode += action.count
                    assert not had_running or since_decode <= self.limits.prefill_tokens
                    if action.is_first and action.id not in self.started:
                        self.started.append(action.id)
                    if action.is_last:
                        self._count(action.id, tokens_to_go)
                case Decode():
                    since_decode = 0
                    cache_tokens = len(self.state.active) * max(s.total for s in self.state.active)
                    assert cache_tokens <= self.limits.cache_tokens or len(self.state.active) == 1
                    for id in action.ids:
                        self._count(id, tokens_to_go)
                case Preempt():
                    self.preempted += 1
                case Rest():
                    pass
            assert len(self.state.active) <= self.limits.max_batch
            for i in cancellations & {s.id for s in self.state.running}:
                self.state, tokens_to_go[i] = remove(self.state, i), 0
        assert all(count == 0 for count in tokens_to_go.values()), "someone starved"
        assert self.started == sorted(self.started, key=lambda i: (arrivals[i][0], i))

    def _count(self, id: int, tokens_to_go: dict[int, int]) -> None:
        tokens_to_go[id] -= 1
        if tokens_to_go[id] == 0:
            self.state = remove(self.state, id)


@pytest.mark.parametrize("seed", range(40))
def test_any_load_is_served_in_order_within_the_limits_and_nobody_starves(seed: int) -> None:
    draw = random.Random(-seed - 1)
    Simulation(
        Limits(draw.randrange(1, 9), draw.randrange(1, 120), draw.randrange(250, 1200), draw.randrange(20)), seed
    ).run()


def test_the_simulation_reaches_the_full_cache() -> None:
    simulation = Simulation(Limits(8, 64, 300, 0), 3)
    simulation.run()
    assert simulation.preempted > 0


def test_the_picture_of_the_module_is_what_happens() -> None:
    """A has a short prompt and 3 tokens to write; B a long prompt; C comes third, and two may run at once."""
    limits, names = Limits(max_batch=2, prefill_tokens=512), {1: "A", 2: "B", 3: "C"}
    state = submit(submit(submit(State(), 1, 100), 2, 1000), 3, 50)
    simulation_marks = dict.fromkeys("ABC", "")
    for step in range(1, 10):
        action = decide(state, limits)
        assert isinstance(action, Prefill | Decode)
        busy = {names[id] for id in (action.ids if isinstance(action, Decode) else (action.id,))}
        mark = "D" if isinstance(action, Decode) else "P"
        simulation_marks = {name: marks + (mark if name in busy else " ") for name, marks in simulation_marks.items()}
        state = apply(state, action)
        if step == 7:
            state = remove(state, 1)
    lines = {line[4]: line for line in (batcher.__doc__ or "").splitlines() if line[4:16].strip() in list("ABC")}
    picture_marks = {
        name: "".join(mark if mark in "PD" else " " for mark in lines[name].ljust(43)[16:43:3]) for name in "ABC"
    }
    assert picture_marks == simulation_marks
