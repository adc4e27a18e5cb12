"""Endpoints and deployments in Azure's JSON: what is asked comes back as it was, with what we know put in."""

import re
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from mafunzo.control.serving import decide, observer, router
from mafunzo.entities.asset import AssetType
from mafunzo.entities.endpoint import (
    Deployment,
    DeploymentRequest,
    DeploymentStatus,
    Endpoint,
    Rollout,
    ServedModel,
    Supervision,
)
from mafunzo.entities.engine import Engine
from mafunzo.entities.reference import AssetReference
from mafunzo.entities.scale import Scale
from mafunzo.entrypoints.azure.wire import endpoint
from mafunzo.entrypoints.azure.wire.endpoint import (
    DEFAULT_TIMEOUT_S,
    MIN_START_S,
    deployment_body,
    deployment_from_body,
    endpoint_body,
    endpoint_from_body,
)
from mafunzo.entrypoints.http.limits import DEFAULTS
from mafunzo.errors import InvalidParameter, NotFound, NotSupported

AT = datetime(2026, 1, 2, tzinfo=UTC)
HERE = "https://127.0.0.1:8443"
MODEL = "/subscriptions/s/resourceGroups/g/providers/p/workspaces/w/models/m/versions/1"
OF_MODEL = AssetReference("m", "1", type=AssetType.MODEL)
DEPLOYMENT: dict[str, Any] = {
    "properties": {
        "model": MODEL,
        "instanceType": "Standard_NC6s_v3",
        "livenessProbe": {"initialDelay": "PT10M"},
        "requestSettings": {"requestTimeout": "PT1M30S"},
    },
    "sku": {"name": "Default", "capacity": 1},
    "tags": {"a": "b"},
}


def test_an_endpoint_comes_back_as_it_was_asked_for() -> None:
    shares = {"traffic": {"blue": 100}, "mirrorTraffic": {"green": 10}}
    body = {"properties": {"authMode": "Key", "description": "d", **shares}, "tags": {"team": "a"}}
    asked = endpoint_from_body("chat", body)
    endpoint = Endpoint(
        "chat",
        asked.traffic_percent,
        tags=asked.tags,
        mirror_percent=asked.mirror_percent,
        created_at=AT,
        echoes=asked.echoes,
    )
    shown = endpoint_body(endpoint, HERE)
    assert shown["properties"]["description"] == "d" and shown["tags"] == {"team": "a"}
    assert shown["properties"]["traffic"] == {"blue": 100}
    assert shown["properties"]["mirrorTraffic"] == {"green": 10}
    assert shown["properties"]["scoringUri"] == f"{HERE}/endpoints/chat/score"
    assert shown["properties"]["provisioningState"] == "Succeeded"


def test_an_endpoint_that_no_body_made_has_properties_all_the_same() -> None:
    assert endpoint_body(Endpoint("chat", created_at=AT), HERE)["properties"]["properties"] == {}
    asked = endpoint_from_body("chat", {"properties": {"properties": None}})
    assert endpoint_body(Endpoint("chat", echoes=asked.echoes), HERE)["properties"]["properties"] == {}


@pytest.mark.parametrize(
    ("properties", "told"),
    [
        ({"authMode": "AMLToken"}, "auth_mode AMLToken"),
        (
            {"compute": "/subscriptions/s/computes/aks"},
            r"the compute aks, as one of Kubernetes is.* \(ManagedOnlineEndpoint",
        ),
    ],
)
def test_an_endpoint_of_another_kind_is_refused(properties: dict[str, Any], told: str) -> None:
    with pytest.raises(NotSupported, match=told):
        endpoint_from_body("chat", {"properties": properties})


@pytest.mark.parametrize("traffic", [{"a": None}, "x", {"a": 33.7}, {"a": True}])
@pytest.mark.parametrize("name", ["traffic", "mirrorTraffic"])
def test_traffic_that_is_no_percents_is_refused(traffic: Any, name: str) -> None:
    with pytest.raises(InvalidParameter, match="expected whole percents"):
        endpoint_from_body("chat", {"properties": {name: traffic}})


def test_a_model_of_the_registry_keeps_its_address() -> None:
    address = "azureml://registries/azureml/models/tiny-llama/versions/1"
    model = deployment_from_body("blue", {"properties": {"model": address}}).model
    assert model == AssetReference("tiny-llama", "1", registry="azureml", type=AssetType.MODEL)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        pytest.param("org/name", NotFound, "No model is called 'org/name'", id="of a hub"),
        pytest.param(
            "azureml://jobs/j/outputs/model", InvalidParameter, "is the output of a job: register it", id="of a job"
        ),
    ],
)
def test_what_names_no_version_of_a_model_is_refused(text: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        deployment_from_body("blue", {"properties": {"model": text}})


def test_a_deployment_comes_back_as_it_was_asked_for() -> None:
    asked = deployment_from_body("blue", DEPLOYMENT)
    assert (asked.model, asked.initial_delay_s, asked.request_timeout_s) == (OF_MODEL, 900, 90)
    deployment = Deployment("chat", "blue", "m:1", "0" * 64, created_at=AT, echoes=asked.echoes)
    shown = deployment_body(deployment)
    given = DEPLOYMENT["properties"]
    assert {name: shown["properties"][name] for name in given} == given
    assert (shown["sku"], shown["tags"]) == (DEPLOYMENT["sku"], DEPLOYMENT["tags"])


def test_a_request_timeout_may_have_fractions_of_a_second() -> None:
    body = {"properties": {"model": MODEL, "requestSettings": {"requestTimeout": "PT2.5S"}}}
    assert deployment_from_body("blue", body).request_timeout_s == 2.5


def test_what_is_left_out_has_azures_defaults() -> None:
    asked = deployment_from_body("blue", {"properties": {"model": f"azureml:{MODEL}"}})
    assert (asked.model, asked.initial_delay_s, asked.request_timeout_s) == (OF_MODEL, MIN_START_S, DEFAULT_TIMEOUT_S)


@pytest.mark.parametrize(
    ("probe", "seconds"),
    [
        pytest.param(
            {"initialDelay": "PT1S", "period": "PT10S", "failureThreshold": 30}, MIN_START_S, id="made for Azure"
        ),
        pytest.param({"initialDelay": "PT10M", "period": "PT1M", "failureThreshold": 10}, 1200, id="all are counted"),
        pytest.param({"initialDelay": "PT10M"}, 900, id="the rest has Azure's defaults"),
        pytest.param({"failureThreshold": 100}, 1010, id="many probes may fail"),
    ],
)
def test_a_worker_has_time_until_the_last_probe_that_may_fail(probe: dict[str, Any], seconds: float) -> None:
    body = {"properties": {"model": MODEL, "livenessProbe": probe}}
    assert deployment_from_body("blue", body).initial_delay_s == seconds


@pytest.mark.parametrize("threshold", [-1, 0.5, "many", True])
def test_a_threshold_that_is_no_number_is_refused(threshold: Any) -> None:
    body = {"properties": {"model": MODEL, "livenessProbe": {"failureThreshold": threshold}}}
    with pytest.raises(InvalidParameter, match=r"failure_threshold is .* expected a whole number"):
        deployment_from_body("blue", body)


@pytest.mark.parametrize(
    ("status", "state"),
    [
        (DeploymentStatus.WAITING, "Creating"),
        (DeploymentStatus.VERIFYING, "Creating"),
        (DeploymentStatus.HEALTHY, "Succeeded"),
        (DeploymentStatus.REFUSED, "Failed"),
        (DeploymentStatus.FAILED, "Failed"),
        (DeploymentStatus.DELETING, "Deleting"),
    ],
)
def test_a_status_in_azures_words(status: DeploymentStatus, state: str) -> None:
    shown = deployment_body(Deployment("chat", "blue", "m:1", "0" * 64, status, created_at=AT))
    assert shown["properties"]["provisioningState"] == state


def test_all_that_a_deployment_cannot_be_is_told_at_once() -> None:
    properties = {
        "codeConfiguration": {"codeId": "c"},
        "environmentId": "e",
        "endpointComputeType": "Kubernetes",
        "dataCollector": {"collections": {"model_inputs": {"dataCollectionMode": "Enabled"}}},
    }
    body = {"properties": properties, "sku": {"capacity": 0}}
    with pytest.raises(NotSupported) as refused:
        deployment_from_body("blue", body)
    for fault in (
        "code_configuration",
        "environment isn't supported",
        "max_instances is 0, expected 1 to 64. To serve nothing, delete the deployment.",
        "it is of the type Kubernetes, which isn't used here; make a managed deployment",
        "data_collector: data collection isn't supported",
    ):
        assert fault in str(refused.value)
    with pytest.raises(InvalidParameter, match="names no model"):
        deployment_from_body("blue", {"properties": {}})


def made(**properties: Any) -> DeploymentRequest:
    return deployment_from_body("blue", {"properties": {"model": MODEL, **properties}})


@pytest.mark.parametrize(
    ("properties", "told"),
    [
        pytest.param(
            {"requestSettings": {"maxConcurrentRequestsPerInstance": 1}},
            "request_settings: max_concurrent_requests_per_instance is 1, which isn't supported",
            id="requests at once",
        ),
        pytest.param(
            {"requestSettings": {"requestTimeout": "PT90S", "maxQueueWait": "PT0.5S"}},
            r"max_queue_wait_ms is 500, which isn't supported: .* request_timeout_ms 90000",
            id="wait in the queue",
        ),
        pytest.param(
            {"scaleSettings": {"scaleType": "TargetUtilization", "minInstances": 3, "maxInstances": 2}},
            "min_instances is 3, expected at most max_instances, 2",
            id="scale",
        ),
        pytest.param(
            {"scaleSettings": {"scaleType": "TargetUtilization", "targetUtilizationPercentage": 101}},
            "target_utilization_percentage is 101, expected 1 to 100",
            id="utilization",
        ),
        pytest.param(
            {"scaleSettings": {"scaleType": "TargetUtilization", "maxInstances": 2.5}},
            r"scale_settings: max_instances is 2\.5, expected a whole number",
            id="half a worker",
        ),
        pytest.param(
            {"scaleSettings": {"scaleType": "Hourly"}}, "the type is Hourly, expected default", id="scale type"
        ),
        pytest.param(
            {"scaleSettings": {"scaleType": "Default", "maxInstances": 3}},
            "max_instances is of the type target_utilization only",
            id="bounds of a fixed number",
        ),
        pytest.param({"environmentVariables": {"A": "1"}}, "environment_variables aren't supported", id="variables"),
        pytest.param(
            {"readinessProbe": {"period": "PT10S"}},
            "readiness_probe: period is 10.0, which isn't supported: it is 2 here",
            id="readiness",
        ),
        pytest.param(
            {"readinessProbe": {"initialDelay": "PT10M"}}, "readiness_probe: initial_delay is 600", id="delay"
        ),
        pytest.param({"livenessProbe": {"timeout": "PT3S"}}, "liveness_probe: timeout is 3", id="liveness"),
        pytest.param(
            {"livenessProbe": {"successThreshold": 2}}, "liveness_probe: success_threshold is 2", id="successes"
        ),
        pytest.param({"appInsightsEnabled": True}, "app_insights_enabled isn't supported", id="insights"),
        pytest.param({"modelMountPath": "/m"}, "model_mount_path isn't supported", id="mount"),
        pytest.param(
            {"egressPublicNetworkAccess": "Disabled"}, "egress_public_network_access is disabled", id="network"
        ),
    ],
)
def test_a_setting_that_does_not_work_is_refused_by_its_name(properties: dict[str, Any], told: str) -> None:
    with pytest.raises(NotSupported) as caught:
        made(**properties)
    assert len(caught.value.faults) == 1
    assert re.search(told, caught.value.faults[0])


def test_all_settings_that_do_not_work_are_told_at_once() -> None:
    with pytest.raises(NotSupported) as caught:
        made(
            environmentVariables={"A": "1"},
            readinessProbe={"period": "PT1S", "failureThreshold": 9},
            dataCollector={"a": 1},
        )
    assert len(caught.value.faults) == 4


@pytest.mark.parametrize(
    "properties",
    [
        pytest.param({"requestSettings": {"maxConcurrentRequestsPerInstance": 16}}, id="requests at once"),
        pytest.param({"requestSettings": {"requestTimeout": "PT90S", "maxQueueWait": "PT1M30S"}}, id="wait"),
        pytest.param({"scaleSettings": {"scaleType": "Default"}}, id="no scaling"),
        pytest.param(
            {"scaleSettings": {"scaleType": "TargetUtilization", "minInstances": 1, "maxInstances": 1}},
            id="from 1 to 1",
        ),
        pytest.param({"environmentVariables": {}, "readinessProbe": {}, "appInsightsEnabled": False}, id="nothing"),
        pytest.param(
            {"readinessProbe": {"period": "PT2S", "timeout": "PT10S", "failureThreshold": 3, "successThreshold": 1}},
            id="readiness",
        ),
        pytest.param({"livenessProbe": {"timeout": "PT2S", "successThreshold": 1}}, id="as Azure exports it"),
        pytest.param({"egressPublicNetworkAccess": "Enabled"}, id="network"),
    ],
)
def test_a_setting_that_says_what_happens_anyway_passes(properties: dict[str, Any]) -> None:
    assert made(**properties).model == OF_MODEL


@pytest.mark.parametrize(
    ("body", "scale"),
    [
        pytest.param({}, Scale(1, 1), id="one"),
        pytest.param({"sku": {"name": "Default", "capacity": 3}}, Scale(3, 3), id="instance_count"),
        pytest.param({"scaleSettings": {"scaleType": "Default"}, "sku": {"capacity": 2}}, Scale(2, 2), id="default"),
        pytest.param(
            {
                "scaleSettings": {
                    "scaleType": "TargetUtilization",
                    "minInstances": 0,
                    "maxInstances": 4,
                    "pollingInterval": "PT10S",
                    "targetUtilizationPercentage": 50,
                }
            },
            Scale(0, 4, target_percent=50, polling_s=10),
            id="by load",
        ),
        pytest.param(
            {"scaleSettings": {"scaleType": "TargetUtilization", "maxInstances": 2}}, Scale(1, 2), id="azures defaults"
        ),
    ],
)
def test_the_number_of_workers_is_read_and_comes_back(body: dict[str, Any], scale: Scale) -> None:
    settings = {name: value for name, value in body.items() if name == "scaleSettings"}
    sku = {"sku": body["sku"]} if "sku" in body else {}
    asked = deployment_from_body("blue", {"properties": {"model": MODEL, **settings}, **sku})
    assert asked.scale == scale
    shown = deployment_body(
        Deployment("chat", "blue", "m:1", "0" * 64, created_at=AT, scale=scale, echoes=asked.echoes)
    )
    again = {"properties": {"model": MODEL, "scaleSettings": shown["properties"]["scaleSettings"]}, "sku": shown["sku"]}
    assert deployment_from_body("blue", again).scale == scale


def test_a_number_of_instances_beside_bounds_is_refused() -> None:
    settings = {"scaleType": "TargetUtilization", "minInstances": 0, "maxInstances": 3}
    with pytest.raises(NotSupported, match="instance_count is 2, but scale_settings say 0 to 3 by load"):
        deployment_from_body(
            "blue", {"properties": {"model": MODEL, "scaleSettings": settings}, "sku": {"capacity": 2}}
        )


def test_what_azure_has_no_field_for_is_asked_for_by_properties_and_comes_back() -> None:
    own = {
        "mafunzo.scale": "0:3",
        "mafunzo.idle_minutes": "10",
        "mafunzo.ttl": "4h",
        "mafunzo.engine": "torch",
        "mafunzo.log_requests": "true",
        "team": "a",
    }
    asked = made(properties=own)
    assert (asked.scale, asked.ttl_s, asked.engine) == (Scale(0, 3, idle_s=600), 4 * 3600, Engine.TORCH)
    assert asked.logs_requests is True
    changed = made(properties={"mafunzo.log_requests": "False"})
    assert (changed.logs_requests, made(properties={}).logs_requests) == (False, None)
    shown = deployment_body(
        replace(
            Deployment("chat", "blue", "m:1", "0" * 64, created_at=AT, scale=Scale(0, 3, idle_s=600)),
            echoes=asked.echoes,
            supervision=Supervision(engine="torch"),
            logs_requests=True,
        )
    )
    told = {"mafunzo.status": "waiting", "mafunzo.computes_with": "torch"}
    assert shown["properties"]["properties"] == {**own, **told}
    again = deployment_from_body("blue", {"properties": shown["properties"], "sku": shown["sku"]})
    assert (again.scale, again.ttl_s) == (asked.scale, asked.ttl_s)


@pytest.mark.parametrize(
    ("own", "told"),
    [
        ({"mafunzo.scale": "3"}, "'3' isn't a scale, expected MIN:MAX such as 0:3"),
        ({"mafunzo.scale": "3:2"}, "min_instances is 3, expected at most max_instances, 2"),
        ({"mafunzo.idle_minutes": "5"}, "properties: mafunzo.idle_minutes needs mafunzo.scale"),
        ({"mafunzo.scale": "0:1", "mafunzo.idle_minutes": "few"}, "mafunzo.idle_minutes is 'few', expected a number"),
        (
            {"mafunzo.engine": "torc"},
            "engine is 'torc', expected one of auto, torch, openvino, vllm. Did you mean torch?",
        ),
        ({"mafunzo.ttl": "soon"}, "The ttl is 'soon', expected a length of time"),
        ({"mafunzo.log_requests": "maybe"}, "mafunzo.log_requests is 'maybe', expected true or false"),
        ({"mafunzo.scales": "0:1"}, "properties: mafunzo.scales is unknown. Did you mean mafunzo.scale?"),
    ],
)
def test_an_own_property_that_can_not_be_is_refused(own: dict[str, str], told: str) -> None:
    with pytest.raises(NotSupported) as caught:
        made(properties=own)
    assert len(caught.value.faults) == 1
    assert told in caught.value.faults[0]


def test_own_bounds_beside_azures_number_are_refused() -> None:
    with pytest.raises(NotSupported, match=r"mafunzo.scale takes the place of scale_settings and instance_count"):
        deployment_from_body(
            "blue",
            {"properties": {"model": MODEL, "properties": {"mafunzo.scale": "0:3"}}, "sku": {"capacity": 2}},
        )


def test_what_azure_has_no_field_for_is_told_by_properties() -> None:
    one = Deployment("chat", "blue", "m:1", "0" * 64, DeploymentStatus.HEALTHY, created_at=AT)
    assert deployment_body(one)["properties"]["properties"] == {"mafunzo.status": "healthy"}
    several = one.with_worker(replace(one, number=1, status=DeploymentStatus.WAITING)).leased(3600, AT)
    assert deployment_body(several)["properties"]["properties"] == {
        "mafunzo.status": "healthy",
        "mafunzo.workers": "1 healthy, 1 waiting",
        "mafunzo.expires_at": "2026-01-02T01:00:00+00:00",
    }


UP = Supervision(was_healthy=True)
HEALTHY, WAITING, FAILED = DeploymentStatus.HEALTHY, DeploymentStatus.WAITING, DeploymentStatus.FAILED


@pytest.mark.parametrize(
    ("is_new", "scale", "statuses", "state"),
    [
        pytest.param(True, Scale(2, 2), [HEALTHY], "Creating", id="one of two"),
        pytest.param(True, Scale(2, 2), [HEALTHY, WAITING], "Creating", id="the second starts"),
        pytest.param(True, Scale(2, 2), [HEALTHY, HEALTHY], "Succeeded", id="both"),
        pytest.param(True, Scale(2, 2), [HEALTHY, FAILED], "Failed", id="the second can't be"),
        pytest.param(True, Scale(0, 3), [HEALTHY], "Succeeded", id="by load, one at least"),
        pytest.param(True, Scale(2, 4), [HEALTHY], "Creating", id="by load, two at least"),
        pytest.param(False, Scale(2, 2), [HEALTHY, WAITING], "Succeeded", id="lost one later"),
        pytest.param(False, Scale(2, 2), [HEALTHY, FAILED], "Succeeded", id="lost one for good"),
        pytest.param(False, Scale(2, 2), [WAITING, WAITING], "Succeeded", id="lost all, or its server stopped"),
        pytest.param(False, Scale(1, 1), [DeploymentStatus.VERIFYING], "Succeeded", id="compared again"),
        pytest.param(False, Scale(0, 1), [DeploymentStatus.IDLE], "Succeeded", id="idle"),
        pytest.param(False, Scale(0, 1), [DeploymentStatus.STARTING], "Succeeded", id="woken"),
        pytest.param(False, Scale(1, 1), [FAILED], "Failed", id="failed later"),
    ],
)
def test_a_deployment_is_made_once_all_its_workers_were_up(
    is_new: bool, scale: Scale, statuses: list[DeploymentStatus], state: str
) -> None:
    one = Deployment(
        "chat", "blue", "m:1", "0" * 64, statuses[0], created_at=AT, scale=scale, is_new=is_new, supervision=UP
    )
    for number, status in enumerate(statuses):
        one = one.with_worker(replace(one, number=number, status=status, replicas=()))
    assert deployment_body(one)["properties"]["provisioningState"] == state


def test_an_update_goes_on_or_has_failed_in_azures_words() -> None:
    first, second = ServedModel("m:1", "0" * 64), ServedModel("m:2", "1" * 64)
    asked = deployment_from_body("blue", {"properties": {"model": MODEL.replace("/1", "/2")}})
    made = Deployment("chat", "blue", "m:1", "0" * 64, DeploymentStatus.HEALTHY, created_at=AT, echoes=asked.echoes)
    goes_on = deployment_body(replace(made, rollout=Rollout(second, first)))["properties"]
    assert (goes_on["provisioningState"], goes_on["model"]) == ("Updating", MODEL.replace("/1", "/2"))
    failed = deployment_body(replace(made, rollout=Rollout(second, first, error={"message": "no"})))["properties"]
    assert (failed["provisioningState"], failed["model"]) == ("Failed", "m:1")


def test_what_happens_anyway_is_what_the_supervisor_and_the_router_do() -> None:
    probes = (endpoint.READINESS_PERIOD_S, endpoint.PROBE_TIMEOUT_S, endpoint.READINESS_FAILURES)
    assert probes == (observer.PROBE_PERIOD_S, observer.PROBE_TIMEOUT_S, decide.UNHEALTHY_PROBES)
    assert DEFAULTS.requests_at_once == router.REQUESTS_AT_ONCE
