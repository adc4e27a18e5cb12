"""Which deployment answers a request."""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from mafunzo.control.serving.traffic import choose, pick, with_adapter
from mafunzo.entities.adapter import Adapter, AdapterState, AdapterStatus
from mafunzo.entities.endpoint import Deployment, DeploymentStatus, Endpoint
from mafunzo.errors import NotFound, Unavailable

HEALTHY, WAITING, VERIFYING = DeploymentStatus.HEALTHY, DeploymentStatus.WAITING, DeploymentStatus.VERIFYING


def made(**statuses: DeploymentStatus) -> list[Deployment]:
    return [Deployment("chat", name, "m:1", "sha256:0", status=status) for name, status in statuses.items()]


def chat(**traffic_percent: int) -> Endpoint:
    return Endpoint("chat", traffic_percent)


@pytest.mark.parametrize(
    ("traffic", "statuses", "draw", "expected"),
    [
        pytest.param({"blue": 90, "green": 10}, {"blue": HEALTHY, "green": HEALTHY}, 0.95, "green", id="by its share"),
        pytest.param(
            {"blue": 90, "green": 10}, {"blue": WAITING, "green": HEALTHY}, 0.1, "green", id="the healthy one"
        ),
        pytest.param({"blue": 100, "gone": 0}, {"blue": HEALTHY}, 0.99, "blue", id="a share of a deleted one"),
    ],
)
def test_a_request_goes_to_a_healthy_deployment_by_traffic(
    traffic: dict[str, int], statuses: dict[str, DeploymentStatus], draw: float, expected: str
) -> None:
    assert pick(chat(**traffic), made(**statuses), None, draw).name == expected


def test_a_named_deployment_answers_without_any_traffic() -> None:
    assert pick(chat(blue=100), made(blue=HEALTHY, green=HEALTHY), "green", 0.5).name == "green"


def test_a_deployment_that_is_only_verified_again_goes_on_answering() -> None:
    again = Deployment("chat", "blue", "m:1", "sha256:0", status=VERIFYING, port=4000)
    assert pick(chat(blue=100), [again], None, 0.5) is again
    first = Deployment("chat", "blue", "m:1", "sha256:0", status=VERIFYING)
    with pytest.raises(Unavailable):
        pick(chat(blue=100), [first], None, 0.5)


@pytest.mark.parametrize(
    ("traffic", "statuses", "named", "message"),
    [
        pytest.param(
            {"blue": 100}, {"blue": WAITING}, None, r"no healthy deployment now \(blue is waiting\)", id="down"
        ),
        pytest.param({}, {"blue": HEALTHY}, None, "No deployment of endpoint 'chat' gets traffic", id="no traffic"),
        pytest.param({"blue": 100}, {"blue": WAITING}, "blue", "'chat/blue' is waiting", id="the named one is down"),
    ],
)
def test_without_a_healthy_deployment_the_reason_is_told(
    traffic: dict[str, int], statuses: Mapping[str, DeploymentStatus], named: str | None, message: str
) -> None:
    with pytest.raises(Unavailable, match=message):
        pick(chat(**traffic), made(**statuses), named, 0.5)


def test_an_unknown_deployment_is_told() -> None:
    with pytest.raises(NotFound, match="no deployment 'red'"):
        pick(chat(blue=100), made(blue=HEALTHY), "red", 0.5)


@pytest.mark.parametrize(
    ("traffic", "draw", "expected"),
    [
        pytest.param({"blue": 100}, 0.999, "blue", id="one takes all"),
        pytest.param({"blue": 90, "green": 10}, 0.0, "blue", id="the first share"),
        pytest.param({"blue": 90, "green": 10}, 0.8999, "blue", id="the end of the first share"),
        pytest.param({"blue": 90, "green": 10}, 0.9, "green", id="the start of the second"),
        pytest.param({"blue": 0, "green": 100}, 0.0, "green", id="no share, no request"),
        pytest.param({"green": 10}, 0.99, "green", id="shares of those left need not add up to 100"),
        pytest.param({"blue": 100, "green": 0}, 0.9999999999999999, "blue", id="rounding never reaches a share of 0"),
    ],
)
def test_a_draw_falls_into_one_share(traffic: dict[str, int], draw: float, expected: str) -> None:
    assert choose(traffic, draw) == expected


def test_shares_are_kept_over_many_draws() -> None:
    counts = {"blue": 0, "green": 0, "red": 0}
    for number in range(1000):
        counts[choose({"blue": 70, "green": 25, "red": 5}, number / 1000)] += 1
    assert counts == {"blue": 700, "green": 250, "red": 50}


def test_an_idle_deployment_keeps_its_share_so_that_a_request_wakes_it() -> None:
    idle = made(blue=HEALTHY, green=DeploymentStatus.IDLE)
    assert pick(chat(blue=90, green=10), idle, None, 0.5).name == "blue"
    with pytest.raises(Unavailable, match="Deployment 'chat/green' is idle"):
        pick(chat(blue=90, green=10), idle, None, 0.95)


def test_a_deployment_is_down_only_when_all_its_workers_are() -> None:
    [blue] = made(blue=HEALTHY)
    two = blue.with_worker(replace(blue, number=1, status=WAITING))
    assert pick(chat(blue=100), [two], None, 0.5).worker == "blue"
    assert (
        pick(
            chat(blue=100),
            [two.with_worker(replace(blue, status=WAITING)).with_worker(replace(blue, number=1))],
            None,
            0.5,
        ).worker
        == "blue#2"
    )


def with_state(worker: Deployment, status: AdapterStatus | None, attempt: int = 1) -> Deployment:
    states = {} if status is None else {"red": AdapterState("sha256:a", attempt, status)}
    return replace(worker, attempt=1, port=9, adapters={"red": Adapter("red:1", "sha256:a")}, adapter_states=states)


@pytest.mark.parametrize(
    ("status", "attempt", "seen"),
    [
        pytest.param(AdapterStatus.LIVE, 1, HEALTHY, id="live"),
        pytest.param(AdapterStatus.LIVE, 0, WAITING, id="live on the worker before"),
        pytest.param(AdapterStatus.LOADING, 1, WAITING, id="not proven yet"),
        pytest.param(None, 1, WAITING, id="not loaded yet"),
    ],
)
def test_a_worker_answers_for_an_adapter_once_that_is_live_on_it(
    status: AdapterStatus | None, attempt: int, seen: DeploymentStatus
) -> None:
    [blue, green] = made(blue=HEALTHY, green=HEALTHY)
    [found] = with_adapter(chat(blue=100), [with_state(blue, status, attempt), green], "red")
    assert (found.name, found.status, found.port) == ("blue", seen, 9 if seen is HEALTHY else None)


def test_of_two_workers_the_one_that_has_the_adapter_answers() -> None:
    [blue] = made(blue=HEALTHY)
    first, second = with_state(blue, AdapterStatus.REFUSED), replace(with_state(blue, AdapterStatus.LIVE), number=1)
    seen = with_adapter(chat(blue=100), [first.with_worker(second)], "red")
    assert pick(chat(blue=100), seen, None, 0.5).worker == "blue#2"
    with pytest.raises(
        Unavailable, match=r"The adapter 'chat:red' was refused\. Why: mafunzo endpoint adapter list chat"
    ):
        with_adapter(chat(blue=100), [first], "red")


def test_a_request_without_an_adapter_sees_all_and_an_unknown_one_is_told() -> None:
    deployments = made(blue=HEALTHY)
    assert with_adapter(chat(blue=100), deployments, None) is deployments
    with pytest.raises(NotFound, match="The model 'chat:red' doesn't exist: endpoint 'chat' has no adapter 'red'"):
        with_adapter(chat(blue=100), deployments, "red")
