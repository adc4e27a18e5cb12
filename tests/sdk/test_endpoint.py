"""Online endpoints with the Azure SDK: what differs from the plain way through, at the cost of no model where that can be."""

from typing import Any

import pytest
from azure.ai.ml.entities import (
    DataCollector,
    DeploymentCollection,
    KubernetesOnlineDeployment,
    KubernetesOnlineEndpoint,
    ManagedOnlineDeployment,
    ManagedOnlineEndpoint,
    Model,
    OnlineRequestSettings,
    ProbeSettings,
)
from azure.core.exceptions import HttpResponseError

from mafunzo import Workspace
from mafunzo.compute.components.tiny_model import make
from mafunzo.control.launcher.steady_clock import steady_s
from mafunzo.entities.backoff import MAX_DELAY_S
from mafunzo.entities.endpoint import Deployment, DeploymentStatus, Supervision


def test_an_endpoint_of_the_command_line_is_read(client: Any, workspace: Workspace) -> None:
    workspace.endpoints.create("cli-ep")
    assert client.online_endpoints.get("cli-ep").traffic == {}
    assert "cli-ep" in {found.name for found in client.online_endpoints.list()}


@pytest.fixture(scope="module")
def model(client: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    make("tiny-llama", 1, folder)
    return client.models.create_or_update(Model(path=str(folder), type="custom_model", name="tiny", version="1"))


@pytest.fixture(scope="module")
def failed(client: Any, model: Any, workspace: Workspace) -> str:
    """The name of an endpoint whose deployment `blue` has failed."""
    client.online_endpoints.begin_create_or_update(ManagedOnlineEndpoint(name="chat-ep")).result()
    error = {"code": "worker_failed", "message": "The worker was too slow."}
    artifact = workspace.models.get("tiny:1").artifact or ""
    workspace.records.deployments.add(
        Deployment("chat-ep", "blue", "tiny:1", artifact, DeploymentStatus.FAILED, error=error)
    )
    return "chat-ep"


def deployment(endpoint: str, model: Any, name: str = "blue", **more: Any) -> ManagedOnlineDeployment:
    return ManagedOnlineDeployment(name=name, endpoint_name=endpoint, model=model, instance_count=1, **more)


def test_the_log_of_a_failed_deployment_says_why(client: Any, failed: str) -> None:
    assert "The worker was too slow." in client.online_deployments.get_logs("blue", failed, lines=10)


def test_mirror_traffic_is_set_read_and_ended(client: Any, failed: str) -> None:
    for mirror in ({"blue": 10}, {}):
        client.online_endpoints.begin_create_or_update(
            ManagedOnlineEndpoint(name=failed, mirror_traffic=mirror)
        ).result()
        assert client.online_endpoints.get(failed).mirror_traffic == mirror


def test_a_failed_deployment_gets_no_traffic(client: Any, failed: str) -> None:
    with pytest.raises(HttpResponseError, match=r"blue is failed: The worker was too slow\. Create it again"):
        client.online_endpoints.begin_create_or_update(
            ManagedOnlineEndpoint(name=failed, traffic={"blue": 100})
        ).result()


@pytest.fixture(scope="module")
def endpoint(client: Any, failed: str, model: Any) -> str:
    """The same, after its script was run again with other settings."""
    made = client.online_deployments.begin_create_or_update(
        deployment(
            failed,
            model.id,
            liveness_probe=ProbeSettings(initial_delay=1, period=10, failure_threshold=30),
            request_settings=OnlineRequestSettings(request_timeout_ms=2500),
        )
    ).result()
    assert made.provisioning_state == "Succeeded"
    return failed


def test_a_failed_deployment_is_made_anew_with_what_the_script_says_now(endpoint: str, workspace: Workspace) -> None:
    found = workspace.records.deployments.get(endpoint, "blue")
    assert (found.initial_delay_s, found.request_timeout_s, found.error) == (600, 2.5, None)


def test_a_deployment_that_is_being_created_gets_no_traffic(client: Any, endpoint: str, workspace: Workspace) -> None:
    artifact = workspace.models.get("tiny:1").artifact or ""
    far_off = Supervision(retry_at=steady_s() + MAX_DELAY_S)
    workspace.records.deployments.add(Deployment(endpoint, "green", "tiny:1", artifact, supervision=far_off))
    with pytest.raises(HttpResponseError, match="green is waiting and can't answer yet"):
        client.online_endpoints.begin_create_or_update(
            ManagedOnlineEndpoint(name=endpoint, traffic={"blue": 50, "green": 50})
        ).result()
    client.online_deployments.begin_delete("green", endpoint).wait()


def test_a_deployment_with_traffic_is_not_deleted(client: Any, endpoint: str) -> None:
    found = client.online_endpoints.get(endpoint)
    found.traffic = {"blue": 100}
    client.online_endpoints.begin_create_or_update(found).result()
    with pytest.raises(
        HttpResponseError, match=r"has 100 percent of the traffic\. Set its traffic to 0, then delete it"
    ):
        client.online_deployments.begin_delete("blue", endpoint).wait()
    assert [one.name for one in client.online_deployments.list(endpoint)] == ["blue"]


def test_an_endpoint_of_kubernetes_is_refused(client: Any, workspace: Workspace) -> None:
    with pytest.raises(HttpResponseError, match=r"Kubernetes .* isn't used here\. Make a managed endpoint"):
        client.online_endpoints.begin_create_or_update(
            KubernetesOnlineEndpoint(name="k8s", compute="azureml:local")
        ).result()
    assert "k8s" not in {found.name for found in workspace.endpoints.list()}


def test_a_deployment_of_kubernetes_is_refused(client: Any, endpoint: str, model: Any) -> None:
    asked = KubernetesOnlineDeployment(name="k8s", endpoint_name=endpoint, model=model.id, instance_count=1)
    with pytest.raises(HttpResponseError, match="of the type Kubernetes, which isn't used here; make a managed"):
        client.online_deployments.begin_create_or_update(asked).result()


def test_data_collection_is_refused(client: Any, endpoint: str, model: Any) -> None:
    collector = DataCollector(collections={"model_inputs": DeploymentCollection(enabled="true")})
    with pytest.raises(HttpResponseError, match="data collection isn't supported"):
        client.online_deployments.begin_create_or_update(
            deployment(endpoint, model.id, "collects", data_collector=collector)
        ).result()


def test_an_unknown_machine_size_is_refused(client: Any, endpoint: str, model: Any) -> None:
    with pytest.raises(HttpResponseError, match="No machine size is called 'Standard_Bogus'"):
        client.online_deployments.begin_create_or_update(
            deployment(endpoint, model.id, "sized", instance_type="Standard_Bogus")
        ).result()


def test_a_deployment_whose_endpoint_is_deleted_meanwhile_says_so(client: Any, model: Any) -> None:
    client.online_endpoints.begin_create_or_update(ManagedOnlineEndpoint(name="short-ep")).result()
    made = client.online_deployments.begin_create_or_update(deployment("short-ep", model.id))
    client.online_endpoints.begin_delete("short-ep").wait()
    with pytest.raises(HttpResponseError, match="short-ep/blue was deleted, or its endpoint, while it was being made"):
        made.result()
