"""Batch endpoints, their deployments and invocations in Azure's JSON. What isn't honoured is refused by name."""

from collections.abc import Mapping
from typing import Any

from mafunzo.entities.batch import (
    BatchDeployment,
    BatchDeploymentRequest,
    BatchEndpoint,
    BatchEndpointRequest,
    Invocation,
)
from mafunzo.entities.job import Job, Value
from mafunzo.entities.reference import AssetReference, PathInput
from mafunzo.entrypoints.azure.reference import compute_name
from mafunzo.entrypoints.azure.wire.component import input_from_body
from mafunzo.entrypoints.azure.wire.endpoint import OWN, model_reference
from mafunzo.entrypoints.azure.wire.envelope import (
    ECHO,
    LOCATION,
    compute_id,
    echo_of,
    own_resource,
    system_data,
    texts,
    without_nulls,
)
from mafunzo.entrypoints.azure.wire.run import status_of
from mafunzo.errors import Faults, InvalidParameter, NotSupported

BATCH_ENDPOINTS = "batchEndpoints"
OUTPUT = "score"
"""What Azure calls the output of a batch endpoint's job."""
AUTH_MODES = ("aadtoken", "")
TABLE = "predictions.csv"
"""Azure's own name of the file of answers."""
_NOT_SUPPORTED: Mapping[str, str] = {
    "codeConfiguration": "code_configuration (a scoring script of one's own) isn't supported; leave it out.",
    "environmentId": "environment isn't supported; leave it out: the model brings all that it needs.",
    "environmentVariables": "environment_variables aren't supported: no script of one's own would read them; leave them out.",
    "retrySettings": "retry_settings aren't supported; leave them out: a row that fails has its error in the answers, and a "
    "job that is cut off goes on by itself.",
    "deploymentConfiguration": "a pipeline component isn't deployed here; submit it as a job. Deploy a model "
    "(ModelBatchDeployment).",
}
_NOT_INVOKED: Mapping[str, str] = {
    "outputData": "outputs: where answers go can't be chosen; they are the output 'score' of the job. Leave it out.",
    "outputDataset": "output_dataset can't be chosen: the answers are the output 'score' of the job. Leave it out.",
    "dataset": "dataset isn't supported. Give the rows as input.",
    "compute": "compute is the deployment's. Leave it out.",
    "retrySettings": "retry_settings aren't supported. Leave them out.",
}
_COUNTS = {"miniBatchSize": "mini_batch_size", "maxConcurrencyPerInstance": "max_concurrency_per_instance"}
_LEVELS = ("", "info")


def batch_endpoint_from_body(name: str, body: Mapping[str, Any]) -> BatchEndpointRequest:
    """Read a PUT's body; raises `NotSupported` for another way to ask than by token."""
    properties = body.get("properties") or {}
    mode = str(properties.get("authMode") or "")
    if mode.lower() not in AUTH_MODES:
        raise NotSupported(
            f"Batch endpoint '{name}' has auth_mode {mode}. Batch endpoints are opened by token: auth_mode aad_token."
        )
    return BatchEndpointRequest(
        default_deployment=str((properties.get("defaults") or {}).get("deploymentName") or ""),
        description=properties.get("description"),
        tags=texts(body.get("tags")),
        echoes={ECHO: dict(body)},
    )


def batch_endpoint_body(endpoint: BatchEndpoint, base: str) -> dict[str, Any]:
    """Return a batch endpoint as a GET answers it; `base` is the server's https address."""
    echo = echo_of(endpoint.echoes)
    resource = own_resource(BATCH_ENDPOINTS, endpoint.name, properties={})
    properties = {
        **(echo.get("properties") or {}),
        "authMode": "AADToken",
        "description": endpoint.description,
        "defaults": {"deploymentName": endpoint.default_deployment or None},
        "scoringUri": f"{base}{resource['id']}/jobs",
        "swaggerUri": None,
        "provisioningState": "Succeeded",
    }
    properties["properties"] = properties.get("properties") or {}
    return {
        **resource,
        "properties": properties,
        "location": LOCATION,
        "tags": dict(endpoint.tags),
        "systemData": system_data(endpoint.created_by, endpoint.created_at),
    }


def batch_deployment_from_body(name: str, body: Mapping[str, Any]) -> BatchDeploymentRequest:
    """Read a PUT's body; raises `NotSupported` with all that can't be done, `InvalidParameter` for the model's name."""
    properties = body.get("properties") or {}
    faults = Faults()
    faults.add(*(fault for key, fault in _NOT_SUPPORTED.items() if properties.get(key)))
    instances = (properties.get("resources") or {}).get("instanceCount")
    if instances not in (None, 1):
        faults.add(f"instance_count is {instances!r}, expected 1: a file is answered on one machine.")
    faults.add(
        *(
            f"resources: {key} isn't supported; leave it out."
            for key, value in (properties.get("resources") or {}).items()
            if key != "instanceCount" and value
        )
    )
    if str(properties.get("outputAction") or "AppendRow").lower() != "appendrow":
        faults.add("output_action is summary_only, which is for a scoring script of one's own. Say append_row.")
    if str(properties.get("loggingLevel") or "").lower() not in _LEVELS:
        faults.add(f"logging_level is {properties['loggingLevel']}, expected info: the job's log is as it is.")
    parameters = _parameters(properties, faults)
    if faults:
        raise NotSupported(f"Deployment '{name}' can't be made.", tuple(faults))
    return BatchDeploymentRequest(
        model=model_of(name, properties),
        parameters=parameters,
        compute=compute_name(str(properties.get("compute") or "")),
        description=properties.get("description"),
        tags=texts(body.get("tags")),
        echoes={ECHO: dict(body)},
    )


def model_of(deployment: str, properties: Mapping[str, Any]) -> AssetReference:
    """Return the version of a model that a deployment's properties name; raises `InvalidParameter` and `NotFound`."""
    return model_reference(deployment, {"model": (properties.get("model") or {}).get("assetId")})


def _parameters(properties: Mapping[str, Any], faults: Faults) -> dict[str, Value]:
    """Return the parameters of batch scoring that a deployment's settings, and its own properties `mafunzo.NAME`, stand for.

    As many rows are answered at once as the mini-batches have that are under way together.
    """
    counts = {key: properties[key] for key in _COUNTS if properties.get(key) is not None}
    wrong = {key: count for key, count in counts.items() if type(count) is not int or count < 1}
    faults.add(*(f"{_COUNTS[key]} is {count!r}, expected 1 or more." for key, count in wrong.items()))
    parameters: dict[str, Value] = {}
    if "miniBatchSize" in counts and not wrong:
        parameters["max_batch"] = counts["miniBatchSize"] * counts.get("maxConcurrencyPerInstance", 1)
    elif "maxConcurrencyPerInstance" in counts and not wrong:
        faults.add(
            "max_concurrency_per_instance needs mini_batch_size: their product is how many rows are answered at once."
        )
    if properties.get("errorThreshold") is not None:
        parameters["error_threshold"] = properties["errorThreshold"]
    parameters["output_file_name"] = str(properties.get("outputFileName") or TABLE)
    for key, value in (properties.get("properties") or {}).items():
        name = key.removeprefix(OWN)
        if name in parameters and key.startswith(OWN):
            faults.add(f"properties: {key} is given by the deployment's settings too. Keep one.")
        elif key.startswith(OWN):
            parameters[name] = str(value)
    return parameters


def batch_deployment_body(deployment: BatchDeployment) -> dict[str, Any]:
    """Return a deployment as a GET answers it."""
    echo = echo_of(deployment.echoes)
    requested = dict(echo.get("properties") or {})
    properties = {
        **requested,
        "model": requested.get("model") or {"referenceType": "Id", "assetId": deployment.model},
        "description": deployment.description,
        "outputAction": "AppendRow",
        "outputFileName": deployment.parameters.get("output_file_name"),
        "provisioningState": "Succeeded",
        "properties": requested.get("properties") or {},
    }
    if deployment.compute:
        properties["compute"] = compute_id(deployment.compute)
    return own_resource(
        *(BATCH_ENDPOINTS, deployment.endpoint, "deployments", deployment.name),
        properties=properties,
        location=LOCATION,
        tags=dict(deployment.tags),
        systemData=system_data(deployment.created_by, deployment.created_at),
    )


def invocation_from_body(body: Mapping[str, Any], deployment: str) -> Invocation:
    """Read an invocation; `deployment` is empty for the default. Raises `NotSupported` or `InvalidParameter`."""
    properties = body.get("properties") or {}
    faults = Faults()
    faults.add(*(fault for key, fault in _NOT_INVOKED.items() if properties.get(key)))
    faults.require_none("The endpoint can't be invoked so.", NotSupported)
    values = without_nulls({name: _input(value) for name, value in (properties.get("inputData") or {}).items()})
    paths = {name: value for name, value in values.items() if isinstance(value, PathInput)}
    if len(paths) != 1:
        given = f"{', '.join(paths)} are given" if paths else "none is given"
        raise InvalidParameter(
            f"An invocation answers one file or folder of rows, and {given}. Say input=Input(type='uri_file', path=...).",
            param="input",
        )
    (data,) = paths.values()
    own = {"errorThreshold": "error_threshold", "miniBatchSize": "max_batch", "outputFileName": "output_file_name"}
    overrides = {name: properties[key] for key, name in own.items() if properties.get(key) is not None}
    literals = {name: value for name, value in values.items() if name not in paths}
    more = properties.get("properties") or {}
    return Invocation(
        data=data,
        deployment=deployment,
        parameters={**overrides, **literals},
        job_name=str(properties.get("name") or ""),
        experiment=str(more.get("experimentName") or ""),
        output=OUTPUT,
    )


def _input(value: Any) -> Any:
    """Return an input as that of a job: the words of its type are written in capitals here."""
    if isinstance(value, Mapping) and value.get("jobInputType") in _TYPES:
        value = {**value, "jobInputType": _TYPES[value["jobInputType"]]}
    return input_from_body(value)


_TYPES = {"UriFile": "uri_file", "UriFolder": "uri_folder", "MLTable": "mltable", "Literal": "literal"}


def batch_job_body(job: Job) -> dict[str, Any]:
    """Return what an invocation, and a list of an endpoint's jobs, tell of a job."""
    properties = {"status": status_of(job), "experimentName": job.experiment, "displayName": job.display_name}
    creation = system_data(job.created_by, job.created_at)
    return own_resource("jobs", job.name, properties=properties, systemData=creation)
