"""A component in Azure's JSON (a registry's componentSpec): what it has besides a component's YAML file.

JSON spells keys of resources, distribution and limits in two ways, has ids and addresses where a file has names and paths, and
says where outputs go.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mafunzo.entities import component_file
from mafunzo.entities.asset import REGISTRY_SCOPE, Asset, AssetKey, AssetType, FolderType
from mafunzo.entities.asset_request import ComponentRequest
from mafunzo.entities.component import COMPUTE, PARENT_OUTPUT, Component, Input, Node, Source
from mafunzo.entities.job import PLACEHOLDER, ROOT, Destination, named_path
from mafunzo.entities.reference import AssetReference, JobOutputReference, PathInput, StoredPath
from mafunzo.entrypoints.azure.reference import parse_reference, stored_path
from mafunzo.entrypoints.azure.wire.asset import version_body, what_is_common
from mafunzo.entrypoints.azure.wire.envelope import DATASTORE, ECHO, echo_of, registry_id
from mafunzo.entrypoints.azure.wire.sweep import sweep_from_node
from mafunzo.errors import InvalidParameter, NotSupported

_DEFAULT_DATASTORE = re.compile(r"\$\{\{\s*default_datastore\s*\}\}")
UNSUPPORTED_TYPES: Mapping[str, str] = {
    "spark": "Spark isn't run here. Run a command.",
    "parallel": "Parallel steps aren't run here. Run a command over the rows.",
    "automl": "AutoML isn't run here. Run a command or a pipeline.",
    "import": "Imports from databases aren't run here. Run a command that fetches the rows.",
}
"""What of Azure's components and nodes doesn't run here, and what to do instead."""
SWEEP = "sweep"
"""The type of a node whose component is run as the trials of a sweep."""
_SPEC_TYPES = {"string": "String", "integer": "Integer", "number": "Number", "boolean": "Boolean"}


def request_from_body(name: str, version: str, body: Mapping[str, Any]) -> ComponentRequest:
    """Read a PUT's body; raises `InvalidFile` or `NotSupported` for an interface that can't be used."""
    properties = body.get("properties") or {}
    spec = {**(properties.get("componentSpec") or {}), "name": name, "version": version}
    component = component_from_spec(spec, f"component {name}:{version}")
    return ComponentRequest(
        component=component,
        source=source_of(spec) if component.kind == "command" else Source(),
        user_properties=dict(properties.get("properties") or {}),
        **{**what_is_common(body), "echoes": {ECHO: {"componentSpec": spec}}},
    )


def component_version_body(asset: Asset) -> dict[str, Any]:
    """Return a version of a component: what was sent, or the interface of one that ships."""
    return version_body(
        asset,
        {
            "description": asset.description,
            "tags": dict(asset.tags),
            "properties": asset.properties["user_properties"],
            "isArchived": asset.is_archived,
            "isAnonymous": asset.is_anonymous,
            "componentSpec": echo_of(asset.echoes)["componentSpec"],
            "provisioningState": "Succeeded",
        },
    )


def shipped_asset(component: Component) -> Asset:
    """Return a component that ships with Mafunzo as the registry's, with the interface that a client builds a node from."""
    spec = {
        "name": component.name,
        "version": component.version,
        "display_name": component.display_name,
        "description": component.description,
        "type": component.kind,
        "is_deterministic": str(component.is_deterministic),
        "tags": dict(component.tags),
        "inputs": {name: _input_spec(declared) for name, declared in component.inputs.items()},
        "outputs": {name: {"type": declared.type} for name, declared in component.outputs.items()},
    }
    if component.command:
        spec |= {"command": component.command, "environment": registry_id("environments", "local", "versions", "1")}
    return Asset(
        AssetKey(REGISTRY_SCOPE, AssetType.COMPONENT, component.name, component.version),
        FolderType.URI_FOLDER,
        description=component.description,
        tags=component.tags,
        properties={"user_properties": {}},
        created_by="catalogue",
        echoes={ECHO: {"componentSpec": spec}},
    )


def component_from_spec(spec: Mapping[str, Any], where: str) -> Component:
    """Build a component from its specification; `where` names it in errors.

    Raises `NotSupported` for a type that isn't run here, `InvalidFile` with all faults of its interface, `InvalidParameter` for
    a number among its resources.
    """
    kind = str(spec.get("type") or "command").lower()
    if kind in UNSUPPORTED_TYPES:
        raise NotSupported(f"{where} is of the type {kind}. {UNSUPPORTED_TYPES[kind]}")
    return component_file.component_from_dict(with_file_keys(spec), where, node_from_body)


def source_of(spec: Mapping[str, Any]) -> Source:
    """Return what a command's specification names as its code and environment, as written in YAML or in JSON."""
    code, environment = spec.get("code", spec.get("codeId")), spec.get("environment", spec.get("environmentId"))
    return Source(asset_name(code) or None, asset_name(environment) or None)


def asset_name(written: Any) -> AssetReference | str:
    """Return the asset that an id or a short name stands for; the text itself where it is neither, empty for none."""
    text = str(written or "")
    reference = parse_reference(text) if text else None
    return reference if isinstance(reference, AssetReference) else text


def node_from_body(name: str, body: Mapping[str, Any]) -> Node:
    """Read a node of a pipeline, as YAML or JSON has it.

    Raises `NotSupported` for a kind of node that doesn't run here, `InvalidParameter` for a number that isn't one.
    """
    outputs, kind = body.get("outputs") or {}, str(body.get("type") or "").lower()
    if kind in UNSUPPORTED_TYPES:
        raise NotSupported(f"Node '{name}' is of the type {kind}. {UNSUPPORTED_TYPES[kind]}")
    if kind == SWEEP:
        return replace(node_from_body(name, _trial_node(body)), sweep=sweep_from_node(name, body))
    node = component_file.node_from_dict(
        name,
        {
            **with_file_keys(body),
            "inputs": {},
            "outputs": {key: _output_binding(value) for key, value in outputs.items()},
            "environment_variables": body.get("environment_variables") or body.get("environmentVariables"),
            COMPUTE: body.get("computeId") or body.get(COMPUTE),
        },
    )
    require_no_services(f"Node '{name}'", body)
    return replace(
        node,
        component=asset_name(body.get("componentId") or body.get("component")),
        inputs={key: input_from_body(value) for key, value in (body.get("inputs") or {}).items()},
        destinations={
            key: destination
            for key, value in outputs.items()
            if isinstance(value, Mapping) and (destination := destination_from_body(key, value))
        },
    )


def _trial_node(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the node of a sweep as that of a command, its trial, whose limit is that of a trial."""
    trial, limits = body.get("trial"), with_file_keys(body).get("limits") or {}
    component = (trial.get("componentId") or trial.get("component")) if isinstance(trial, Mapping) else trial
    return {**body, "type": "command", "componentId": component, "limits": {"timeout": limits.get("trial_timeout")}}


def require_no_services(who: str, body: Mapping[str, Any]) -> None:
    """Raise `NotSupported` where something to talk to is to run beside a command; those that a GET tells of are none."""
    services = (body.get("services") or {}).values()
    kinds = {str(one.get("jobServiceType") or one.get("job_service_type")) for one in services if one}
    if unsupported := sorted(kinds - {"Studio", "Tracking"}):
        raise NotSupported(
            f"{who} asks for {', '.join(unsupported)}. Services aren't run beside a job here: leave it out."
        )


def input_from_body(value: Any) -> Any:
    """Return an input's value or binding as written, or the path that it names; None for one that isn't given."""
    if not isinstance(value, Mapping) or "value" in value:
        return component_file.input_from_dict(value)
    address = value.get("uri", value.get("path"))
    if address is None or "${{" in str(address):
        return address
    kind = value.get("job_input_type") or value.get("jobInputType") or value.get("type")
    return PathInput(parse_reference(str(address)), str(kind or "uri_folder"), str(address))


def destination_from_body(name: str, body: Mapping[str, Any]) -> Destination | None:
    """Return where an output goes besides; None where it says nothing of it. Raises `NotSupported` for another datastore's."""
    asset = str(body.get("assetName") or body.get("name") or "")
    version = str(body.get("assetVersion") or body.get("version") or "")
    address = str(body.get("uri") or body.get("path") or "")
    path = stored_path(address)
    is_bound = "${{parent." in address.replace(" ", "")
    if is_bound or isinstance(parse_reference(address), JobOutputReference):
        address, path = "", None  # bound to the job's, or where a job that was fetched says that its own output is
    if address and path is None:
        raise NotSupported(
            f"Output {name} is to go to '{address}'. It can go to azureml://datastores/<name>/paths/<path>."
        )
    if not asset and path is None:
        return None
    kind = str(body.get("jobOutputType") or body.get("job_output_type") or body.get("type") or "uri_folder")
    return Destination(kind, asset, version, _place_in_datastore(name, kind, path) if path else "")


def _place_in_datastore(name: str, kind: str, path: StoredPath) -> str:
    """Return where in the datastore an output goes; raises `InvalidParameter` for a path that can't be written to."""
    rest = PLACEHOLDER.sub("", path.path)
    if "${{" in rest or "${{" in _DEFAULT_DATASTORE.sub("", path.datastore):
        raise InvalidParameter(
            f"Output {name} is to go to '{path.path}' of the datastore '{path.datastore}'. In a path, ${{{{name}}}} and "
            "${{output_name}} are filled in, and ${{default_datastore}} is the datastore; nothing else is."
        )
    if not path.path and kind == FolderType.URI_FILE:
        raise InvalidParameter(
            f"Output {name} is a file, and is to go to the datastore itself. Name the file: .../paths/<file>."
        )
    return path.path or ROOT


def shown_address(address: str, job: str, output: str) -> str:
    """Return the address of an output with the names of its job, or step, and of the datastore in it."""
    return named_path(_DEFAULT_DATASTORE.sub(DATASTORE, address), job, output)


def with_file_keys(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return a body with the keys of its sections spelled as in a file: `instance_count`."""
    sections = {name: body[name] for name in ("resources", "distribution", "limits") if body.get(name)}
    return {**body, **{name: {_snake(key): value for key, value in one.items()} for name, one in sections.items()}}


def _snake(key: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in key)


def _output_binding(value: Any) -> str:
    """Return `${{parent.outputs.x}}` where an output is bound to the job's, else an empty text."""
    text = str((value.get("value") or value.get("path") or "") if isinstance(value, Mapping) else value or "")
    return text if not isinstance(value, Mapping) or PARENT_OUTPUT.fullmatch(text.strip()) else ""


def _input_spec(declared: Input) -> dict[str, Any]:
    """Return an input as a registry writes it: every number as text."""
    spec: dict[str, Any] = {"type": _SPEC_TYPES.get(declared.type, declared.type), "description": declared.description}
    if declared.is_optional:
        spec["optional"] = True
    if declared.default is not None:
        spec["default"] = str(declared.default)
    if declared.enum:
        spec["enum"] = list(declared.enum)
    for name, bound in (("min", declared.minimum), ("max", declared.maximum)):
        if bound is not None:
            spec[name] = f"{bound:g}"
    return spec
