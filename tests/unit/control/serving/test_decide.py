"""What to do about each deployment, as tables: no process, clock or store."""

from dataclasses import replace
from typing import Any

import pytest

from mafunzo.control.serving.decide import (
    HUNG_PROBES,
    STABLE_S,
    UNHEALTHY_PROBES,
    Fail,
    Health,
    MarkHealthy,
    MarkUnhealthy,
    Refuse,
    Remove,
    Restart,
    Start,
    Stop,
    Verdict,
    Verify,
    WorkerState,
    decide,
)
from mafunzo.control.store.codec import decode, encode
from mafunzo.entities.backoff import MAX_DELAY_S
from mafunzo.entities.endpoint import Deployment, DeploymentStatus, Supervision

NOW = 1000.0
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
