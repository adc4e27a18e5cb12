"""Jobs in Azure's JSON: the bodies of PUT requests, and the answers of GET.

A pipeline job's nodes name components by their ids; a command job is a pipeline of one node here, and so is a sweep, whose
node is its trial. What isn't translated is refused, so that nothing is silently left out; the body is stored and returned
as sent.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from mafunzo.entities import component_file
from mafunzo.entities.component import PARENT_INPUT, PATH_TYPES, Component, Input, Node, Output
from mafunzo.entities.job import Destination, Job
from mafunzo.entities.job_request import JobChange, JobRequest, OwnCommand
from mafunzo.entities.reference import PathInput
from mafunzo.entrypoints.azure.reference import compute_name
from mafunzo.entrypoints.azure.wire.component import (
    asset_name,
    destination_from_body,
    input_from_body,
    node_from_body,
    require_no_services,
    shown_address,
    source_of,
    with_file_keys,
)
from mafunzo.entrypoints.azure.wire.envelope import (
    ECHO,
    arm_id,
    compute_id,
    echo_of,
    is_true,
    own_resource,
    system_data,
    texts,
    without_nulls,
)
from mafunzo.entrypoints.azure.wire.finetuning import FINE_TUNING, pipeline_properties
from mafunzo.entrypoints.azure.wire.run import best_of, kind_of, output_id, status_of
from mafunzo.entrypoints.azure.wire.sweep import sweep_from_body, swept_inputs, trial_from_body
from mafunzo.errors import Faults, InvalidParameter, MafunzoError, NotSupported

COMMAND = "command"
"""The step of a command job."""
TRIAL = "trial"
"""The node of a sweep job, of which its steps are made."""
FILE_SOURCE = "YAML.JOB"
"""By which the SDK says that a pipeline comes from a file."""


def job_from_body(name: str, body: Mapping[str, Any]) -> JobRequest:
    """Read a PUT's body; raises `NotSupported` or `InvalidParameter` with all faults."""
    properties = body.get("properties") or {}
    readers = {
        "Pipeline": _pipeline_job,
        "Command": _command_job,
        "Sweep": _sweep_job,
        FINE_TUNING: _finetuning_job,
    }
    kind = properties.get("jobType")
    if kind not in readers:
        raise NotSupported(f"Job '{name}' is a {kind} job. Command, pipeline, sweep and fine-tuning jobs run here.")
    settings = properties.get("settings") or {}
    change = change_from_body(properties, "isArchived")
    return replace(
        readers[kind](name, properties),
        computes=_computes(properties),
        display_name=str(properties.get("displayName") or ""),
        experiment=str(properties.get("experimentName") or "Default"),
        force_rerun=is_true(settings.get("force_rerun")),
        continue_on_step_failure=kind == "Sweep" or is_true(settings.get("continue_on_step_failure")),
        tags=change.tags,
        description=change.description,
        user_properties=properties.get("properties"),
        is_archived=change.is_archived,
        echoes={ECHO: dict(body)},
    )


def _pipeline_job(name: str, properties: Mapping[str, Any]) -> JobRequest:
    component = asset_name(properties.get("componentId")) or None
    nodes = _nodes(name, properties)
    if not (nodes or component):
        raise InvalidParameter(f"Job '{name}' has no nodes. A pipeline runs one component or more.")
    return replace(_request(name, properties, nodes), component=component)


def _command_job(name: str, properties: Mapping[str, Any]) -> JobRequest:
    commands = {COMMAND: OwnCommand(_command(name, properties), source_of(properties))}
    return replace(_request(name, properties, {COMMAND: _only_node(name, properties)}), commands=commands)


def _sweep_job(name: str, properties: Mapping[str, Any]) -> JobRequest:
    """Read a sweep. Its outputs are the best trial's, so that nothing of them is bound or goes anywhere before there is one."""
    sweep = sweep_from_body(name, properties)
    trial = trial_from_body(properties)
    command = _command(name, trial)
    command = replace(command, inputs={**command.inputs, **swept_inputs(sweep)})
    node = replace(_only_node(name, trial), name=TRIAL, outputs={}, destinations=_destinations(properties))
    request = _request(name, {**properties, "outputs": {}}, {TRIAL: node})
    return replace(request, commands={COMMAND: OwnCommand(command, source_of(trial))}, sweep=sweep)


def _finetuning_job(name: str, properties: Mapping[str, Any]) -> JobRequest:
    return replace(_pipeline_job(name, pipeline_properties(name, properties)), has_model_defaults=True)


def _request(name: str, properties: Mapping[str, Any], nodes: Mapping[str, Node]) -> JobRequest:
    """Return a request for what `nodes` do with the job's inputs and outputs."""
    inputs = _input_values(properties)
    pipeline = Component(
        name=str(properties.get("displayName") or name),
        version="1",
        kind="pipeline",
        inputs={key: Input(key, _type_of(value)) for key, value in inputs.items()},
        outputs=_outputs(properties),
        nodes=nodes,
    )
    return JobRequest(name, pipeline, inputs, destinations=_destinations(properties))


def _outputs(properties: Mapping[str, Any]) -> dict[str, Output]:
    outputs = properties.get("outputs") or {}
    return {key: Output(key, str(output.get("jobOutputType") or "uri_folder")) for key, output in outputs.items()}


def _destinations(properties: Mapping[str, Any]) -> dict[str, Destination]:
    outputs = properties.get("outputs") or {}
    return {key: destination for key, output in outputs.items() if (destination := destination_from_body(key, output))}


def _nodes(job: str, properties: Mapping[str, Any]) -> dict[str, Node]:
    """Return a pipeline's nodes; all faults come at once.

    What a program binds to a parameter that is None comes without that input of the job, and is left out. In a file it is a
    wrong name.
    """
    inputs = set(properties.get("inputs") or {})
    is_file = (properties.get("settings") or {}).get("_source") == FILE_SOURCE
    nodes, faults, is_unsupported = {}, Faults(), False
    for name, body in (properties.get("jobs") or {}).items():
        try:
            node = node_from_body(name, body)
            nodes[name] = node if is_file else _without_missing(node, inputs)
        except MafunzoError as error:
            faults.add(*(error.faults or [error.message]))
            is_unsupported |= isinstance(error, NotSupported)
    if faults:
        raise (NotSupported if is_unsupported else InvalidParameter)(f"Job '{job}' can't be run.", tuple(faults))
    return nodes


def _without_missing(node: Node, inputs: set[str]) -> Node:
    def drop_missing(bindings: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: value
            for name, value in bindings.items()
            if not (
                isinstance(value, str) and (match := PARENT_INPUT.fullmatch(value.strip())) and match[1] not in inputs
            )
        }

    return replace(node, inputs=drop_missing(node.inputs), bound=drop_missing(node.bound))


def _command(name: str, properties: Mapping[str, Any]) -> Component:
    """Return a command job's command, or a sweep's trial, as a component of just the inputs and outputs that it has.

    It runs each time that it is submitted, as on Azure, where only pipelines take steps from earlier jobs.
    """
    if not properties.get("command"):
        raise InvalidParameter(f"Job '{name}' has no command. Say what to run.", param="command")
    require_no_services(f"Job '{name}'", properties)
    inputs = _input_values(properties)
    return Component(
        name=COMMAND,
        version="1",
        kind="command",
        inputs={key: Input(key, _type_of(value)) for key, value in inputs.items()},
        outputs=_outputs(properties),
        command=str(properties["command"]),
        resources=component_file.resources_from_dict(f"Job '{name}'", with_file_keys(properties)),
        environment=texts(properties.get("environmentVariables")),
        is_deterministic=False,
    )


def _only_node(name: str, properties: Mapping[str, Any]) -> Node:
    """Return the node of a command job, whose inputs and outputs are the job's."""
    return Node(
        name=COMMAND,
        component=COMMAND,
        inputs={key: f"${{{{parent.inputs.{key}}}}}" for key in _input_values(properties)},
        outputs={key: f"${{{{parent.outputs.{key}}}}}" for key in properties.get("outputs") or {}},
        timeout_s=component_file.timeout_from_dict(f"Job '{name}'", with_file_keys(properties)),
    )


def _input_values(properties: Mapping[str, Any]) -> dict[str, str | PathInput]:
    """Return a job's inputs that have a value."""
    values = without_nulls({key: input_from_body(body) for key, body in (properties.get("inputs") or {}).items()})
    return {key: value if isinstance(value, PathInput) else str(value) for key, value in values.items()}


def _type_of(value: str | PathInput) -> str:
    """A literal comes as text, whatever it is: the node that takes it knows its type."""
    return "string" if isinstance(value, str) or value.type not in PATH_TYPES else value.type


def _computes(properties: Mapping[str, Any]) -> dict[str, str]:
    """Return the computes that the job and its nodes name, by who names them; without those that are bound to inputs."""
    compute_ids = {
        "compute": properties.get("computeId"),
        "default_compute": (properties.get("settings") or {}).get("default_compute"),
    }
    compute_ids |= {
        f"compute of '{name}'": node.get("computeId") for name, node in (properties.get("jobs") or {}).items()
    }
    return {who: compute_name(str(id)) for who, id in compute_ids.items() if id and "${{" not in str(id)}


def job_body(job: Job, pages: str) -> dict[str, Any]:
    """Return a job as a GET answers it; `pages` is the address of its web page."""
    echo = _with_ids(echo_of(job.echoes).get("properties") or {})
    outputs = echo.get("outputs") or {name: {"jobOutputType": "uri_folder"} for name in job.outputs}
    output_bodies = {
        name: {
            "mode": "ReadWriteMount",
            **without_nulls(output),
            "uri": shown_address(str(output.get("uri") or output_id(job.name, name)), job.name, name),
        }
        for name, output in outputs.items()
    }
    properties = {
        **echo,
        "jobType": kind_of(job),
        "displayName": job.display_name,
        "experimentName": job.experiment,
        "status": status_of(job),
        "tags": dict(job.tags),
        "properties": {**job.user_properties, **best_of(job.name, job.properties)},
        "services": {"Studio": {"endpoint": pages, "jobServiceType": "Studio", "status": None, "errorMessage": None}},
        "outputs": output_bodies,
        "inputs": {name: _with_mode(value) for name, value in (echo.get("inputs") or {}).items()},
        "isArchived": job.is_archived,
    }
    if job.description is not None:
        properties["description"] = job.description
    if properties["jobType"] == "Pipeline":
        properties["jobs"] = {name: _with_places(job, name, node) for name, node in (echo.get("jobs") or {}).items()}
    creation = system_data(job.created_by, job.created_at)
    return own_resource("jobs", job.name, properties=properties, systemData=creation)


def broken_job_body(job: Job, pages: str) -> dict[str, Any]:
    """Return what a list shows of a job whose body can't be made of what was sent."""
    told = f"What was sent of this job can't be shown. `mafunzo job show {job.name}` shows what it is."
    return job_body(replace(job, echoes={}, description=told), pages)


_IDS: Mapping[str, Callable[[str], str]] = {
    "codeId": partial(arm_id, noun="codes"),
    "environmentId": partial(arm_id, noun="environments"),
    "componentId": partial(arm_id, noun="components"),
    "computeId": compute_id,
}


def _with_ids(part: Mapping[str, Any]) -> dict[str, Any]:
    """Return the properties of a job, of a trial or of a node with ids in the one form that Azure answers in."""
    changed: dict[str, Any] = {key: form(str(part[key])) for key, form in _IDS.items() if part.get(key)}
    if isinstance(part.get("trial"), Mapping):
        changed["trial"] = _with_ids(part["trial"])
    if isinstance(part.get("jobs"), Mapping):
        changed["jobs"] = {name: _with_ids(node) for name, node in part["jobs"].items()}
    return {**part, **changed}


def _with_places(job: Job, name: str, node: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a node with the addresses of its outputs as they are once it runs."""
    outputs = {
        output: {**body, "uri": shown_address(str(body["uri"]), f"{job.name}.{name}", output)}
        for output, body in (node.get("outputs") or {}).items()
        if isinstance(body, Mapping) and body.get("uri")
    }
    return {**node, "outputs": {**node["outputs"], **outputs}} if outputs else node


def _with_mode(binding: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return an input with Azure's default mode where it has none, if it is a path."""
    is_path = "uri" in binding and "value" not in binding
    return {"mode": "ReadOnlyMount", **without_nulls(binding)} if is_path else binding


def request_of(job: Job) -> JobRequest | None:
    """Return the request in a job's stored body; None for a job of another entrypoint."""
    body = job.echoes.get(ECHO)
    return None if body is None else job_from_body(job.name, body)


def change_from_body(body: Mapping[str, Any], is_archived: str = "hidden") -> JobChange:
    """Read a PATCH of a run, or the same from a job's properties, which name by `is_archived` whether it is."""
    tags, properties = body.get("tags"), body.get("properties")
    return JobChange(
        display_name=body.get("displayName"),
        description=body.get("description"),
        tags=None if tags is None else texts(tags),
        user_properties=None if properties is None else texts(properties),
        is_archived=body.get(is_archived),
    )
