"""Tests of `mafunzo.control.workspace.endpoints` without a server: what is refused, logs, and which traffic is taken."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mafunzo import Workspace
from mafunzo.control.serving import mirror_log
from mafunzo.entities.endpoint import DeploymentStatus, EndpointRequest, Supervision
from mafunzo.entities.mirror import MirrorReport
from mafunzo.entities.rate_limit import RateLimit
from mafunzo.errors import Conflict, InvalidParameter, NotFound, TimedOut
from tests.support.chat_home import TOO_SLOW, chat, chat_home, deployed
from tests.unit.entities.test_mirror import comparison

FAILED, REFUSED, HEALTHY = DeploymentStatus.FAILED, DeploymentStatus.REFUSED, DeploymentStatus.HEALTHY


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    with chat_home(tmp_path) as opened:
        yield opened


@pytest.mark.parametrize("name", ["abc", "A-1", "a" * 32, "chat--2"])
def test_a_name_that_azure_takes_is_taken(workspace: Workspace, name: str) -> None:
    assert workspace.endpoints.create(name).name == name


def test_the_log_of_a_failed_deployment_ends_with_why(workspace: Workspace) -> None:
    deployed(workspace, "blue", FAILED, error=TOO_SLOW, attempt=2)
    for attempt, text in (("1", "Loading\nKilled\n"), ("2", "")):
        (folder := workspace.home.workers / "chat" / "blue" / attempt).mkdir(parents=True)
        (folder / "log.txt").write_text(text)
    told = chat(workspace).logs()["blue"].splitlines()
    assert told == ["Loading", "Killed", "The deployment is failed: It was too slow.", "a: 1", "b: 2"]
    assert chat(workspace).logs("blue", lines=1) == {"blue": "b: 2"}


@pytest.mark.parametrize(
    ("status", "more", "told"),
    [
        pytest.param(FAILED, {"error": TOO_SLOW}, "blue is failed: It was too slow. Create it again with", id="failed"),
        pytest.param(REFUSED, {"error": TOO_SLOW}, "blue is refused: It was too slow. Create it again", id="refused"),
        pytest.param(DeploymentStatus.STARTING, {}, "blue is starting and can't answer yet. Wait until", id="starting"),
        pytest.param(DeploymentStatus.DELETING, {}, "blue is being deleted", id="being deleted"),
    ],
)
def test_a_deployment_that_cannot_answer_gets_no_traffic(
    workspace: Workspace, status: DeploymentStatus, more: dict[str, Any], told: str
) -> None:
    deployed(workspace, "blue", status, **more)
    with pytest.raises(Conflict, match=told):
        chat(workspace).set_traffic({"blue": 100})
    assert chat(workspace).endpoint.traffic_percent == {}
    chat(workspace).set_traffic({"blue": 0})


@pytest.mark.parametrize("status", [HEALTHY, DeploymentStatus.UNHEALTHY, DeploymentStatus.WAITING])
def test_a_deployment_that_answered_once_may_get_traffic(workspace: Workspace, status: DeploymentStatus) -> None:
    made = deployed(workspace, "blue", status)
    workspace.records.deployments.update(replace(made, supervision=Supervision(was_healthy=True)))
    chat(workspace).set_traffic({"blue": 100})
    assert chat(workspace).endpoint.traffic_percent == {"blue": 100}


def test_traffic_that_stays_or_shrinks_is_taken_whatever_the_state(workspace: Workspace) -> None:
    deployed(workspace, "blue", HEALTHY)
    green = deployed(workspace, "green", HEALTHY)
    chat(workspace).set_traffic({"blue": 50, "green": 50})
    workspace.records.deployments.update(replace(green, status=FAILED))
    chat(workspace).set_traffic({"blue": 50, "green": 50})
    chat(workspace).set_traffic({"blue": 100, "green": 0})
    with pytest.raises(Conflict, match="green is failed"):
        chat(workspace).set_traffic({"blue": 50, "green": 50})


def test_a_deployment_with_traffic_is_not_deleted_unless_the_others_are_to_take_it(workspace: Workspace) -> None:
    deployed(workspace, "blue", HEALTHY)
    deployed(workspace, "green", HEALTHY)
    chat(workspace).set_traffic({"blue": 30, "green": 70})
    with pytest.raises(
        Conflict, match=r"chat/blue has 30 percent of the traffic\. Set its traffic to 0, then delete it"
    ):
        chat(workspace).begin_delete_deployment("blue")
    assert {str(found.status) for found in chat(workspace).deployments} == {"healthy"}
    with pytest.raises(TimedOut):
        chat(workspace).delete_deployment("blue", timeout_s=0)
    assert chat(workspace).endpoint.traffic_percent == {"green": 100}
    assert [found.name for found in chat(workspace).deployments if found.status is HEALTHY] == ["green"]


def test_an_endpoint_that_is_new_has_no_traffic_to_give(workspace: Workspace) -> None:
    with pytest.raises(InvalidParameter, match="Endpoint fresh is new, so that no deployment can get traffic yet"):
        workspace.endpoints.create("fresh", EndpointRequest({"blue": 100}))
    assert [endpoint.name for endpoint in workspace.endpoints.list()] == ["chat"]


def test_an_endpoint_that_is_there_changes_its_traffic_and_tags(workspace: Workspace) -> None:
    deployed(workspace, "blue", HEALTHY)
    workspace.endpoints.create("chat", EndpointRequest({"blue": 100}, {"team": "a"}, {"a way in": "its body"}))
    changed = chat(workspace).endpoint
    assert (changed.traffic_percent, changed.tags) == ({"blue": 100}, {"team": "a"})
    assert changed.echoes == {"a way in": "its body"}


def test_all_that_is_wrong_with_a_share_is_said_at_once(workspace: Workspace) -> None:
    deployed(workspace, "blue", HEALTHY)
    with pytest.raises(InvalidParameter) as refusal:
        chat(workspace).set_traffic({"blue": 130, "green": 10})
    assert refusal.value.faults == ("Endpoint chat has no deployment 'green'.", "blue is 130, expected 0 to 100.")


def test_a_mirror_is_set_reported_and_ended(workspace: Workspace) -> None:
    deployed(workspace, "blue", HEALTHY)
    deployed(workspace, "green", HEALTHY)
    handle = chat(workspace)
    with pytest.raises(
        NotFound, match=r"Endpoint chat has no mirror\. Make one: mafunzo endpoint mirror chat DEPLOYMENT"
    ):
        handle.mirror_report()
    workspace.endpoints.create("chat", EndpointRequest({"blue": 100}, mirror_percent={"green": 10}))
    assert handle.endpoint.mirror_percent == {"green": 10}
    assert handle.mirror_report() == MirrorReport("green")
    mirror_log.append(workspace.home, "chat", comparison())
    assert handle.mirror_report().compared == handle.mirror_report("green").compared == 1
    handle.set_mirror({"green": 0})
    assert handle.endpoint.mirror_percent == {}
    assert handle.mirror_report("green").compared == 1, "what was compared stays"
    with pytest.raises(NotFound):
        handle.mirror_report("red")


def test_a_mirror_that_can_not_be_is_refused_before_anything_is_written(workspace: Workspace) -> None:
    deployed(workspace, "blue", HEALTHY)
    with pytest.raises(InvalidParameter, match="Endpoint chat has no deployment 'green'"):
        workspace.endpoints.create("chat", EndpointRequest({"blue": 100}, mirror_percent={"green": 10}))
    assert chat(workspace).endpoint.traffic_percent == {}
    with pytest.raises(InvalidParameter, match="Endpoint fresh is new"):
        workspace.endpoints.create("fresh", EndpointRequest(mirror_percent={"green": 10}))


def test_a_mirror_that_is_deleted_gets_no_more_copies(workspace: Workspace) -> None:
    deployed(workspace, "green", HEALTHY)
    chat(workspace).set_mirror({"green": 10})
    chat(workspace).begin_delete_deployment("green")
    assert chat(workspace).endpoint.mirror_percent == {}


def test_limits_stay_when_traffic_and_tags_change(workspace: Workspace) -> None:
    chat(workspace).set_rate_limit(RateLimit(60))
    chat(workspace).set_rate_limit(RateLimit(None, 5), "primary")
    workspace.endpoints.create("chat", EndpointRequest(tags={"a": "b"}))
    assert chat(workspace).endpoint.rate_limits == {"default": RateLimit(60), "primary": RateLimit(None, 5)}
    chat(workspace).set_rate_limit(None)
    assert chat(workspace).endpoint.rate_limits == {"primary": RateLimit(None, 5)}
    with pytest.raises(NotFound, match="Endpoint chat has no limit of 'default'"):
        chat(workspace).set_rate_limit(None)
