"""Jobs, and the nodes of pipelines, from the files that `az ml` takes, as the Azure SDK sends them.

Pure: what a file names by a path of its own, or writes out in place, is put where it belongs by the caller's `Local`.
"""

import re
from collections.abc import Mapping
from typing import Any, Protocol

from mafunzo.entities.component import STEP_OUTPUT
from mafunzo.entities.reference import AssetReference
from mafunzo.entrypoints.azure.files.value import number_of
from mafunzo.entrypoints.azure.reference import parse_reference
from mafunzo.entrypoints.azure.wire.envelope import resource_id
from mafunzo.entrypoints.azure.wire.job import FILE_SOURCE
from mafunzo.entrypoints.azure.wire.sweep import ARGUMENTS

ANONYMOUS = "azureml_anonymous"
"""The name of components that have none of their own; their versions say what is in them."""
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
    """Where things go that lie beside a file or stand in it. `where` is the key that names them, for errors."""

    def uri(self, where: str, path: str, kind: str) -> str:
        """Return the address of the files at a path; `kind` says what they are to be: `uri_file` ..."""

    def model(self, where: str, given: Mapping[str, Any]) -> str:
        """Return the name of a model that stands in place."""

    def code(self, where: str, path: str) -> str:
        """Return the name of a folder of code."""

    def environment(self, where: str, given: str | Mapping[str, Any]) -> str:
        """Return the name of an environment that stands in place, or in a file."""

    def conda(self, where: str, path: str) -> Mapping[str, Any]:
        """Return what is in a conda file."""

    def component(self, where: str, given: str | Mapping[str, Any]) -> str:
        """Return the name of a component that stands in place, or in a file."""

    def outputs(self, where: str, component: str) -> Mapping[str, str]:
        """Return the types of a component's outputs, by name."""


def is_reference(text: str) -> bool:
    """Return whether a text names something by an address, rather than by a path of the file's own."""
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
        "inputs": _job_inputs(document, local),
        "outputs": {name: _job_output(given) for name, given in (document.get("outputs") or {}).items()},
    }
    more = parts[kind](document, local)
    return {"properties": {key: value for key, value in {**properties, **more}.items() if value is not None}}


def _pipeline_part(document: Mapping[str, Any], local: Local) -> Body:
    return {
        "settings": {"_source": FILE_SOURCE, **(document.get("settings") or {})},
        "jobs": node_bodies(document, local),
    }


def _sweep_part(document: Mapping[str, Any], local: Local) -> Body:
    limits = {
        _camel(key): _duration(value) if key.endswith("timeout") else value
        for key, value in (document.get("limits") or {}).items()
    }
    trial = _command_part({"resources": document.get("resources"), **document["trial"]}, local, "trial")
    policy = document.get("early_termination")
    return {
        "searchSpace": {name: _values(given) for name, given in document["search_space"].items()},
        "samplingAlgorithm": _typed("samplingAlgorithmType", document.get("sampling_algorithm") or "random"),
        "objective": {_camel(key): value for key, value in document["objective"].items()},
        "earlyTermination": None if policy is None else _typed("policyType", policy),
        "limits": {"jobLimitsType": "Sweep", **limits},
        "trial": {key: value for key, value in trial.items() if value is not None},
    }


def _values(given: Mapping[str, Any]) -> list[Any]:
    """Return where a swept parameter's values come from, as a list: `["uniform", [0.1, 0.9]]`."""
    kind = str(given["type"])
    arguments = [given.get(name) for name in ARGUMENTS.get(kind, ())]
    return [kind, arguments if kind == "choice" else [number_of(one) for one in arguments]]


def _typed(name: str, given: str | Mapping[str, Any]) -> Body:
    """Return what has a type and perhaps no more, with the type under `name`, in Azure's spelling."""
    said = dict(given) if isinstance(given, Mapping) else {"type": given}
    kind = "".join(word.capitalize() for word in str(said.pop("type", "")).split("_"))
    return {name: kind, **{_camel(key): value for key, value in said.items()}}


def _command_part(document: Mapping[str, Any], local: Local, where: str = "") -> Body:
    named = sources(where, document, local)
    resources = document.get("resources") or {}
    limit = (document.get("limits") or {}).get("timeout")
    distribution = _distribution(document)
    return {
        "command": str(document["command"]),
        "codeId": named.get("code"),
        "environmentId": named.get("environment"),
        "environmentVariables": dict(document.get("environment_variables") or {}),
        "resources": {_camel(key): value for key, value in resources.items()},
        "distribution": {_camel(key): value for key, value in distribution.items()} or None,
        "limits": None if limit is None else {"jobLimitsType": "Command", "timeout": _duration(limit)},
    }


def _job_inputs(document: Mapping[str, Any], local: Local) -> Body:
    found = {}
    for name, given in (document.get("inputs") or {}).items():
        said = _given(f"inputs.{name}", given, local)
        if said is not None:
            found[name] = {_camel(key): value for key, value in said.items()}
    return found


def _job_output(given: Any) -> Body:
    said = _written(given)
    names = {"name": "assetName", "version": "assetVersion"}
    return {names.get(key, _camel(key)): value for key, value in said.items()}


# Nodes


def node_bodies(pipeline: Mapping[str, Any], local: Local) -> Body:
    """Return a pipeline's nodes: what they name, and what they run in place, a component that is known by a name."""
    found: Body = {}
    types = _Types(pipeline, local)
    for name, node in pipeline["jobs"].items():
        found[name] = _node(name, node, types, local)
    return found


def _node(name: str, node: Mapping[str, Any], types: "_Types", local: Local) -> Body:
    where = f"jobs.{name}"
    inputs = {key: _given(f"{where}.inputs.{key}", given, local) for key, given in (node.get("inputs") or {}).items()}
    body = {
        "name": name,
        "type": str(node.get("type") or "command"),
        "componentId": types.component(name),
        "inputs": {key: said for key, said in inputs.items() if said is not None},
        "outputs": {key: _written(given) for key, given in (node.get("outputs") or {}).items()},
        "computeId": node.get("compute"),
        "resources": node.get("resources"),
        "distribution": _distribution(node) or None,
        "environment_variables": node.get("environment_variables"),
        "limits": {key: _duration(limit) for key, limit in (node.get("limits") or {}).items() if limit is not None}
        or None,
    }
    return {key: value for key, value in body.items() if value is not None}


class _Types:
    """What a pipeline's nodes are, and the types of what flows between them; each component is put in its place once."""

    def __init__(self, pipeline: Mapping[str, Any], local: Local) -> None:
        self._pipeline = pipeline
        self._local = local
        self._components: dict[str, str] = {}

    def component(self, name: str) -> str:
        """Return the name of the component that a node runs."""
        if name not in self._components:
            self._components[name] = self._named(name, self._pipeline["jobs"][name])
        return self._components[name]

    def _named(self, name: str, node: Mapping[str, Any]) -> str:
        where = f"jobs.{name}"
        given = node.get("component")
        if given is None:
            return self._local.component(where, self._in_place(node))
        if isinstance(given, str) and is_reference(given):
            return given
        return self._local.component(f"{where}.component", given)

    def _in_place(self, node: Mapping[str, Any]) -> Body:
        """Return the component that a node's own command is, with just the inputs and outputs that it has."""
        inputs, outputs = node.get("inputs") or {}, node.get("outputs") or {}
        kept = {
            key: node[key] for key in ("command", "code", "environment", "distribution", "resources") if key in node
        }
        return {
            **kept,
            "name": ANONYMOUS,
            "type": "command",
            "is_deterministic": True,
            "inputs": {key: {"type": self._of_input(given)} for key, given in inputs.items() if given is not None},
            "outputs": {key: {"type": self._of_output(given)} for key, given in outputs.items()},
        }

    def _of_input(self, given: Any) -> str:
        if isinstance(given, Mapping):
            return str(given["type"]) if "type" in given else self._of_input(given.get("path", given.get("value")))
        text = str(given).strip()
        if match := _PARENT.fullmatch(text):
            return self._of_parent("inputs", match[2])
        if match := STEP_OUTPUT.fullmatch(text):
            return self._of_step(match[1], match[2])
        names = {bool: "boolean", int: "integer", float: "number"}
        return names.get(type(given), "string")

    def _of_output(self, given: Any) -> str:
        if isinstance(given, Mapping) and "type" in given:
            return str(given["type"])
        text = str(given.get("path") if isinstance(given, Mapping) else given or "").strip()
        match = _PARENT.fullmatch(text)
        return self._of_parent("outputs", match[2]) if match else "uri_folder"

    def _of_parent(self, side: str, name: str) -> str:
        given = (self._pipeline.get(side) or {}).get(name)
        if isinstance(given, Mapping):
            return str(given.get("type") or "uri_folder")
        return "uri_folder" if side == "outputs" else self._of_input(given)

    def _of_step(self, step: str, output: str) -> str:
        node = self._pipeline["jobs"].get(step) or {}
        if "component" not in node:
            return self._of_output((node.get("outputs") or {}).get(output))
        return self._local.outputs(f"jobs.{step}.component", self.component(step)).get(output, "uri_folder")


# What both have


def sources(where: str, spec: Mapping[str, Any], local: Local) -> Body:
    """Return the names of a command's code and environment."""
    found = {}
    prefix = f"{where}." if where else ""
    if code := spec.get("code"):
        found["code"] = code if is_reference(str(code)) else local.code(f"{prefix}code", str(code))
    if environment := spec.get("environment"):
        is_named = isinstance(environment, str) and is_reference(environment)
        found["environment"] = environment if is_named else local.environment(f"{prefix}environment", environment)
    return found


def _given(where: str, given: Any, local: Local) -> Body | None:
    """Return an input as nodes have it: a value, a binding or an address; None for one that isn't given."""
    if not isinstance(given, Mapping):
        return None if given is None else {"value": str(given), "job_input_type": "literal"}
    mode = {"mode": _MODES.get(str(given["mode"]), str(given["mode"]))} if given.get("mode") else {}
    value = given.get("value", given.get("default") if "path" not in given else None)
    if value is None and given.get("path") is None:
        return None
    if value is not None or "${{" in str(given["path"]):
        return {"value": str(given["path"] if value is None else value), "job_input_type": "literal", **mode}
    kind = str(given.get("type") or "uri_folder")
    return {"uri": _input_address(f"{where}.path", str(given["path"]), kind, local), "job_input_type": kind, **mode}


def _input_address(where: str, path: str, kind: str, local: Local) -> str:
    """Return the address of an input's files. A short name is one of data, or, where a model is asked for, of a model."""
    reference = parse_reference(path) if path.startswith("azureml:") else None
    if isinstance(reference, AssetReference) and reference.type is None:
        noun = "models" if kind in _MODEL_INPUTS else "data"
        last = ("versions", reference.version) if reference.version else ("labels", reference.label or "latest")
        return resource_id(noun, reference.name, *last)
    return address(where, path, kind, local)


def address(where: str, path: str, kind: str, local: Local) -> str:
    """Return the address of files: the one that is given, or that of a path of the file's own."""
    return path if is_reference(path) else local.uri(where, path, kind)


def _written(given: Any) -> Body:
    """Return an output as nodes have it: bound to the pipeline's, or what it is and what becomes of it."""
    path = given.get("path") if isinstance(given, Mapping) else given
    if path is not None and _PARENT.fullmatch(str(path).strip()):
        return {"value": str(path), "type": "literal"}
    given = given if isinstance(given, Mapping) else {}
    said = {
        "mode": _MODES.get(str(given["mode"]), str(given["mode"])) if given.get("mode") else None,
        "uri": path,
        "job_output_type": str(given.get("type") or "uri_folder"),
        "name": given.get("name"),
        "version": str(given["version"]) if given.get("version") is not None else None,
    }
    return {key: value for key, value in said.items() if value is not None}


def _distribution(spec: Mapping[str, Any]) -> Body:
    given = dict(spec.get("distribution") or {})
    kind = str(given.pop("type", ""))
    return {**given, "distribution_type": _DISTRIBUTIONS.get(kind.lower(), kind)} if kind else {}


def _duration(limit: Any) -> str:
    return f"PT{limit}S" if str(limit).isdecimal() else str(limit)


def _camel(key: str) -> str:
    first, *rest = key.split("_")
    return first + "".join(word.capitalize() for word in rest)
