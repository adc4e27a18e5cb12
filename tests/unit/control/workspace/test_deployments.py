"""Tests of `mafunzo.control.workspace.deployments` without a server: what is refused, and what is written down."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from mafunzo import Workspace
from mafunzo.control.workspace.endpoints import EndpointHandle
from mafunzo.control.workspace.job_handle import JobHandle
from mafunzo.control.workspace.models import Models
from mafunzo.entities.asset import Asset, AssetType
from mafunzo.entities.compute import Hardware
from mafunzo.entities.endpoint import (
    Deployment,
    DeploymentRequest,
    DeploymentStatus,
    EndpointRequest,
    Rollout,
    ServedModel,
    Supervision,
)
from mafunzo.entities.engine import Engine
from mafunzo.entities.job import Job, JobStatus, Step, StepOutputInput, StepSpec, StepStatus
from mafunzo.entities.pruning import PRUNED
from mafunzo.entities.reference import AssetReference
from mafunzo.entities.scale import Scale
from mafunzo.errors import Conflict, InvalidParameter, NotFound, NotSupported, OutOfMemory, TimedOut, WorkerFailed
from tests.support.chat_home import TOO_SLOW, chat, chat_home, deployed

FAILED, REFUSED, HEALTHY = DeploymentStatus.FAILED, DeploymentStatus.REFUSED, DeploymentStatus.HEALTHY
CHAT = AssetReference("chat", "1")


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    with chat_home(tmp_path) as opened:
        yield opened


def request(**more: Any) -> DeploymentRequest:
    return DeploymentRequest(CHAT, initial_delay_s=900, request_timeout_s=2.5, echoes={"a way in": "again"}, **more)


def test_the_engine_that_is_asked_for_is_recorded_and_another_one_needs_another_name(workspace: Workspace) -> None:
    for name, engine in (("blue", Engine.TORCH), ("green", None)):
        workspace.deployments.create("chat", name, request(engine=engine))
    assert [deployment.engine for deployment in chat(workspace).deployments] == [Engine.TORCH, Engine.AUTO]
    workspace.deployments.create("chat", "blue", request(engine=Engine.TORCH))
    workspace.deployments.create("chat", "blue", request())
    with pytest.raises(
        Conflict, match=r"Deployment chat/blue has the engine torch\. Deploy with the engine auto under"
    ):
        workspace.deployments.create("chat", "blue", request(engine=Engine.AUTO))


@pytest.mark.parametrize(("file", "is_beside"), [("config.json", False), ("adapter_config.json", True)])
def test_an_adapter_is_served_beside_its_base_and_merged_weights_alone(
    workspace: Workspace, tmp_path: Path, file: str, is_beside: bool
) -> None:
    """Both know the base that they were tuned from; merged weights would have room booked for it, and torch as for adapters."""
    (tmp_path / "tuned").mkdir()
    (tmp_path / "tuned" / file).write_text("{}")
    tuned, base = workspace.models.register(tmp_path / "tuned", name="tuned"), workspace.models.get("chat:1").artifact
    workspace.records.assets.update(replace(tuned, properties={"base_artifact": base}))
    workspace.deployments.create("chat", "blue", DeploymentRequest(AssetReference("tuned", "1")))
    assert chat(workspace).deployments[0].base_artifact == (base if is_beside else None)


def test_an_engine_that_can_not_be_is_refused_before_anything_is_made(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mafunzo.control.serving.engine.is_installed", lambda: False)
    with pytest.raises(NotSupported, match="engine is openvino, which isn't installed"):
        workspace.deploy("chat", endpoint="fresh", engine="openvino")
    with pytest.raises(InvalidParameter, match="engine is 'vlm', expected one of auto, torch, openvino, vllm"):
        workspace.deploy("chat", endpoint="fresh", engine="vlm")
    with pytest.raises(NotSupported, match="engine is vllm, which can't serve it") as refused:
        workspace.deploy("chat", endpoint="fresh", engine="vllm")
    assert refused.value.faults == (
        "vllm isn't installed: pip install 'mafunzo[vllm]'.",
        "vllm computes on a GPU, and there is none.",
    )
    with pytest.raises(NotSupported, match="engine is openvino, which isn't installed"):
        workspace.deployments.create("chat", "blue", request(engine=Engine.OPENVINO))
    assert [endpoint.name for endpoint in workspace.endpoints.list()] == ["chat"]
    assert not chat(workspace).deployments


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


def test_the_number_of_workers_is_set_kept_and_changed(workspace: Workspace) -> None:
    made = workspace.deployments.create("chat", "blue", request(scale=Scale(2, 2)))
    assert made.scale == Scale(2, 2)
    assert workspace.deployments.create("chat", "blue", request()).scale == Scale(2, 2), (
        "who says nothing changes nothing"
    )
    assert workspace.deployments.create("chat", "blue", request(scale=Scale(1, 1))).scale == Scale(1, 1)
    changed = workspace.deployments.rescale("chat", "blue", Scale(0, 3))
    assert workspace.deployments.get("chat", "blue") == changed
    assert (changed.scale, changed.model) == (Scale(0, 3), "chat:1")


def test_a_number_of_workers_that_can_not_be_is_refused_before_anything_is_written(workspace: Workspace) -> None:
    for make in (
        lambda: workspace.deployments.create("chat", "blue", request(scale=Scale(3, 2))),
        lambda: workspace.deploy("chat", endpoint="fresh", scale=Scale(3, 2)),
    ):
        with pytest.raises(InvalidParameter, match="min_instances is 3, expected at most max_instances, 2"):
            make()
    assert [one.name for one in workspace.endpoints.list()] == ["chat"]
    assert chat(workspace).deployments == []
    with pytest.raises(NotFound):
        workspace.deployments.rescale("chat", "blue", Scale())


def test_more_workers_than_the_machine_can_hold_are_refused_by_name(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mafunzo.control.launcher.hardware.hardware", lambda: Hardware(cpus=2, memory_mb=1500, gpus=()))
    workspace.deployments.create("chat", "blue", request(scale=Scale(2, 2)))
    text = (
        r"chat/{name} can't have 3 instances: each needs 700 MB at least, and this machine has 1500 MB, 2 cores\. "
        "Ask for fewer instances, or serve a smaller model"
    )
    for name, make in (
        ("green", lambda: workspace.deployments.create("chat", "green", request(scale=Scale(0, 3)))),
        ("green", lambda: workspace.deploy("chat", endpoint="chat", deployment="green", scale=Scale(3, 3))),
        ("blue", lambda: workspace.deployments.rescale("chat", "blue", Scale(3, 3))),
    ):
        with pytest.raises(OutOfMemory, match=text.format(name=name)):
            make()
    assert [one.name for one in chat(workspace).deployments] == ["blue"]


def test_a_deployment_is_waited_for_until_it_has_the_workers_that_it_needs(workspace: Workspace) -> None:
    one = deployed(workspace, "blue", HEALTHY, scale=Scale(2, 3))
    reason = Supervision(reason="It needs 700 MB, which others hold.")
    two = one.with_worker(replace(one, number=1, status=DeploymentStatus.WAITING, supervision=reason))
    workspace.records.deployments.update(two)
    with (
        workspace.home.lock(),
        pytest.raises(TimedOut, match=r"healthy with 1 of 2 workers after 0 s\. It needs 700 MB"),
    ):
        chat(workspace).wait("blue", 0)
    workspace.records.deployments.update(two.with_worker(replace(one, number=1)))
    assert chat(workspace).wait("blue", 0).status is HEALTHY
    workspace.records.deployments.update(replace(one, status=DeploymentStatus.IDLE))
    assert chat(workspace).wait("blue", 0).status is DeploymentStatus.IDLE


def ends(workspace: Workspace, name: str = "blue") -> float | None:
    """In how many hours a deployment's lease ends."""
    expires_at = workspace.deployments.get("chat", name).expires_at
    return None if expires_at is None else round((expires_at - datetime.now(UTC)).total_seconds() / 3600, 2)


def test_a_deployment_with_a_ttl_has_a_lease_which_is_renewed(workspace: Workspace) -> None:
    workspace.deployments.create("chat", "blue", request(ttl_s=4 * 3600.0))
    workspace.deployments.create("chat", "green", request())
    assert (ends(workspace), ends(workspace, "green")) == (4, None)
    blue = workspace.deployments.get("chat", "blue")
    workspace.records.deployments.update(replace(blue, expires_at=datetime.now(UTC)))
    workspace.deployments.create("chat", "blue", request())
    assert ends(workspace) == 0, "who says nothing changes nothing"
    workspace.deployments.create("chat", "blue", request(ttl_s=3600.0))
    assert ends(workspace) == 1
    workspace.deployments.create("chat", "blue", request(ttl_s=4 * 3600.0))
    workspace.records.deployments.update(
        replace(workspace.deployments.get("chat", "blue"), expires_at=datetime.now(UTC))
    )
    assert [one.name for one in chat(workspace).renew()] == ["blue"], "those that have a lease"
    assert (ends(workspace), ends(workspace, "green")) == (4, None)
    chat(workspace).renew(ttl="30m")
    assert (ends(workspace), ends(workspace, "green")) == (0.5, 0.5), "all get one"
    chat(workspace).renew("green", "never")
    assert (ends(workspace), ends(workspace, "green")) == (0.5, None)


def test_what_has_no_lease_is_not_renewed_without_a_ttl(workspace: Workspace) -> None:
    deployed(workspace, "blue", HEALTHY)
    with pytest.raises(InvalidParameter, match=r"Endpoint chat has no lease to renew\. Give it one: --ttl 4h"):
        chat(workspace).renew()
    with pytest.raises(InvalidParameter, match="Deployment chat/blue has no lease to renew"):
        chat(workspace).renew("blue")
    with pytest.raises(NotFound):
        chat(workspace).renew("red")


@pytest.mark.parametrize("ttl", ["soon", "0s", "59s", "P9Y", "-1h", 0, 1e12, float("nan")])
def test_a_ttl_that_can_not_be_is_refused_before_anything_is_written(workspace: Workspace, ttl: str | float) -> None:
    with pytest.raises(InvalidParameter, match="The ttl is"):
        workspace.deploy("chat", endpoint="fresh", ttl=ttl)
    assert [one.name for one in workspace.endpoints.list()] == ["chat"]


def second_version(workspace: Workspace, folder: Path) -> str:
    """Register chat:2; return the hash of its files."""
    (model := folder / "second").mkdir()
    (model / "config.json").write_text('{"second": 1}')
    return workspace.models.register(model, name="chat").artifact or ""


def answering(workspace: Workspace, **more: Any) -> Deployment:
    return deployed(workspace, "blue", HEALTHY, supervision=Supervision(was_healthy=True), **more)


def test_another_version_of_its_model_updates_a_deployment(workspace: Workspace, tmp_path: Path) -> None:
    before, second = answering(workspace), second_version(workspace, tmp_path)
    two = replace(request(), model=AssetReference("chat", "2"))
    after = workspace.deployments.create("chat", "blue", two)
    assert after.rollout == Rollout(ServedModel("chat:2", second), before.served)
    assert (after.model, after.status) == ("chat:1", HEALTHY), "it serves what it served, for now"
    assert workspace.deployments.create("chat", "blue", two).rollout == after.rollout
    with pytest.raises(Conflict, match="Deployment chat/blue is being updated to chat:2"):
        workspace.deployments.create("chat", "blue", request())
    assert second in workspace.records.referenced_artifacts()


def test_an_update_that_was_taken_back_is_tried_again_or_forgotten(workspace: Workspace, tmp_path: Path) -> None:
    before, second = answering(workspace), second_version(workspace, tmp_path)
    failed = Rollout(ServedModel("chat:2", second), before.served, error=TOO_SLOW)
    workspace.records.deployments.update(replace(before, rollout=failed))
    with workspace.home.lock(), pytest.raises(WorkerFailed, match="It was too slow"):
        chat(workspace).wait_for_update("blue", 0)
    again = workspace.deployments.create("chat", "blue", replace(request(), model=AssetReference("chat", "2")))
    assert again.rollout == replace(failed, error=None)
    workspace.records.deployments.update(replace(again, rollout=failed))
    assert workspace.deployments.create("chat", "blue", request()).rollout is None


def test_an_update_that_can_not_be_is_refused(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starting = deployed(workspace, "blue", DeploymentStatus.STARTING)
    second_version(workspace, tmp_path)
    with pytest.raises(Conflict, match="Deployment chat/blue is starting and never answered yet"):
        workspace.deployments.update("chat", "blue", "chat:2")
    workspace.records.deployments.update(replace(starting, status=HEALTHY, supervision=Supervision(was_healthy=True)))
    monkeypatch.setattr("mafunzo.control.launcher.hardware.hardware", lambda: Hardware(cpus=2, memory_mb=1000, gpus=()))
    with pytest.raises(OutOfMemory, match="can't have 2 instances"):
        workspace.deployments.update("chat", "blue", "chat:2")
    with pytest.raises(NotFound):
        workspace.deployments.update("chat", "red", "chat:2")
    assert workspace.deployments.get("chat", "blue").rollout is None


def test_no_version_is_deleted_that_an_update_needs(workspace: Workspace, tmp_path: Path) -> None:
    answering(workspace)
    second_version(workspace, tmp_path)
    record = workspace.deployments.create("chat", "blue", replace(request(), model=AssetReference("chat", "2")))
    for version in ("chat:1", "chat:2"):
        with pytest.raises(Conflict, match=f"Model {version} is served by chat/blue"):
            workspace.models.delete(version)
    assert record.rollout is not None
    workspace.records.deployments.update(replace(record, rollout=replace(record.rollout, error=TOO_SLOW)))
    workspace.models.delete("chat:2")


def test_an_update_is_waited_for(workspace: Workspace, tmp_path: Path) -> None:
    answering(workspace)
    second_version(workspace, tmp_path)
    with (
        workspace.home.lock(),
        pytest.raises(TimedOut, match=r"isn't over after 0 s: blue with chat:1 is healthy\. It goes on"),
    ):
        workspace.deployments.update("chat", "blue", "chat:2", timeout_s=0)
    record = workspace.deployments.get("chat", "blue")
    workspace.records.deployments.update(replace(record, rollout=None))
    assert workspace.deployments.update("chat", "blue", "chat:1").model == "chat:1", "it serves that already"


def offered(workspace: Workspace) -> Asset:
    return workspace.models.on_offer()[0]


def fetched(workspace: Workspace, folder: Path, title: str, component: str = "import_model:1") -> JobHandle:
    """A job that has fetched a model of the catalogue."""
    (folder / "fetched").mkdir(exist_ok=True)
    (folder / "fetched" / "config.json").write_text('{"a": 1}')
    artifact = workspace.artifacts.put(folder / "fetched")
    job = Job("import-1", title, "import", "pipeline", outputs={"model": StepOutputInput("import_model", "model")})
    spec = StepSpec("import_model", component, "sha256:0", "true")
    step = Step("import-1", spec, StepStatus.COMPLETED, outputs={"model": artifact})
    workspace.records.jobs.add(replace(job, status=JobStatus.COMPLETED), [step])
    return workspace.jobs.get("import-1")


def test_a_model_of_the_catalogue_is_fetched_and_deployed(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetches: list[str] = []

    def import_once(models: Models, reference: str) -> JobHandle:
        fetches.append(reference)
        return fetched(workspace, tmp_path, f"import {reference}")

    monkeypatch.setattr(Models, "import_once", import_once)
    monkeypatch.setattr(EndpointHandle, "wait", lambda handle, name, timeout_s: None)
    monkeypatch.setattr(EndpointHandle, "set_traffic", lambda handle, shares: None)
    card = offered(workspace)
    for name in ("blue", "green"):
        workspace.deploy(card.name, endpoint="fresh", deployment=name)
    assert fetches == [str(card.key)], "once"
    artifact = workspace.jobs.get("import-1").output_artifact("model")
    served = workspace.endpoints.get("fresh").deployments
    assert [(one.model, one.artifact) for one in served] == [(str(card.key), artifact)] * 2
    assert artifact in workspace.records.referenced_artifacts()


@pytest.mark.parametrize("has_version", [True, False])
def test_one_that_was_fetched_is_deployed_by_other_ways_in_too(
    workspace: Workspace, tmp_path: Path, has_version: bool
) -> None:
    card = offered(workspace)
    fetched(workspace, tmp_path, f"import {card.key if has_version else card.name}")
    model = AssetReference(card.name, card.version, registry="azureml", type=AssetType.MODEL)
    assert workspace.deployments.create("chat", "blue", replace(request(), model=model)).model == str(card.key)


def test_one_whose_files_were_pruned_counts_as_not_fetched(workspace: Workspace, tmp_path: Path) -> None:
    card = offered(workspace)
    handle = fetched(workspace, tmp_path, f"import {card.key}")
    workspace.artifacts.delete(handle.output_artifact("model"))
    properties = {PRUNED: {"artifacts": "2026-03-01T10:00:00+00:00"}}
    workspace.records.jobs.update(replace(handle.job, properties=properties))
    assert workspace.models.artifact_of(card) is None


def test_one_that_was_not_fetched_says_how(workspace: Workspace, tmp_path: Path) -> None:
    card = offered(workspace)
    fetched(workspace, tmp_path, f"import {card.key}", component="another:1")
    model = AssetReference(card.name, card.version, registry="azureml", type=AssetType.MODEL)
    with pytest.raises(InvalidParameter, match=rf"on offer but not registered.*mafunzo model import {card.key}"):
        workspace.deployments.create("chat", "blue", replace(request(), model=model))
