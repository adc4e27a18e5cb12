"""What to do about each deployment, as tables: no process, clock or store."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mafunzo.control.serving.decide import (
    DRAIN_S,
    HUNG_PROBES,
    STABLE_S,
    UNHEALTHY_PROBES,
    Action,
    Add,
    Drop,
    EndRollout,
    Fail,
    Health,
    MarkHealthy,
    MarkUnhealthy,
    Refuse,
    Remove,
    Restart,
    Retire,
    Start,
    Stop,
    TakeBack,
    Verdict,
    Verify,
    Wake,
    WorkerState,
    decide,
    expired,
    rescale,
)
from mafunzo.control.serving.scale import present
from mafunzo.control.store.codec import decode, encode
from mafunzo.entities.backoff import MAX_DELAY_S
from mafunzo.entities.endpoint import Deployment, DeploymentStatus, Rollout, ServedModel, Supervision

NOW = 1000.0
MOMENT = datetime(2026, 1, 2, tzinfo=UTC)
RUNS = WorkerState(is_running=True, port=4000, health=Health.READY)
ENDED = WorkerState(ended="killed by signal 9")


def deployment(status: DeploymentStatus, **remembered: Any) -> Deployment:
    made = Deployment("chat", "blue", "m:1", "sha256:0", status=status, initial_delay_s=60)
    return replace(made, supervision=Supervision(**remembered))


@pytest.mark.parametrize(
    ("status", "worker", "remembered", "expected"),
    [
        pytest.param("waiting", WorkerState(), {}, Start, id="new, so start"),
        pytest.param("waiting", WorkerState(), {"retry_at": NOW + 1}, None, id="too early to start again"),
        pytest.param("waiting", WorkerState(), {"retry_at": NOW}, Start, id="time to start again"),
        pytest.param("waiting", WorkerState(), {"retry_at": NOW + 3600}, Start, id="of another start of the machine"),
        pytest.param("starting", WorkerState(is_running=True), {"started_at": NOW}, None, id="no port yet"),
        pytest.param(
            "starting", replace(RUNS, health=Health.LOADING), {"started_at": NOW}, None, id="loading, so wait"
        ),
        pytest.param("starting", RUNS, {"started_at": NOW}, Verify, id="loaded, so verify"),
        pytest.param(
            "starting", replace(RUNS, health=Health.LOADING), {"started_at": NOW - 61}, Fail, id="loading for too long"
        ),
        pytest.param("verifying", replace(RUNS, is_verifying=True), {"started_at": NOW}, None, id="comparing, so wait"),
        pytest.param(
            "verifying", replace(RUNS, is_verifying=True), {"started_at": NOW - 61}, Fail, id="comparing too long"
        ),
        pytest.param("verifying", RUNS, {"started_at": NOW}, Verify, id="a new server verifies anew"),
        pytest.param(
            "verifying", replace(RUNS, verdict=Verdict()), {"started_at": NOW}, MarkHealthy, id="equal, so live"
        ),
        pytest.param("verifying", replace(RUNS, verdict=Verdict(("BOS",))), {"started_at": NOW}, Refuse, id="differs"),
        pytest.param(
            "verifying",
            replace(RUNS, verdict=Verdict(broke="reset")),
            {"started_at": NOW},
            Verify,
            id="broke, so again",
        ),
        pytest.param("starting", ENDED, {}, Restart, id="ended while starting"),
        pytest.param("starting", ENDED, {"crashes": 2}, Fail, id="ended at each of three first starts"),
        pytest.param(
            "starting", ENDED, {"crashes": 9, "was_healthy": True}, Restart, id="was healthy once: never given up"
        ),
        pytest.param("starting", replace(ENDED, is_final=True), {}, Fail, id="refused its model: not tried again"),
        pytest.param("healthy", RUNS, {}, None, id="all is well"),
        pytest.param("healthy", ENDED, {"was_healthy": True}, Restart, id="crashed while live"),
        pytest.param("healthy", replace(RUNS, failed_probes=UNHEALTHY_PROBES), {}, MarkUnhealthy, id="doesn't answer"),
        pytest.param("unhealthy", RUNS, {}, MarkHealthy, id="answers again"),
        pytest.param("unhealthy", replace(RUNS, health=Health.UNKNOWN, failed_probes=5), {}, None, id="still silent"),
        pytest.param(
            "unhealthy", replace(RUNS, health=Health.UNKNOWN, failed_probes=HUNG_PROBES), {}, Restart, id="hangs"
        ),
        pytest.param("refused", RUNS, {}, Stop, id="refused but runs"),
        pytest.param("refused", ENDED, {}, None, id="refused and gone"),
        pytest.param("failed", RUNS, {}, Stop, id="failed but runs"),
        pytest.param("idle", RUNS, {}, Stop, id="idle but runs"),
        pytest.param("idle", WorkerState(), {}, None, id="idle"),
        pytest.param("draining", replace(RUNS, requests=1), {"leaves_at": NOW + 1}, None, id="still answers"),
        pytest.param("draining", replace(RUNS, requests=1), {"leaves_at": NOW}, Stop, id="answers for too long"),
        pytest.param(
            "draining", replace(RUNS, requests=1), {"leaves_at": NOW + 9999}, Stop, id="of another start of the machine"
        ),
        pytest.param("draining", RUNS, {"leaves_at": NOW + 1}, Stop, id="has answered all"),
        pytest.param("draining", ENDED, {}, Drop, id="drained and gone"),
        pytest.param("deleting", replace(RUNS, requests=1), {"leaves_at": NOW + 1}, None, id="deleted but answers"),
        pytest.param("deleting", RUNS, {}, Stop, id="deleted but runs"),
        pytest.param("deleting", ENDED, {}, Remove, id="deleted and gone"),
    ],
)
def test_a_deployment_gets_the_action_that_its_state_asks_for(
    status: str, worker: WorkerState, remembered: dict[str, Any], expected: type | None
) -> None:
    found = deployment(DeploymentStatus(status), **remembered)
    actions = decide([found], {("chat", "blue"): worker}, NOW)
    assert [type(action) for action in actions] == ([] if expected is None else [expected])


@pytest.mark.parametrize(
    ("worker", "told"),
    [
        pytest.param(replace(RUNS, health=Health.LOADING), "60 s: it was still loading its model.", id="loading"),
        pytest.param(
            replace(RUNS, is_verifying=True), "60 s: the proof that it answers as in evaluation hadn't", id="proof"
        ),
        pytest.param(replace(RUNS, verdict=Verdict(broke="reset")), "in evaluation broke: reset.", id="broke"),
    ],
)
def test_a_deployment_that_took_too_long_says_what_was_waited_for(worker: WorkerState, told: str) -> None:
    found = deployment(DeploymentStatus.STARTING, started_at=NOW - 61)
    [action] = decide([found], {("chat", "blue"): worker}, NOW)
    assert isinstance(action, Fail)
    assert told in action.reason


def test_the_delay_before_a_restart_doubles_up_to_a_minute() -> None:
    delays = []
    for crashes in range(9):
        [action] = decide(
            [deployment(DeploymentStatus.HEALTHY, crashes=crashes, was_healthy=True)], {("chat", "blue"): ENDED}, NOW
        )
        assert isinstance(action, Restart)
        delays.append(action.retry_at - NOW)
    assert delays == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert max(delays) == MAX_DELAY_S


def test_a_worker_that_was_healthy_for_long_has_its_crashes_forgotten() -> None:
    found = deployment(DeploymentStatus.HEALTHY, crashes=5, was_healthy=True, healthy_at=NOW - STABLE_S - 1)
    [action] = decide([found], {("chat", "blue"): ENDED}, NOW)
    assert isinstance(action, Restart)
    assert (action.crashes, action.retry_at) == (1, NOW + 1)


def test_a_restart_that_never_became_healthy_keeps_growing_its_delay() -> None:
    found = deployment(DeploymentStatus.STARTING, crashes=5, was_healthy=True, healthy_at=0.0)
    [action] = decide([found], {("chat", "blue"): ENDED}, NOW)
    assert isinstance(action, Restart)
    assert action.crashes == 6


def test_an_end_is_told_in_words() -> None:
    [action] = decide([deployment(DeploymentStatus.STARTING, crashes=2)], {("chat", "blue"): ENDED}, NOW)
    assert isinstance(action, Fail)
    assert action.reason == "The worker ended 3 times before it was healthy, at last so: killed by signal 9."


def test_what_is_remembered_survives_its_record() -> None:
    waiting = deployment(DeploymentStatus.WAITING, started_at=1.5, crashes=2, reason="waits")
    assert decode(Deployment, encode(waiting)) == waiting


HEALTHY, WAITING, IDLE = DeploymentStatus.HEALTHY, DeploymentStatus.WAITING, DeploymentStatus.IDLE
DRAINING, FAILED = DeploymentStatus.DRAINING, DeploymentStatus.FAILED


def with_workers(*statuses: DeploymentStatus, was_healthy: bool = True) -> Deployment:
    """A deployment whose workers 0, 1, ... have these statuses."""
    made = deployment(statuses[0], was_healthy=was_healthy)
    for number, status in enumerate(statuses[1:], 1):
        made = made.with_worker(replace(made.workers[0], number=number, status=status, attempt=0))
    return made


def test_each_worker_gets_the_action_that_its_own_state_asks_for() -> None:
    three = with_workers(HEALTHY, HEALTHY, WAITING)
    states = {("chat", "blue"): ENDED, ("chat", "blue#2"): RUNS}
    actions = {action.deployment.worker: type(action) for action in decide([three], states, NOW)}
    assert actions == {"blue": Restart, "blue#3": Start}


@pytest.mark.parametrize(
    ("statuses", "instances", "expected"),
    [
        pytest.param((HEALTHY,), 1, None, id="as many as there are to be"),
        pytest.param((HEALTHY,), 3, Add, id="fewer"),
        pytest.param((HEALTHY, WAITING), 2, None, id="one is on its way"),
        pytest.param((HEALTHY, HEALTHY), 1, Retire, id="more"),
        pytest.param((HEALTHY,), 0, Retire, id="none is needed"),
        pytest.param((IDLE,), 0, None, id="idle"),
        pytest.param((IDLE,), 2, Wake, id="idle and needed"),
        pytest.param((DRAINING,), 1, Add, id="needed while the last one ends"),
        pytest.param((DRAINING, HEALTHY), 1, None, id="one ends already"),
        pytest.param((FAILED,), 2, None, id="failed"),
        pytest.param((DeploymentStatus.DELETING,), 2, None, id="being deleted"),
    ],
)
def test_workers_come_and_go_one_by_one(
    statuses: tuple[DeploymentStatus, ...], instances: int, expected: type | None
) -> None:
    action = rescale(with_workers(*statuses), instances, NOW)
    assert (None if action is None else type(action)) is expected


def test_a_second_worker_waits_until_the_first_has_proven_the_model() -> None:
    assert rescale(with_workers(WAITING, was_healthy=False), 3, NOW) is None


def test_the_worker_that_goes_is_one_that_does_not_answer_yet() -> None:
    action = rescale(with_workers(WAITING, HEALTHY, HEALTHY), 2, NOW)
    assert isinstance(action, Retire)
    assert (action.deployment.worker, action.leaves_at) == ("blue", NOW + DRAIN_S)


def performed(made: Deployment, action: Action) -> Deployment:
    """The deployment after the supervisor did it, and each start succeeded at once."""
    if isinstance(action, Add):
        return made.with_worker(replace(made.workers[0], number=action.number, status=HEALTHY))
    changed = {Wake: HEALTHY, Retire: DRAINING}[type(action)]
    return made.with_worker(replace(action.deployment, status=changed))


@given(
    st.lists(st.sampled_from([HEALTHY, WAITING, DRAINING, DeploymentStatus.UNHEALTHY]), min_size=1, max_size=6),
    st.integers(0, 6),
)
def test_whatever_the_workers_do_as_many_as_needed_are_reached_and_stay(
    statuses: list[DeploymentStatus], instances: int
) -> None:
    made = with_workers(*statuses)
    for _ in range(12):
        action = rescale(made, instances, NOW)
        if action is None:
            break
        made = performed(made, action)
    assert rescale(made, instances, NOW) is None
    assert len(present(made)) == instances
    numbers = [worker.number for worker in made.workers]
    assert len(numbers) == len(set(numbers)), "no two workers are called the same"


@pytest.mark.parametrize(
    ("expires_at", "status", "is_over"),
    [
        pytest.param(None, HEALTHY, False, id="no lease"),
        pytest.param(MOMENT + timedelta(seconds=1), HEALTHY, False, id="a lease that lasts"),
        pytest.param(MOMENT, HEALTHY, True, id="a lease that has ended"),
        pytest.param(MOMENT, IDLE, True, id="of an idle deployment"),
        pytest.param(MOMENT, DeploymentStatus.STARTING, True, id="of one that starts"),
        pytest.param(MOMENT, DeploymentStatus.DELETING, False, id="of one that is being deleted already"),
    ],
)
def test_a_lease_ends_at_its_moment(expires_at: datetime | None, status: DeploymentStatus, is_over: bool) -> None:
    leased = replace(deployment(status), expires_at=expires_at)
    assert expired([leased], MOMENT) == ([leased] if is_over else [])
    assert decode(Deployment, encode(leased)) == leased


OLD, NEW = ServedModel("m:1", "sha256:0"), ServedModel("m:2", "sha256:1")
TARGET, BASE = NEW.artifact, OLD.artifact


def rolling(*workers: tuple[ServedModel, DeploymentStatus], instances: int = 1) -> Deployment:
    """A deployment that is updated from OLD to NEW, with these workers."""
    made = with_workers(*(status for _, status in workers))
    for number, (served, _) in enumerate(workers):
        own = next(worker for worker in made.workers if worker.number == number)
        made = made.with_worker(replace(own, model=served.model, artifact=served.artifact))
    return replace(made, rollout=Rollout(NEW, OLD, instances))


REFUSED = DeploymentStatus.REFUSED


@pytest.mark.parametrize(
    ("workers", "instances", "expected"),
    [
        pytest.param([(OLD, HEALTHY)], 1, "Add", id="one more first"),
        pytest.param([(OLD, HEALTHY), (NEW, WAITING)], 1, None, id="it starts"),
        pytest.param([(OLD, HEALTHY), (NEW, HEALTHY)], 1, "Retire blue", id="then the old one goes"),
        pytest.param([(OLD, DRAINING), (NEW, HEALTHY)], 1, None, id="with its last request"),
        pytest.param([(NEW, HEALTHY)], 1, "EndRollout", id="done"),
        pytest.param([(OLD, HEALTHY), (OLD, HEALTHY)], 2, "Add", id="of two"),
        pytest.param([(OLD, HEALTHY), (OLD, HEALTHY), (NEW, HEALTHY)], 2, "Retire blue#2", id="one by one"),
        pytest.param([(OLD, HEALTHY), (OLD, DRAINING), (NEW, HEALTHY)], 2, "Add", id="and the next"),
        pytest.param([(OLD, IDLE)], 1, "Add", id="an idle one is proven too"),
        pytest.param([(OLD, IDLE), (NEW, HEALTHY)], 1, "Drop blue", id="and forgotten"),
        pytest.param([(OLD, HEALTHY), (NEW, REFUSED)], 1, "TakeBack", id="a new one that fails"),
        pytest.param([(OLD, WAITING), (NEW, HEALTHY)], 1, "Retire blue", id="an old one that crashed goes too"),
    ],
)
def test_a_rolling_update_never_has_fewer_workers_that_answer(
    workers: list[tuple[ServedModel, DeploymentStatus]], instances: int, expected: str | None
) -> None:
    action = rescale(rolling(*workers, instances=instances), instances, NOW)
    of_worker = isinstance(action, Retire | Drop)
    shown = None if action is None else type(action).__name__
    assert (f"{shown} {action.deployment.worker}" if of_worker and action is not None else shown) == expected


@given(st.integers(1, 4), st.integers(0, 30))
def test_an_update_ends_with_all_workers_of_the_new_version_and_answers_all_the_time(count: int, fails_at: int) -> None:
    made = rolling(*[(OLD, HEALTHY)] * count, instances=count)
    for step in range(40):
        action = rescale(made, count, NOW)
        match action:
            case Add():
                served = made.rollout.wanted if made.rollout is not None else made.served
                status = REFUSED if step == fails_at and served == NEW else HEALTHY
                more = replace(made.workers[0], number=action.number, artifact=served.artifact, status=status)
                made = made.with_worker(more)
            case Retire():
                made = made.without_worker(action.deployment.number) or made
            case TakeBack():
                assert made.rollout is not None
                made = replace(made, rollout=replace(made.rollout, error={"message": "no"}))
                for worker in made.workers:
                    made = (made.without_worker(worker.number) or made) if worker.artifact == TARGET else made
            case EndRollout():
                made = replace(made, rollout=None)
            case None:
                break
        assert sum(worker.status is HEALTHY for worker in made.workers) >= (1 if fails_at < 30 else count)
    failed = made.rollout is not None
    assert [worker.artifact for worker in made.workers] == [BASE if failed else TARGET] * count
    assert all(worker.status is HEALTHY for worker in made.workers)


def test_an_update_survives_its_record() -> None:
    made = rolling((OLD, HEALTHY), (NEW, WAITING))
    assert decode(Deployment, encode(made)) == made


def test_several_workers_survive_their_record() -> None:
    made = with_workers(HEALTHY, WAITING, DRAINING)
    assert decode(Deployment, encode(made)) == made
    assert [worker.worker for worker in made.workers] == ["blue", "blue#2", "blue#3"]


def test_a_deployment_is_described_by_the_worker_that_answers_best() -> None:
    made = with_workers(HEALTHY, HEALTHY)
    first, second = made.workers
    made = made.with_worker(replace(first, status=WAITING, port=None))
    assert (made.status, made.worker) == (HEALTHY, second.worker)
    rest = made.without_worker(second.number)
    assert rest is not None and (rest.status, rest.replicas) == (WAITING, ())
    assert rest.without_worker(first.number) is None
