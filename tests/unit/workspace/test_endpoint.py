"""Tests of `mafunzo.workspace.endpoint` without a server: what is refused, what is written down, how traffic is shared."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mafunzo import Workspace
from mafunzo.entities.endpoint import Deployment, DeploymentStatus
from mafunzo.errors import Conflict, InvalidParameter, NotFound, TimedOut
from mafunzo.serving.decide import Supervision
from mafunzo.wire.azureml.endpoint import DeploymentRequest, endpoint_from_body
from mafunzo.workspace.endpoint import EndpointHandle, _shared

FAILED, REFUSED, HEALTHY = DeploymentStatus.FAILED, DeploymentStatus.REFUSED, DeploymentStatus.HEALTHY
TOO_SLOW = {"code": "worker_failed", "message": "It was too slow.", "faults": ["a: 1", "b: 2"]}


class Home(Workspace):
    """A workspace whose server never starts."""

    def up(self) -> Any:
        return None


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    """A workspace with a registered model, `chat:1`, and an endpoint, `chat`."""
    with Home(tmp_path / "home", port=0) as opened:
        (folder := tmp_path / "model").mkdir()
        (folder / "config.json").write_text("{}")
        opened.models.register(folder, name="chat")
        opened.endpoints.create("chat")
        yield opened


def deployed(workspace: Workspace, name: str, status: DeploymentStatus, **more: Any) -> Deployment:
    artifact = workspace.models.get("chat:1").artifact or ""
    return workspace.records.deployments.add(Deployment("chat", name, "chat:1", artifact, status, **more))


def asked(**more: Any) -> DeploymentRequest:
    return DeploymentRequest("chat:1", start_limit_s=900, request_timeout_s=2.5, properties={"said": "again"}, **more)


def chat(workspace: Workspace) -> EndpointHandle:
    return workspace.endpoints.get("chat")


@pytest.mark.parametrize("status", [FAILED, REFUSED])
def test_a_deployment_that_failed_is_made_anew(workspace: Workspace, status: DeploymentStatus) -> None:
    kept = replace(deployed(workspace, "blue", status, error=TOO_SLOW, attempt=3, created_by="amina"))
    remembered = Supervision(crashes=2, retry_at=1e12, reason="slow").as_properties(kept)
    workspace.records.deployments.update(replace(kept, properties=remembered, verification={"result": "refused"}))
    workspace.endpoints.put_deployment("chat", "blue", asked())
    (found,) = chat(workspace).deployments
    assert (found.status, found.error, found.verification) == (DeploymentStatus.WAITING, None, None)
    assert found.properties == {"base_artifact": None, "said": "again"}, "nothing is remembered of its crashes"
    assert (found.initial_delay_s, found.request_timeout_s) == (900, 2.5)
    assert (found.attempt, found.created_by) == (3, "amina"), "its folders and its maker stay"


def test_a_deployment_that_is_being_deleted_is_not_made_anew(workspace: Workspace) -> None:
    deployed(workspace, "blue", DeploymentStatus.DELETING)
    with pytest.raises(Conflict, match="is being deleted"):
        workspace.endpoints.put_deployment("chat", "blue", asked())


def test_a_machine_size_is_known_or_left_out(workspace: Workspace) -> None:
    with pytest.raises(NotFound, match=r"No machine size is called 'Standard_DS3_v3'\. Did you mean"):
        workspace.endpoints.put_deployment("chat", "blue", asked(instance_type="Standard_DS3_v3"))
    assert chat(workspace).deployments == []
    workspace.endpoints.put_deployment("chat", "blue", asked(instance_type="standard_ds3_v2"))
    workspace.endpoints.put_deployment("chat", "green", asked())


def test_what_is_no_chat_model_is_refused_at_once(workspace: Workspace, tmp_path: Path) -> None:
    (folder := tmp_path / "sklearn").mkdir()
    (folder / "MLmodel").write_text("flavors: {sklearn: {}}")
    workspace.models.register(folder, name="trees")
    with pytest.raises(InvalidParameter, match=r"^trees:1 isn't a chat model \(neither its root"):
        workspace.deploy("trees", endpoint="fresh")
    with pytest.raises(InvalidParameter, match="isn't a chat model"):
        workspace.endpoints.put_deployment("chat", "blue", replace(asked(), model="trees:1"))
    assert [found.name for found in workspace.endpoints.list()] == ["chat"]
    assert chat(workspace).deployments == []


@pytest.mark.parametrize("name", ["Bad_EP", "ab", "a" * 33, "1abc", "-abc", "abc-", "a.b", "über", "abc\n", ""])
def test_a_name_that_azure_would_not_take_is_refused(workspace: Workspace, name: str) -> None:
    for make in (
        lambda: workspace.endpoints.create(name),
        lambda: workspace.endpoints.put(name, endpoint_from_body(name, {})),
        lambda: workspace.deploy("chat", endpoint=name),
        lambda: workspace.deploy("chat", endpoint="fresh", deployment=name),
        lambda: workspace.endpoints.put_deployment("chat", name, asked()),
    ):
        with pytest.raises(InvalidParameter, match="expected 3 to 32 letters"):
            make()
    assert [found.name for found in workspace.endpoints.list()] == ["chat"]


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
    workspace.records.deployments.update(replace(made, properties=Supervision(was_healthy=True).as_properties(made)))
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


@pytest.mark.parametrize(
    ("before", "share", "expected"),
    [
        pytest.param({}, 100, {"new": 100}, id="the first takes all"),
        pytest.param({}, None, {"new": 100}, id="the first takes all unless told"),
        pytest.param({"old": 100}, None, {"old": 100, "new": 0}, id="a later one takes none unless told"),
        pytest.param({"old": 100}, 0, {"old": 100, "new": 0}, id="none for the second"),
        pytest.param({"old": 100}, 10, {"old": 90, "new": 10}, id="a tenth"),
        pytest.param({"a": 75, "b": 25}, 20, {"a": 60, "b": 20, "new": 20}, id="the others keep their proportions"),
        pytest.param({"a": 50, "b": 50}, 1, {"a": 50, "b": 49, "new": 1}, id="what is left over goes to the first"),
    ],
)
def test_shares_add_up_to_100(before, share, expected):
    shares = _shared(before, "new", share)
    assert shares == expected
    assert sum(shares.values()) == 100


def test_a_first_deployment_may_have_no_traffic():
    assert _shared({}, "new", 0) == {"new": 0}


@pytest.mark.parametrize("before", [pytest.param({}, id="no deployment"), pytest.param({"new": 100}, id="only itself")])
def test_a_share_that_leaves_a_rest_for_nobody_is_refused(before):
    with pytest.raises(InvalidParameter, match=r"traffic is 50, but no other .* the other 50 percent.*100, or 0"):
        _shared(before, "new", 50)


@pytest.mark.parametrize("share", [-1, 101])
def test_a_share_is_0_to_100(share):
    with pytest.raises(InvalidParameter, match="expected 0 to 100 percent"):
        _shared({"old": 100}, "new", share)
