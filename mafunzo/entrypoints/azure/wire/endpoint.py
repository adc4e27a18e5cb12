"""Online endpoints and their deployments in Azure's JSON. Bodies are stored, and returned with the known fields filled in."""

from collections.abc import Mapping
from typing import Any

from mafunzo.entities.duration import seconds_of
from mafunzo.entities.endpoint import (
    DEFAULT_START_LIMIT_S,
    Deployment,
    DeploymentRequest,
    DeploymentStatus,
    Endpoint,
    EndpointRequest,
)
from mafunzo.entities.reference import AssetReference, JobOutputReference
from mafunzo.entrypoints.azure.reference import parse_reference
from mafunzo.entrypoints.azure.wire.envelope import ECHO, LOCATION, echo_of, own_resource, system_data, texts
from mafunzo.errors import Faults, InvalidParameter, NotFound, NotSupported

MANAGED = "Managed"
MIN_START_S = DEFAULT_START_LIMIT_S
"""A worker has at least as long to become healthy: what suits Azure's machines is too short to load a large model here."""
INITIAL_DELAY_S, PERIOD_S, FAILURE_THRESHOLD = 10.0, 10.0, 30
"""The defaults of Azure's liveness probe."""
DEFAULT_TIMEOUT_S = 5.0
_NOT_SUPPORTED: Mapping[str, str] = {
    "dataCollector": "data_collector: data collection isn't supported; leave it out.",
    "codeConfiguration": "code_configuration (a scoring script of one's own) isn't supported; leave it out.",
    "environmentId": "environment isn't supported; leave it out: the model brings all that it needs.",
}
_PROVISIONING: Mapping[DeploymentStatus, str] = {
    DeploymentStatus.HEALTHY: "Succeeded",
    DeploymentStatus.UNHEALTHY: "Succeeded",
    DeploymentStatus.REFUSED: "Failed",
    DeploymentStatus.FAILED: "Failed",
    DeploymentStatus.DELETING: "Deleting",
}
"""The others are `Creating`."""


def endpoint_from_body(name: str, body: Mapping[str, Any]) -> EndpointRequest:
    """Read a PUT's body; raises `NotSupported` for Kubernetes, another way to ask than by key, and mirrored traffic."""
    properties = body.get("properties") or {}
    if compute := properties.get("compute"):
        raise NotSupported(
            f"Endpoint '{name}' is on the compute {str(compute).rpartition('/')[2]}, as one of Kubernetes is, which isn't used "
            "here. Make a managed endpoint (ManagedOnlineEndpoint): it runs on this machine."
        )
    mode = str(properties.get("authMode") or "Key")
    if mode.lower() != "key":
        raise NotSupported(f"Endpoint '{name}' has auth_mode {mode}. Endpoints are opened by key here: auth_mode key.")
    if any((properties.get("mirrorTraffic") or {}).values()):
        raise NotSupported(f"Endpoint '{name}' mirrors traffic, which isn't supported yet. Leave mirror_traffic out.")
    traffic = properties.get("traffic") or {}
    if not isinstance(traffic, Mapping) or not all(_is_whole(share) for share in traffic.values()):
        raise InvalidParameter(
            f"Endpoint '{name}' has traffic {traffic}, expected whole percents by deployment.", param="traffic"
        )
    return EndpointRequest(
        traffic_percent={str(key): int(share) for key, share in traffic.items()},
        tags=texts(body.get("tags")),
        echoes={ECHO: dict(body)},
    )


def _is_whole(share: Any) -> bool:
    return isinstance(share, int | float) and not isinstance(share, bool) and float(share).is_integer()


def endpoint_body(endpoint: Endpoint, base: str) -> dict[str, Any]:
    """Return an endpoint as a GET answers it; `base` is the server's https address."""
    echo = echo_of(endpoint.echoes)
    properties = {
        **(echo.get("properties") or {}),
        "authMode": "Key",
        "scoringUri": f"{base}{scoring_path(endpoint.name)}",
        "swaggerUri": None,
        "traffic": dict(endpoint.traffic_percent),
        "mirrorTraffic": {},
        "provisioningState": "Deleting" if endpoint.is_deleting else "Succeeded",
        "publicNetworkAccess": "Disabled",
    }
    properties["properties"] = properties.get("properties") or {}  # the SDK can't read an endpoint without them
    properties.pop("keys", None)
    return own_resource(
        "onlineEndpoints",
        endpoint.name,
        properties=properties,
        location=LOCATION,
        kind="Managed",
        identity={"type": "SystemAssigned"},
        tags=dict(endpoint.tags),
        systemData=system_data(endpoint.created_by, endpoint.created_at),
    )


def scoring_path(endpoint: str) -> str:
    """Return an endpoint's scoring path in Azure's dialect."""
    return f"/endpoints/{endpoint}/score"


def deployment_from_body(name: str, body: Mapping[str, Any]) -> DeploymentRequest:
    """Read a PUT's body; raises `NotSupported` or `InvalidParameter` with what can't be done."""
    properties = body.get("properties") or {}
    faults = Faults()
    if str(properties.get("endpointComputeType") or MANAGED) != MANAGED:
        faults.add(
            f"it is of the type {properties['endpointComputeType']}, which isn't used here; make a managed deployment "
            "(ManagedOnlineDeployment): it runs on this machine."
        )
    faults.add(*(fault for name, fault in _NOT_SUPPORTED.items() if properties.get(name)))
    capacity = (body.get("sku") or {}).get("capacity", 1)
    if capacity not in (None, 1):
        faults.add(f"instance_count is {capacity}; a deployment is one worker here, which answers many at once.")
    if faults:
        raise NotSupported(f"Deployment '{name}' can't be made.", tuple(faults))
    limit = (properties.get("requestSettings") or {}).get("requestTimeout")
    return DeploymentRequest(
        model=model_reference(name, properties),
        initial_delay_s=_start_limit_s(properties.get("livenessProbe") or {}),
        request_timeout_s=seconds_of(str(limit)) if limit else DEFAULT_TIMEOUT_S,
        instance_type=str(properties.get("instanceType") or ""),
        echoes={ECHO: dict(body)},
    )


def model_reference(deployment: str, properties: Mapping[str, Any]) -> AssetReference:
    """Return the version of a model that a body names by its id, its address or `azureml:name:version`."""
    text = str(properties.get("model") or "")
    text = text if text.startswith("azureml://") else text.removeprefix("azureml:")
    if not text:
        raise InvalidParameter(f"Deployment '{deployment}' names no model.", param="model")
    reference = parse_reference(text)
    if isinstance(reference, JobOutputReference):
        raise InvalidParameter(f"{text} is the output of a job: register it, then name the model.")
    if not isinstance(reference, AssetReference):
        raise NotFound(f"No model is called '{text}'. `mafunzo model list` shows all.")
    return reference


def _start_limit_s(probe: Mapping[str, Any]) -> float:
    """Return when the last probe that may fail has failed, as Azure counts; never less than `MIN_START_S`."""
    delay, period = probe.get("initialDelay"), probe.get("period")
    threshold = probe.get("failureThreshold") or FAILURE_THRESHOLD
    if not _is_whole(threshold) or threshold < 1:
        raise InvalidParameter(
            f"The liveness probe's failure_threshold is {threshold!r}, expected a whole number, 1 or more.",
            param="failure_threshold",
        )
    first_s = seconds_of(str(delay)) if delay else INITIAL_DELAY_S
    return max(MIN_START_S, first_s + (seconds_of(str(period)) if period else PERIOD_S) * threshold)


def deployment_body(deployment: Deployment) -> dict[str, Any]:
    """Return a deployment as a GET answers it."""
    echo = echo_of(deployment.echoes)
    requested = dict(echo.get("properties") or {})
    properties = {
        **requested,
        "endpointComputeType": MANAGED,
        "scaleSettings": {"scaleType": "Default"},
        "model": requested.get("model") or deployment.model,
        "provisioningState": provisioning_state(deployment),
        "properties": {**(requested.get("properties") or {}), "mafunzo.status": str(deployment.status)},
    }
    return own_resource(
        *("onlineEndpoints", deployment.endpoint, "deployments", deployment.name),
        properties=properties,
        location=LOCATION,
        kind="Managed",
        sku=echo.get("sku") or {"name": "Default", "capacity": 1},
        tags=dict(echo.get("tags") or {}),
        systemData=system_data(deployment.created_by, deployment.created_at),
    )


def provisioning_state(deployment: Deployment) -> str:
    """Return a deployment's provisioning state, in Azure's word."""
    return _PROVISIONING.get(deployment.status, "Creating")
