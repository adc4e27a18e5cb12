"""Jobs, and the nodes of pipelines, from the files that `az ml` takes, as the Azure SDK sends them.

Pure: local paths and inline definitions are resolved, and uploaded, by the caller's `Local`.
"""

import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

from mafunzo.entities.component import STEP_OUTPUT
from mafunzo.entities.duration import seconds_of
from mafunzo.entities.reference import AssetReference
from mafunzo.entrypoints.azure.files.keys import SETTINGS
from mafunzo.entrypoints.azure.reference import parse_reference
from mafunzo.entrypoints.azure.wire.component import SWEEP
from mafunzo.entrypoints.azure.wire.envelope import resource_id, without_nulls
from mafunzo.entrypoints.azure.wire.job import FILE_SOURCE
from mafunzo.entrypoints.azure.wire.sweep import camel, camel_keys, duration, sweep_section
from mafunzo.errors import did_you_mean

ANONYMOUS = "azureml_anonymous"
"""The name of anonymous components; their versions are content hashes."""
_MODEL_INPUTS = ("mlflow_model", "custom_model", "triton_model")
_MODES = {
    "ro_mount": "ReadOnlyMount",
    "rw_mount": "ReadWriteMount",
    "mount": "ReadWriteMount",
    "download": "Download",
    "upload": "Upload",
    "direct": "Direct",
    "eval_mount": "EvalMount",
    "eval_download": "EvalDownload",
}
_DISTRIBUTIONS = {"pytorch": "PyTorch", "mpi": "Mpi", "tensorflow": "TensorFlow", "ray": "Ray"}
_PARENT = re.compile(r"\$\{\{\s*parent\.(inputs|outputs)\.([\w.-]+)\s*\}\}")
Body = dict[str, Any]


class Local(Protocol):
    """Resolves a file's local paths and inline definitions to references. `where` is the key that has them, for errors."""

    def uri(self, where: str, path: str, kind: str) -> str:
        """Return the URI of the files at a path; `kind` is their type: `uri_file` ..."""

    def model(self, where: str, spec: Mapping[str, Any]) -> str:
        """Return the reference to a model that is defined inline."""

    def code(self, where: str, path: str | None, includes: Sequence[str] = ()) -> str:
        """Return the reference to a folder of code; includes: files and folders elsewhere that are put beside its own."""

    def environment(self, where: str, spec: str | Mapping[str, Any]) -> str:
        """Return the reference to an environment that is defined inline, or in a file."""

    def conda(self, where: str, path: str) -> Mapping[str, Any]:
        """Return a conda file's content."""

    def component(self, where: str, spec: str | Mapping[str, Any]) -> str:
        """Return the reference to a component that is defined inline, or in a file."""

    def outputs(self, where: str, component: str) -> Mapping[str, str]:
        """Return the types of a component's outputs, by name."""

    def inputs(self, where: str, component: str) -> Collection[str] | None:
        """Return the names of a component's inputs; None for one that can't be read."""

    def note(self, where: str, text: str) -> None:
        """Tell the user of something in the file that has no effect."""


def is_reference(text: str) -> bool:
    """Return whether a text is a reference or a URI, rather than a local path."""
    return text.startswith("azureml:") or ("://" in text and not text.startswith("file:"))


# Jobs


def job_body(document: Mapping[str, Any], local: Local) -> Body:
    """Return the body of a job's PUT."""
    kind = "Pipeline" if "jobs" in document else "Sweep" if "trial" in document else "Command"
    parts = {"Pipeline": _pipeline_part, "Sweep": _sweep_part, "Command": _command_part}
    properties = {
        "jobType": kind,
        "displayName": document.get("display_name"),
        "description": document.get("description"),
        "experimentName": document.get("experiment_name"),
        "tags": dict(document.get("tags") or {}),
        "properties": dict(document.get("properties") or {}),
        "computeId": document.get("compute"),
        "inputs": {name: camel_keys(body) for name, body in _input_bodies("inputs", document, local).items()},
        "outputs": {name: _job_output(output) for name, output in (document.get("outputs") or {}).items()},
    }
    return {"properties": without_nulls({**properties, **parts[kind](document, local)})}


def _pipeline_part(document: Mapping[str, Any], local: Local) -> Body:
    for name in set(document.get("settings") or {}) - set(SETTINGS):
        local.note(f"settings.{name}", f"kept with the job, without effect. What counts: {', '.join(SETTINGS)}.")
    return {
        "settings": {"_source": FILE_SOURCE, **(document.get("settings") or {})},
        "jobs": node_bodies(document, local),
    }


def _sweep_part(document: Mapping[str, Any], local: Local) -> Body:
    section = sweep_section(document)
    trial = _command_part({"resources": document.get("resources"), **document["trial"]}, local, "trial")
    return {
        **section,
        "limits": {"jobLimitsType": "Sweep", **section["limits"]},
        "trial": without_nulls(trial),
    }


def _command_part(document: Mapping[str, Any], local: Local, where: str = "") -> Body:
    names = sources(where, document, local)
    limit = (document.get("limits") or {}).get("timeout")
    return {
        "command": str(document["command"]),
        "codeId": names.get("code"),
        "environmentId": names.get("environment"),
        "environmentVariables": dict(document.get("environment_variables") or {}),
        "resources": camel_keys(document.get("resources") or {}),
        "distribution": camel_keys(_distribution(document)) or None,
        "limits": None if limit is None else {"jobLimitsType": "Command", "timeout": duration(limit)},
    }


def _job_output(output: Any) -> Body:
    names = {"name": "assetName", "version": "assetVersion"}
    return {names.get(key, camel(key)): value for key, value in _output_body(output).items()}


# Nodes


def node_bodies(pipeline: Mapping[str, Any], local: Local) -> Body:
    """Return a pipeline's nodes; a component that is defined inline becomes a reference."""
    types = _Types(pipeline, local)
    return {name: _node(name, node, types, local) for name, node in pipeline["jobs"].items()}


def _node(name: str, node: Mapping[str, Any], types: "_Types", local: Local) -> Body:
    body = _plain_node(name, node, types, local)
    if not _is_sweep(node):
        return body
    trial = {"componentId": body.pop("componentId")}
    return {**body, "trial": trial, **_sweep_of_node(node)}


def _is_sweep(node: Mapping[str, Any]) -> bool:
    return str(node.get("type") or "").lower() == SWEEP


def _sweep_of_node(node: Mapping[str, Any]) -> Body:
    """Return a node's keys of its sweep as the SDK sends and reads them: as in the file, but for the policy's type."""
    policy = node.get("early_termination")
    return without_nulls(
        {
            **{key: node.get(key) for key in ("objective", "sampling_algorithm", "search_space")},
            "early_termination": _policy(policy) if isinstance(policy, Mapping) else policy,
            "limits": {
                key: math.ceil(seconds_of(duration(limit))) if key.endswith("timeout") else limit
                for key, limit in without_nulls(node.get("limits") or {}).items()
            }
            or None,
        }
    )


def _policy(spec: Mapping[str, Any]) -> Body:
    words = str(spec.get("type") or "").split("_")
    rest = {key: value for key, value in spec.items() if key != "type"}
    return {**rest, "policy_type": "".join(word.capitalize() for word in words)}


def _plain_node(name: str, node: Mapping[str, Any], types: "_Types", local: Local) -> Body:
    return without_nulls(
        {
            "name": name,
            "type": str(node.get("type") or "command"),
            "componentId": types.component(name),
            "display_name": node.get("display_name"),
            "inputs": _input_bodies(f"jobs.{name}.inputs", types.with_declared_inputs(name), local),
            "outputs": {key: _output_body(binding) for key, binding in (node.get("outputs") or {}).items()},
            "computeId": node.get("compute"),
            "resources": node.get("resources"),
            "distribution": _distribution(node) or None,
            "environment_variables": node.get("environment_variables"),
            "limits": {key: duration(limit) for key, limit in without_nulls(node.get("limits") or {}).items()} or None,
        }
    )


class _Types:
    """The components of a pipeline's nodes, and the types of their inputs and outputs; each component is resolved once."""

    def __init__(self, pipeline: Mapping[str, Any], local: Local) -> None:
        self._pipeline = pipeline
        self._local = local
        self._components: dict[str, str] = {}

    def component(self, name: str) -> str:
        """Return the reference to the component that a node runs."""
        if name not in self._components:
            node = self._pipeline["jobs"][name]
            key, component = _component_of(node)
            if component is None:
                component = self._local.component(f"jobs.{name}", self._in_place(node))
            elif not (isinstance(component, str) and is_reference(component)):
                component = self._local.component(f"jobs.{name}.{key}", component)
            self._components[name] = component
        return self._components[name]

    def with_declared_inputs(self, name: str) -> Mapping[str, Any]:
        """Return a node with the inputs that its component declares, if that is a file or stands in the node.

        Others have no effect, as in the Azure SDK.
        """
        node: Mapping[str, Any] = self._pipeline["jobs"][name]
        key, component = _component_of(node)
        if component is None or (isinstance(component, str) and is_reference(component)):
            return node
        declared = self._local.inputs(f"jobs.{name}.{key}", self.component(name))
        inputs: Mapping[str, Any] = node.get("inputs") or {}
        unknown = [] if declared is None else [key for key in inputs if key not in declared]
        for key in unknown:
            hint = did_you_mean(key, declared or ())
            self._local.note(f"jobs.{name}.inputs.{key}", f"left out, since the component doesn't declare it.{hint}")
        return {**node, "inputs": {key: value for key, value in inputs.items() if key not in unknown}}

    def _in_place(self, node: Mapping[str, Any]) -> Body:
        """Return a node's inline command as a component, with just the inputs and outputs that it has."""
        inputs, outputs = node.get("inputs") or {}, node.get("outputs") or {}
        keys = ("command", "code", "additional_includes", "environment", "distribution", "resources")
        return {
            **{key: node[key] for key in keys if key in node},
            "name": ANONYMOUS,
            "type": "command",
            "is_deterministic": True,
            "inputs": {
                key: {"type": self._of_input(binding)} for key, binding in inputs.items() if binding is not None
            },
            "outputs": {key: {"type": self._of_output(binding)} for key, binding in outputs.items()},
        }

    def _of_input(self, binding: Any) -> str:
        if isinstance(binding, Mapping):
            return (
                str(binding["type"]) if "type" in binding else self._of_input(binding.get("path", binding.get("value")))
            )
        text = str(binding).strip()
        if match := _PARENT.fullmatch(text):
            return self._of_parent("inputs", match[2])
        if match := STEP_OUTPUT.fullmatch(text):
            return self._of_step(match[1], match[2])
        names = {bool: "boolean", int: "integer", float: "number"}
        return names.get(type(binding), "string")

    def _of_output(self, binding: Any) -> str:
        if isinstance(binding, Mapping) and "type" in binding:
            return str(binding["type"])
        text = str(binding.get("path") if isinstance(binding, Mapping) else binding or "").strip()
        match = _PARENT.fullmatch(text)
        return self._of_parent("outputs", match[2]) if match else "uri_folder"

    def _of_parent(self, side: str, name: str) -> str:
        declaration = (self._pipeline.get(side) or {}).get(name)
        if isinstance(declaration, Mapping):
            return str(declaration.get("type") or "uri_folder")
        return "uri_folder" if side == "outputs" else self._of_input(declaration)

    def _of_step(self, step: str, output: str) -> str:
        node = self._pipeline["jobs"].get(step) or {}
        key, component = _component_of(node)
        if component is None:
            return self._of_output((node.get("outputs") or {}).get(output))
        return self._local.outputs(f"jobs.{step}.{key}", self.component(step)).get(output, "uri_folder")


def _component_of(node: Mapping[str, Any]) -> tuple[str, Any]:
    """Return what a node runs, None for a command of its own, and the key that says it."""
    key = "trial" if _is_sweep(node) else "component"
    return key, node.get(key)


# What both have


def sources(where: str, spec: Mapping[str, Any], local: Local) -> Body:
    """Return the references to a command's code and environment."""
    names = {}
    prefix = f"{where}." if where else ""
    code, includes = spec.get("code"), spec.get("additional_includes") or ()
    if code and is_reference(str(code)):
        names["code"] = code
        if includes:
            local.note(f"{prefix}additional_includes", "without effect beside code that is stored already.")
    elif code or includes:
        names["code"] = local.code(f"{prefix}code", str(code) if code else None, includes)
    if environment := spec.get("environment"):
        is_named = isinstance(environment, str) and is_reference(environment)
        names["environment"] = environment if is_named else local.environment(f"{prefix}environment", environment)
    return names


def _input_bodies(where: str, spec: Mapping[str, Any], local: Local) -> Body:
    """Return the bodies of the inputs that have a value."""
    inputs = (spec.get("inputs") or {}).items()
    return without_nulls({name: _input_body(f"{where}.{name}", binding, local) for name, binding in inputs})


def _input_body(where: str, spec: Any, local: Local) -> Body | None:
    """Return an input's body: a literal, a binding or a URI; None for one without a value."""
    if not isinstance(spec, Mapping):
        return None if spec is None else {"value": str(spec), "job_input_type": "literal"}
    mode = {"mode": _MODES.get(str(spec["mode"]), str(spec["mode"]))} if spec.get("mode") else {}
    value = spec.get("value", spec.get("default") if "path" not in spec else None)
    if value is None and spec.get("path") is None:
        return None
    if value is not None or "${{" in str(spec["path"]):
        return {"value": str(spec["path"] if value is None else value), "job_input_type": "literal", **mode}
    kind = str(spec.get("type") or "uri_folder")
    return {"uri": _input_address(f"{where}.path", str(spec["path"]), kind, local), "job_input_type": kind, **mode}


def _input_address(where: str, path: str, kind: str, local: Local) -> str:
    """Return the URI of an input's files. A short name is that of data, or, for an input of a model type, of a model."""
    reference = parse_reference(path) if path.startswith("azureml:") else None
    if isinstance(reference, AssetReference) and reference.type is None:
        noun = "models" if kind in _MODEL_INPUTS else "data"
        last = ("versions", reference.version) if reference.version else ("labels", reference.label or "latest")
        return resource_id(noun, reference.name, *last)
    return address(where, path, kind, local)


def address(where: str, path: str, kind: str, local: Local) -> str:
    """Return the URI of files: `path` itself where it is a reference, else that of the local path."""
    return path if is_reference(path) else local.uri(where, path, kind)


def _output_body(output: Any) -> Body:
    """Return an output's body: a binding to the pipeline's, or its type, mode, path and asset name."""
    path = output.get("path") if isinstance(output, Mapping) else output
    if path is not None and _PARENT.fullmatch(str(path).strip()):
        return {"value": str(path), "type": "literal"}
    output = output if isinstance(output, Mapping) else {}
    return without_nulls(
        {
            "mode": _MODES.get(str(output["mode"]), str(output["mode"])) if output.get("mode") else None,
            "uri": path,
            "job_output_type": str(output.get("type") or "uri_folder"),
            "name": output.get("name"),
            "version": str(output["version"]) if output.get("version") is not None else None,
        }
    )


def _distribution(spec: Mapping[str, Any]) -> Body:
    distribution = dict(spec.get("distribution") or {})
    kind = str(distribution.pop("type", ""))
    return {**distribution, "distribution_type": _DISTRIBUTIONS.get(kind.lower(), kind)} if kind else {}
