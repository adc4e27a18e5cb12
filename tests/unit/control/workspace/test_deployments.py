"""Tests of `mafunzo.control.workspace.deployments` without a server: what is refused, and what is written down."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mafunzo import Workspace
from mafunzo.entities.endpoint import DeploymentRequest, DeploymentStatus, EndpointRequest, Supervision
from mafunzo.entities.reference import AssetReference
from mafunzo.errors import Conflict, InvalidParameter, NotFound
from tests.support.chat_home import TOO_SLOW, chat, chat_home, deployed

FAILED, REFUSED, HEALTHY = DeploymentStatus.FAILED, DeploymentStatus.REFUSED, DeploymentStatus.HEALTHY
CHAT = AssetReference("chat", "1")


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    with chat_home(tmp_path) as opened:
        yield opened


def request(**more: Any) -> DeploymentRequest:
    return DeploymentRequest(CHAT, initial_delay_s=900, request_timeout_s=2.5, echoes={"a way in": "again"}, **more)


@pytest.mark.parametrize("status", [FAILED, REFUSED])
def test_a_deployment_that_failed_is_made_anew(workspace: Workspace, status: DeploymentStatus) -> None:
    kept = replace(deployed(workspace, "blue", status, error=TOO_SLOW, attempt=3, created_by="amina"))
    remembered = Supervision(crashes=2, retry_at=1e12, reason="slow")
    workspace.records.deployments.update(replace(kept, supervision=remembered, verification={"result": "refused"}))
    workspace.deployments.create("chat", "blue", request())
    (found,) = chat(workspace).deployments
    assert (found.status, found.error, found.verification) == (DeploymentStatus.WAITING, None, None)
    assert found.supervision == Supervision(), "nothing is remembered of its crashes"
    assert found.echoes == {"a way in": "again"}
    assert (found.initial_delay_s, found.request_timeout_s) == (900, 2.5)
    assert (found.attempt, found.created_by) == (3, "amina"), "its folders and its maker stay"


def test_a_deployment_that_is_being_deleted_is_not_made_anew(workspace: Workspace) -> None:
    deployed(workspace, "blue", DeploymentStatus.DELETING)
    with pytest.raises(Conflict, match="is being deleted"):
        workspace.deployments.create("chat", "blue", request())


def test_a_machine_size_is_known_or_left_out(workspace: Workspace) -> None:
    with pytest.raises(NotFound, match=r"No machine size is called 'Standard_DS3_v3'\. Did you mean"):
        workspace.deployments.create("chat", "blue", request(instance_type="Standard_DS3_v3"))
    assert chat(workspace).deployments == []
    workspace.deployments.create("chat", "blue", request(instance_type="standard_ds3_v2"))
    workspace.deployments.create("chat", "green", request())


def test_what_is_no_chat_model_is_refused_at_once(workspace: Workspace, tmp_path: Path) -> None:
    (folder := tmp_path / "sklearn").mkdir()
    (folder / "MLmodel").write_text("flavors: {sklearn: {}}")
    workspace.models.register(folder, name="trees")
    with pytest.raises(InvalidParameter, match=r"^trees:1 isn't a chat model \(neither its root"):
        workspace.deploy("trees", endpoint="fresh")
    with pytest.raises(InvalidParameter, match="isn't a chat model"):
        workspace.deployments.create("chat", "blue", replace(request(), model=AssetReference("trees", "1")))
    assert [found.name for found in workspace.endpoints.list()] == ["chat"]
    assert chat(workspace).deployments == []


@pytest.mark.parametrize("name", ["Bad_EP", "ab", "a" * 33, "1abc", "-abc", "abc-", "a.b", "über", "abc\n", ""])
def test_a_name_that_azure_would_not_take_is_refused(workspace: Workspace, name: str) -> None:
    for make in (
        lambda: workspace.endpoints.create(name),
        lambda: workspace.endpoints.create(name, EndpointRequest()),
        lambda: workspace.deploy("chat", endpoint=name),
        lambda: workspace.deploy("chat", endpoint="fresh", deployment=name),
        lambda: workspace.deployments.create("chat", name, request()),
    ):
        with pytest.raises(InvalidParameter, match="expected 3 to 32 letters"):
            make()
    assert [found.name for found in workspace.endpoints.list()] == ["chat"]


def test_what_is_there_changes_its_time_outs_and_keeps_its_model(workspace: Workspace, tmp_path: Path) -> None:
    before = deployed(workspace, "blue", HEALTHY, port=4000, echoes={"another": "stays"})
    after = workspace.deployments.create("chat", "blue", request())
    echoes = {"another": "stays", "a way in": "again"}
    assert after == replace(before, initial_delay_s=900, request_timeout_s=2.5, echoes=echoes)
    assert workspace.deployments.get("chat", "blue") == after
    (folder := tmp_path / "other").mkdir()
    (folder / "config.json").write_text('{"other": 1}')
    workspace.models.register(folder, name="other")
    with pytest.raises(Conflict, match=r"chat/blue serves chat:1\. Deploy other:1 under another name"):
        workspace.deployments.create("chat", "blue", replace(request(), model=AssetReference("other", "1")))


def test_a_new_deployment_waits_for_its_worker_in_the_name_of_who_request(workspace: Workspace) -> None:
    made = workspace.acting_as("amina").deployments.create("chat", "blue", request())
    assert (made.status, made.model, made.created_by) == (DeploymentStatus.WAITING, "chat:1", "amina")
    assert workspace.deployments.list() == workspace.deployments.list("chat") == [made]


@pytest.mark.parametrize("limit_s", [0.0, -1.0, float("inf"), float("nan")])
def test_limits_that_no_request_can_meet_are_refused_together(workspace: Workspace, limit_s: float) -> None:
    for make in (
        lambda: workspace.deploy("chat", endpoint="fresh", timeout_s=limit_s, request_timeout_s=limit_s),
        lambda: workspace.deployments.create(
            "chat", "blue", replace(request(), initial_delay_s=limit_s, request_timeout_s=limit_s)
        ),
    ):
        with pytest.raises(InvalidParameter) as caught:
            make()
        expected = [f"{name} is {limit_s:g} s, expected seconds above 0." for name in ("timeout", "request_timeout")]
        assert list(caught.value.faults) == expected
    assert [one.name for one in workspace.endpoints.list()] == ["chat"]
