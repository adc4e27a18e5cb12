"""The files that `az ml` takes, translated to the very bodies that the Azure SDK sends for them; jobs are in `files.job`."""

from collections.abc import Callable, Mapping
from typing import Any

import yaml

from mafunzo.entrypoints.azure.files.job import Body, Local, address, job_body, node_bodies, sources
from mafunzo.entrypoints.azure.files.kind import FileKind
from mafunzo.entrypoints.azure.wire.compute import AML_COMPUTE
from mafunzo.entrypoints.azure.wire.endpoint import MANAGED
from mafunzo.entrypoints.azure.wire.envelope import LOCATION
from mafunzo.errors import Faults, InvalidFile

_TIERS = {"dedicated": "Dedicated", "low_priority": "LowPriority", "lowpriority": "LowPriority"}


def body_of(kind: FileKind, document: Mapping[str, Any], local: Local) -> Body:
    """Return the PUT request's body for what a file describes; its keys have been checked."""
    return _TRANSLATIONS[kind](document, local)


# Assets


def _files(document: Mapping[str, Any], local: Local, noun: str, default: str) -> Body:
    """Return the body of a model or of data: its type, and where its files are."""
    kind = str(document.get("type") or default)
    uri = address("path", str(document["path"]), kind, local)
    return _asset_body(document, **{f"{noun}Type": kind, f"{noun}Uri": uri})


def _environment(document: Mapping[str, Any], local: Local) -> Body:
    conda = document.get("conda_file")
    if isinstance(conda, str):
        conda = local.conda("conda_file", conda)
    fields = {
        "image": document.get("image"),
        "condaFile": yaml.safe_dump(conda) if conda else None,
        "build": document.get("build"),
        "osType": document.get("os_type"),
        "inferenceConfig": document.get("inference_config"),
    }
    return _asset_body(document, **{key: value for key, value in fields.items() if value})


_NOT_OF_SPEC = ("properties", "jobs", "additional_includes")


def _component(document: Mapping[str, Any], local: Local) -> Body:
    """Return a component's body, in which every number of an input is a string."""
    spec = {key: value for key, value in document.items() if key not in _NOT_OF_SPEC and value is not None}
    spec |= {key: str(spec[key]) for key in ("name", "version") if key in spec}
    if "inputs" in spec:
        spec["inputs"] = {name: _declared(declaration or {}) for name, declaration in spec["inputs"].items()}
    if "outputs" in spec:
        spec["outputs"] = {
            name: {"type": "uri_folder", **(declaration or {})} for name, declaration in spec["outputs"].items()
        }
    spec |= sources("", document, local)
    if "jobs" in document:
        spec["jobs"] = node_bodies(document, local)
    return _asset_body(document, componentSpec=spec)


def _declared(declaration: Mapping[str, Any]) -> Body:
    texts = {key: str(declaration[key]) for key in ("default", "min", "max") if declaration.get(key) is not None}
    return {**declaration, **texts}


def _asset_body(document: Mapping[str, Any], **fields: Any) -> Body:
    return {
        "properties": {
            "description": document.get("description"),
            "tags": dict(document.get("tags") or {}),
            "properties": dict(document.get("properties") or {}),
            "isAnonymous": False,
            "isArchived": False,
            **fields,
        }
    }


# Computes, endpoints, deployments


def _compute(document: Mapping[str, Any], local: Local) -> Body:
    tier = str(document.get("tier") or "dedicated").lower()
    idle_s = document.get("idle_time_before_scale_down")
    scale = {
        "minNodeCount": document.get("min_instances"),
        "maxNodeCount": document.get("max_instances"),
        "nodeIdleTimeBeforeScaleDown": None if idle_s is None else f"PT{idle_s}S",
    }
    inner = {"vmSize": str(document["size"]), "vmPriority": _TIERS[tier], "scaleSettings": scale, "osType": "Linux"}
    return _placed(document, {"computeType": AML_COMPUTE, "properties": inner})


def _endpoint(document: Mapping[str, Any], local: Local) -> Body:
    return _placed(
        document,
        {
            "authMode": document.get("auth_mode") or "Key",
            "properties": dict(document.get("properties") or {}),
            "traffic": document.get("traffic") or {},
            "mirrorTraffic": document.get("mirror_traffic") or {},
        },
    )


def _deployment(document: Mapping[str, Any], local: Local) -> Body:
    capacity, model = document.get("instance_count"), document["model"]
    properties = {
        "model": local.model("model", model) if isinstance(model, Mapping) else model,
        "properties": dict(document.get("properties") or {}),
        "environmentId": document.get("environment"),
        "codeConfiguration": document.get("code_configuration"),
        "environmentVariables": dict(document.get("environment_variables") or {}),
        "requestSettings": _request_settings(document.get("request_settings") or {}),
        "scaleSettings": _scale_settings(document.get("scale_settings") or {}),
        "livenessProbe": _probe(document.get("liveness_probe") or {}),
        "readinessProbe": _probe(document.get("readiness_probe") or {}),
        "appInsightsEnabled": document.get("app_insights_enabled"),
        "egressPublicNetworkAccess": document.get("egress_public_network_access"),
        "instanceType": document.get("instance_type"),
        "dataCollector": document.get("data_collector"),
        "endpointComputeType": str(document.get("type") or MANAGED).capitalize(),
    }
    sku = {"name": "Default", "capacity": 1 if capacity is None else int(capacity)}
    return {**_placed(document, properties), "sku": sku}


def _batch_endpoint(document: Mapping[str, Any], local: Local) -> Body:
    name = (document.get("defaults") or {}).get("deployment_name")
    return _placed(
        document,
        {
            "authMode": str(document.get("auth_mode") or "aad_token").replace("_", ""),
            "properties": dict(document.get("properties") or {}),
            "defaults": {"deploymentName": str(name)} if name else None,
        },
    )


def _batch_deployment(document: Mapping[str, Any], local: Local) -> Body:
    """Return the body of a batch deployment, whose settings stand below `settings`, or in older files beside the other keys."""
    settings = _batch_settings(document)
    model, resources = document["model"], dict(document.get("resources") or {})
    count = resources.pop("instance_count", settings.get("instance_count"))
    properties = {
        "model": {
            "referenceType": "Id",
            "assetId": local.model("model", model) if isinstance(model, Mapping) else model,
        },
        "compute": document.get("compute"),
        "properties": dict(document.get("properties") or {}),
        "environmentId": document.get("environment"),
        "codeConfiguration": document.get("code_configuration"),
        "environmentVariables": dict(settings.get("environment_variables") or {}),
        "resources": {**resources, "instanceCount": 1 if count is None else int(count)},
        "outputAction": str(settings.get("output_action") or "append_row").replace("_", ""),
        "outputFileName": settings.get("output_file_name"),
        "errorThreshold": settings.get("error_threshold"),
        "retrySettings": settings.get("retry_settings"),
        "loggingLevel": settings.get("logging_level"),
    }
    counts = {"miniBatchSize": "mini_batch_size", "maxConcurrencyPerInstance": "max_concurrency_per_instance"}
    properties |= {name: int(settings[key]) for name, key in counts.items() if settings.get(key) is not None}
    return _placed(document, properties)


def _batch_settings(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a batch deployment, from both places; raises `InvalidFile` for one that stands in both."""
    below = dict(document.get("settings") or {})
    faults = Faults()
    faults.add(*(f"settings.{key}: {key} stands beside settings too. Keep one." for key in below if key in document))
    if "instance_count" in below and "instance_count" in (document.get("resources") or {}):
        faults.add("settings.instance_count: resources have one too. Keep one.")
    faults.require_none("The settings can't be.", InvalidFile)
    return {**document, **below}


def _placed(document: Mapping[str, Any], properties: Body) -> Body:
    """Return the body of a resource that is somewhere: here."""
    properties = {"description": document.get("description"), **properties}
    return {"location": LOCATION, "properties": properties, "tags": dict(document.get("tags") or {})}


def _request_settings(settings: Mapping[str, Any]) -> Body:
    times = {"requestTimeout": "request_timeout_ms", "maxQueueWait": "max_queue_wait_ms"}
    body: Body = {
        name: f"PT{int(settings[key]) / 1000}S" for name, key in times.items() if settings.get(key) is not None
    }
    concurrent = settings.get("max_concurrent_requests_per_instance")
    return body if concurrent is None else {**body, "maxConcurrentRequestsPerInstance": int(concurrent)}


def _scale_settings(settings: Mapping[str, Any]) -> Body:
    kind = str(settings.get("type") or "").title().replace("_", "")
    counts = {
        "minInstances": "min_instances",
        "maxInstances": "max_instances",
        "targetUtilizationPercentage": "target_utilization_percentage",
    }
    body: Body = {name: settings[key] for name, key in counts.items() if key in settings}
    if settings.get("polling_interval") is not None:
        body["pollingInterval"] = f"PT{int(settings['polling_interval'])}S"
    return {**body, "scaleType": kind} if kind else body


def _probe(probe: Mapping[str, Any]) -> Body:
    times = {"initialDelay": "initial_delay", "period": "period", "timeout": "timeout"}
    counts = {"failureThreshold": "failure_threshold", "successThreshold": "success_threshold"}
    body: Body = {name: f"PT{int(probe[key])}S" for name, key in times.items() if probe.get(key) is not None}
    return body | {name: probe[key] for name, key in counts.items() if probe.get(key) is not None}


_TRANSLATIONS: Mapping[FileKind, Callable[[Mapping[str, Any], Local], Body]] = {
    FileKind.MODEL: lambda document, local: _files(document, local, "model", "custom_model"),
    FileKind.DATA: lambda document, local: _files(document, local, "data", "uri_folder"),
    FileKind.ENVIRONMENT: _environment,
    FileKind.COMPUTE: _compute,
    FileKind.COMPONENT: _component,
    FileKind.JOB: job_body,
    FileKind.ENDPOINT: _endpoint,
    FileKind.DEPLOYMENT: _deployment,
    FileKind.BATCH_ENDPOINT: _batch_endpoint,
    FileKind.BATCH_DEPLOYMENT: _batch_deployment,
}
