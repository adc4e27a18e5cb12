"""Online endpoints and their deployments in Azure's JSON. Bodies are stored, and returned with the known fields filled in."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from mafunzo.control.workspace.endpoints import ttl_of
from mafunzo.entities.duration import seconds_of
from mafunzo.entities.endpoint import (
    DEFAULT_START_LIMIT_S,
    Deployment,
    DeploymentRequest,
    DeploymentStatus,
    Endpoint,
    EndpointRequest,
)
from mafunzo.entities.engine import engine_named
from mafunzo.entities.reference import AssetReference, JobOutputReference
from mafunzo.entities.scale import DEFAULT_POLLING_S, DEFAULT_TARGET_PERCENT, Scale, require_scale, scale_by_load
from mafunzo.entrypoints.azure.reference import parse_reference
from mafunzo.entrypoints.azure.wire.envelope import ECHO, LOCATION, echo_of, own_resource, system_data, texts
from mafunzo.entrypoints.http.limits import DEFAULTS
from mafunzo.errors import Faults, InvalidParameter, NotFound, NotSupported, did_you_mean

MANAGED = "Managed"
MIN_START_S = DEFAULT_START_LIMIT_S
"""A worker has at least as long to become healthy: what suits Azure's machines is too short to load a large model here."""
INITIAL_DELAY_S, PERIOD_S, FAILURE_THRESHOLD = 10.0, 10.0, 30
"""The defaults of Azure's liveness probe."""
DEFAULT_TIMEOUT_S = 5.0
MILLISECONDS = 1000
PROBE_TIMEOUT_S, PROBE_SUCCESSES = 10.0, 1
READINESS_PERIOD_S, READINESS_FAILURES = 2.0, 3
"""How workers are probed here, whatever a deployment says: how long a probe may take and how many have to succeed; how often,
and how many in a row may fail before a worker gets no requests."""
_NOT_SUPPORTED: Mapping[str, str] = {
    "dataCollector": "data_collector: data collection isn't supported; leave it out. Use the property mafunzo.log_requests.",
    "codeConfiguration": "code_configuration (a scoring script of one's own) isn't supported; leave it out.",
    "environmentId": "environment isn't supported; leave it out: the model brings all that it needs.",
    "environmentVariables": "environment_variables aren't supported: no script of one's own would read them; leave them out.",
    "modelMountPath": "model_mount_path isn't supported; leave it out: no script of one's own would look for the model.",
    "appInsightsEnabled": "app_insights_enabled isn't supported; leave it out: /metrics and the deployment's log are here.",
    "privateNetworkConnection": "private_network_connection isn't supported; leave it out.",
}
AZURE_PROBE_TIMEOUT = "PT2S"
OWN = "mafunzo."
SCALE, IDLE_MINUTES, TTL, ENGINE = "mafunzo.scale", "mafunzo.idle_minutes", "mafunzo.ttl", "mafunzo.engine"
LOG_REQUESTS = "mafunzo.log_requests"
_ASKED = (SCALE, IDLE_MINUTES, TTL, ENGINE, LOG_REQUESTS)
"""Properties of a deployment that ask for what Azure has no field for."""
_ANSWERED = ("mafunzo.status", "mafunzo.workers", "mafunzo.expires_at", "mafunzo.computes_with")
"""Those that tell it; a client may send them back."""
_PROBE_KEYS = {
    "timeout": "timeout",
    "successThreshold": "success_threshold",
    "period": "period",
    "failureThreshold": "failure_threshold",
    "initialDelay": "initial_delay",
}


def endpoint_from_body(name: str, body: Mapping[str, Any]) -> EndpointRequest:
    """Read a PUT's body; raises `NotSupported` for Kubernetes and another way to ask than by key."""
    properties = body.get("properties") or {}
    if compute := properties.get("compute"):
        raise NotSupported(
            f"Endpoint '{name}' is on the compute {str(compute).rpartition('/')[2]}, as one of Kubernetes is, which isn't used "
            "here. Make a managed endpoint (ManagedOnlineEndpoint): it runs on this machine."
        )
    mode = str(properties.get("authMode") or "Key")
    if mode.lower() != "key":
        raise NotSupported(f"Endpoint '{name}' has auth_mode {mode}. Endpoints are opened by key here: auth_mode key.")
    return EndpointRequest(
        traffic_percent=_percents(name, "traffic", properties.get("traffic") or {}),
        mirror_percent=_percents(name, "mirror_traffic", properties.get("mirrorTraffic") or {}),
        tags=texts(body.get("tags")),
        echoes={ECHO: dict(body)},
    )


def _percents(name: str, what: str, shares: Any) -> dict[str, int]:
    if not isinstance(shares, Mapping) or not all(_is_whole(share) for share in shares.values()):
        raise InvalidParameter(
            f"Endpoint '{name}' has {what} {shares}, expected whole percents by deployment.", param=what
        )
    return {str(key): int(share) for key, share in shares.items()}


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
        "mirrorTraffic": dict(endpoint.mirror_percent),
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
    own = {name: value for name, value in (properties.get("properties") or {}).items() if name.startswith(OWN)}
    scale = faults.attempt(lambda: _scale(properties.get("scaleSettings") or {}, body.get("sku") or {}, own), None)
    ttl_s = faults.attempt(lambda: ttl_of(str(own[TTL])), None) if TTL in own else None
    logs_requests = _truth(own.get(LOG_REQUESTS))
    if LOG_REQUESTS in own and logs_requests is None:
        faults.add(f"properties: {LOG_REQUESTS} is {own[LOG_REQUESTS]!r}, expected true or false.")
    engine = faults.attempt(lambda: engine_named(str(own[ENGINE])), None) if ENGINE in own else None
    faults.add(
        *(f"properties: {name} is unknown.{_similar(name)}" for name in own if name not in (*_ASKED, *_ANSWERED))
    )
    settings = properties.get("requestSettings") or {}
    request_timeout_s = _seconds(settings.get("requestTimeout"), DEFAULT_TIMEOUT_S)
    faults.add(*_request_faults(settings, request_timeout_s))
    faults.add(*_liveness_faults(properties.get("livenessProbe") or {}))
    faults.add(*_readiness_faults(properties.get("readinessProbe") or {}))
    if str(properties.get("egressPublicNetworkAccess") or "Enabled").lower() != "enabled":
        faults.add("egress_public_network_access is disabled, which isn't supported: a worker's network isn't cut off.")
    if faults:
        raise NotSupported(f"Deployment '{name}' can't be made.", tuple(faults))
    return DeploymentRequest(
        model=model_reference(name, properties),
        initial_delay_s=_start_limit_s(properties.get("livenessProbe") or {}),
        request_timeout_s=request_timeout_s,
        instance_type=str(properties.get("instanceType") or ""),
        scale=scale,
        ttl_s=ttl_s,
        logs_requests=logs_requests,
        engine=engine,
        echoes={ECHO: dict(body)},
    )


def _request_faults(settings: Mapping[str, Any], timeout_s: float) -> Iterator[str]:
    """Yield what of `request_settings` doesn't happen: a worker has as many requests as it answers together; others wait."""
    concurrent, most = settings.get("maxConcurrentRequestsPerInstance"), DEFAULTS.requests_at_once
    if concurrent not in (None, most):
        yield (
            f"request_settings: max_concurrent_requests_per_instance is {concurrent!r}, which isn't supported: a worker "
            f"answers {most} at once, and the others wait. Leave it out."
        )
    wait_s = _seconds(settings.get("maxQueueWait"), timeout_s)
    if wait_s != timeout_s:
        yield (
            f"request_settings: max_queue_wait_ms is {wait_s * MILLISECONDS:g}, which isn't supported: a request may wait as "
            f"long as it may take, request_timeout_ms {timeout_s * MILLISECONDS:g}. Leave it out."
        )


_SCALE_KEYS = {
    "minInstances": "min_instances",
    "maxInstances": "max_instances",
    "targetUtilizationPercentage": "target_utilization_percentage",
}


def _scale(settings: Mapping[str, Any], sku: Mapping[str, Any], own: Mapping[str, Any]) -> Scale:
    """Return how many workers `instance_count`, `scale_settings` or our own properties ask for.

    Raises `InvalidParameter` with all faults.
    """
    if SCALE in own or IDLE_MINUTES in own:
        return _own_scale(settings, sku, own)
    kind = str(settings.get("scaleType") or "Default")
    capacity = sku.get("capacity")
    capacity = 1 if capacity is None else capacity
    faults = Faults()
    if not _is_whole(capacity):
        faults.add(f"instance_count is {capacity!r}, expected a whole number.")
    wrong = {
        key: settings[key] for key in _SCALE_KEYS if settings.get(key) is not None and not _is_whole(settings[key])
    }
    faults.add(
        *(f"scale_settings: {_SCALE_KEYS[key]} is {value!r}, expected a whole number." for key, value in wrong.items())
    )
    if kind.lower() not in ("default", "targetutilization"):
        faults.add(f"scale_settings: the type is {kind}, expected default or target_utilization.")
    elif kind.lower() == "default":
        extra = [_SCALE_KEYS[key] for key in _SCALE_KEYS if settings.get(key) is not None]
        faults.add(
            *(f"scale_settings: {name} is of the type target_utilization only. Say instance_count." for name in extra)
        )
    faults.require_none("The number of instances can't be.")
    if kind.lower() == "default":
        scale = Scale(int(capacity), int(capacity))
    else:
        least, most = (_whole(settings.get(key), 1) for key in ("minInstances", "maxInstances"))
        scale = Scale(
            least,
            most,
            target_percent=_whole(settings.get("targetUtilizationPercentage"), DEFAULT_TARGET_PERCENT),
            polling_s=_seconds(settings.get("pollingInterval"), DEFAULT_POLLING_S),
        )
        if capacity not in (1, least):
            faults.add(
                f"instance_count is {capacity}, but scale_settings say {least} to {most} by load, which begins with the least. "
                "Leave instance_count out."
            )
    faults.attempt(lambda: require_scale(scale), None)
    faults.require_none("The number of instances can't be.")
    return scale


def _own_scale(settings: Mapping[str, Any], sku: Mapping[str, Any], own: Mapping[str, Any]) -> Scale:
    """Return the scale of our own properties: Azure's SDK sends no other by load for a managed deployment."""
    faults = Faults()
    if SCALE not in own:
        faults.add(f"properties: {IDLE_MINUTES} needs {SCALE}, such as 0:3.")
    if str(settings.get("scaleType") or "Default").lower() != "default" or sku.get("capacity") not in (None, 1):
        faults.add(f"properties: {SCALE} takes the place of scale_settings and instance_count; leave these out.")
    try:
        idle_minutes = float(own[IDLE_MINUTES]) if IDLE_MINUTES in own else None
    except ValueError:
        faults.add(f"properties: {IDLE_MINUTES} is '{own[IDLE_MINUTES]}', expected a number.")
        idle_minutes = None
    scale = faults.attempt(lambda: scale_by_load(str(own.get(SCALE, "1:1")), idle_minutes), Scale())
    faults.attempt(lambda: require_scale(scale), None)
    faults.require_none("The number of instances can't be.")
    return scale


def _truth(value: Any) -> bool | None:
    return {"true": True, "false": False}.get(str(value).lower())


def _similar(name: str) -> str:
    return did_you_mean(name, _ASKED, 1)


def _whole(number: Any, default: int) -> int:
    return default if number is None else int(number)


def _scale_body(scale: Scale, own: Mapping[str, Any]) -> dict[str, Any]:
    if scale.is_fixed or SCALE in own:
        return {"scaleType": "Default"}
    return {
        "scaleType": "TargetUtilization",
        "minInstances": scale.min_instances,
        "maxInstances": scale.max_instances,
        "targetUtilizationPercentage": scale.target_percent,
        "pollingInterval": f"PT{scale.polling_s:g}S",
    }


def _liveness_faults(probe: Mapping[str, Any]) -> Iterator[str]:
    """Return what of `liveness_probe` doesn't happen; the rest of it says how long a worker may take to start.

    Azure's own default time-out, which exported files have, means the same as none.
    """
    happens: dict[str, float] = {"timeout": PROBE_TIMEOUT_S, "successThreshold": PROBE_SUCCESSES}
    if probe.get("timeout") == AZURE_PROBE_TIMEOUT:
        del happens["timeout"]
    return _probe_faults("liveness_probe", probe, happens)


def _readiness_faults(probe: Mapping[str, Any]) -> Iterator[str]:
    """Return what of `readiness_probe` doesn't happen."""
    happens: dict[str, float] = {"timeout": PROBE_TIMEOUT_S, "successThreshold": PROBE_SUCCESSES}
    happens |= {"period": READINESS_PERIOD_S, "failureThreshold": READINESS_FAILURES, "initialDelay": 0.0}
    return _probe_faults("readiness_probe", probe, happens)


def _probe_faults(probe_name: str, probe: Mapping[str, Any], happens: Mapping[str, float]) -> Iterator[str]:
    for name, value in happens.items():
        written = probe.get(name)
        number = _seconds(written, value) if isinstance(written, str) else written
        if number not in (None, value):
            yield (
                f"{probe_name}: {_PROBE_KEYS[name]} is {number!r}, which isn't supported: it is {value:g} here, whatever a "
                "deployment says. Leave it out."
            )


def _seconds(duration: Any, default: float) -> float:
    return seconds_of(str(duration)) if duration else default


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
    own = requested.get("properties") or {}
    properties = {
        **requested,
        "endpointComputeType": MANAGED,
        "scaleSettings": _scale_body(deployment.scale, own),
        "model": deployment.model if _was_taken_back(deployment) else requested.get("model") or deployment.model,
        "provisioningState": provisioning_state(deployment),
        "properties": {**own, **_own_properties(deployment, own)},
    }
    capacity = 1 if SCALE in own else max(1, deployment.scale.min_instances)
    sku = {"name": "Default", **(echo.get("sku") or {}), "capacity": capacity}
    return own_resource(
        *("onlineEndpoints", deployment.endpoint, "deployments", deployment.name),
        properties=properties,
        location=LOCATION,
        kind="Managed",
        sku=sku,
        tags=dict(echo.get("tags") or {}),
        systemData=system_data(deployment.created_by, deployment.created_at),
    )


def _was_taken_back(deployment: Deployment) -> bool:
    return deployment.rollout is not None and deployment.rollout.error is not None


def _own_properties(deployment: Deployment, requested: Mapping[str, Any]) -> dict[str, str]:
    """Return what Azure has no field for, as its resources' own properties, which are texts."""
    own = {"mafunzo.status": str(deployment.status)}
    if deployment.logs_requests or LOG_REQUESTS in requested:  # it may have been changed since
        own[LOG_REQUESTS] = str(deployment.logs_requests).lower()
    if deployment.replicas:
        statuses = Counter(str(worker.status) for worker in deployment.workers)
        own["mafunzo.workers"] = ", ".join(f"{count} {status}" for status, count in statuses.items())
    if deployment.supervision.engine:
        own["mafunzo.computes_with"] = deployment.supervision.engine
    if deployment.expires_at is not None:
        own["mafunzo.expires_at"] = deployment.expires_at.isoformat()
    return own


def provisioning_state(deployment: Deployment) -> str:
    """Return a deployment's provisioning state, in Azure's word.

    It is made once it has all of its workers, and stays so, whatever becomes of them: it is idle, or one starts again.
    """
    if deployment.status is DeploymentStatus.DELETING:
        return "Deleting"
    if deployment.rollout is not None:
        return "Updating" if deployment.rollout.error is None else "Failed"
    if failed_worker(deployment) is not None:
        return "Failed"
    was_healthy = any(worker.supervision.was_healthy for worker in deployment.workers)
    is_made = deployment.has_all_workers or (was_healthy and not deployment.is_new)
    return "Succeeded" if is_made else "Creating"


def failed_worker(deployment: Deployment) -> Deployment | None:
    """Return the worker whose failure is its deployment's: any while that is made, later the one that answers best."""
    workers = deployment.workers if deployment.is_new else deployment.workers[:1]
    return next((worker for worker in workers if worker.status.has_failed), None)
