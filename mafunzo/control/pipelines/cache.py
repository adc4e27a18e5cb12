"""When a step's outputs may be reused: the key of all that decides them, and why a step has to run again.

The key is kept as readable JSON (`key.json` in the step's folder), so that two steps can be compared by name and value.
"""

import hashlib
import json
import platform
from collections.abc import Mapping
from contextlib import suppress
from importlib import metadata
from typing import Any

from mafunzo.entities.job import ArtifactInput, LiteralInput, StepSpec

PACKAGES = (  # those whose version can change what a component writes
    "accelerate",
    "datasets",
    "mafunzo",
    "numpy",
    "peft",
    "pyarrow",
    "safetensors",
    "tokenizers",
    "torch",
    "transformers",
)

Ingredients = dict[str, Any]
PARTS = {
    "command": ("command",),
    "code": ("code", "code_artifact"),
    "outputs": ("outputs",),
    "environment": ("packages", "python"),
}
"""What is said to have changed, without its values, by the ingredients that it is."""


def ingredients(spec: StepSpec, upstream: Mapping[str, Mapping[str, str]], versions: Mapping[str, str]) -> Ingredients:
    """Return all that decides a step's outputs, as JSON; `upstream` has the outputs of the steps before it.

    A file or folder counts by its hash, wherever it came from. Cores and memory don't count; the number of processes
    and GPUs does, because it changes how rows are dealt out.
    """
    inputs: dict[str, Any] = {}
    for name, source in spec.inputs.items():
        if isinstance(source, LiteralInput):
            inputs[name] = source.value
        elif isinstance(source, ArtifactInput):
            inputs[name] = {"artifact": source.artifact}
        else:
            inputs[name] = {"artifact": upstream[source.step][source.output]}
    return {
        "code": spec.code,
        "code_artifact": spec.code_artifact,
        "command": spec.command,
        "inputs": inputs,
        "outputs": {name: _output(spec, name) for name in spec.outputs},
        "variables": dict(spec.environment),
        **({"packages": list(spec.runtime.packages), "python": spec.runtime.python} if spec.runtime else {}),
        "processes": spec.resources.processes,
        "gpus": spec.resources.gpus,
        **(
            {"nodes": [spec.placement.nodes, spec.placement.gpus, spec.placement.cpu_processes]}
            if spec.placement
            else {}
        ),
        "versions": dict(versions),
        "is_deterministic": spec.is_deterministic,
    }


def _output(spec: StepSpec, name: str) -> str:
    """Return an output's type, with the name of a file that its destination chooses: programs may go by its extension."""
    path = spec.output_path(name)
    return spec.outputs[name] if path == name else f"{spec.outputs[name]} {path}"


def key_of(parts: Ingredients) -> str:
    """Return the cache key."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def installed_versions() -> dict[str, str]:
    """Return Python's version, the machine's kind, and the versions of the packages that decide outputs, if installed."""
    versions = {"python": platform.python_version(), "machine": platform.machine()}
    for package in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions


def differences(step: str, before: Ingredients, now: Ingredients) -> list[str]:
    """Return what differs, a line each, the most telling first: `max_seq_length 512 -> 1024`."""
    changes = _inputs(before["inputs"], now["inputs"])
    changes += [
        f"{what} of {step} changed"
        for what, names in PARTS.items()
        if any(before.get(name) != now.get(name) for name in names)
    ]
    changes += _values(before["versions"], now["versions"])
    changes += _values(before["variables"], now["variables"])
    changes += _values({k: before[k] for k in ("processes", "gpus")}, {k: now[k] for k in ("processes", "gpus")})
    return changes


def _inputs(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    files = {name for inputs in (before, now) for name, value in inputs.items() if isinstance(value, Mapping)}
    changes = _values(
        {name: value for name, value in before.items() if name not in files},
        {name: value for name, value in now.items() if name not in files},
    )
    for name in sorted(files):
        if name not in now:
            changes.append(f"input {name} is no longer given")
        elif name not in before:
            changes.append(f"input {name} is new")
        elif before[name] != now[name]:
            changes.append(f"input {name} changed")
    return changes


def _values(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    names = [name for name in {**now, **before} if before.get(name) != now.get(name)]
    return [f"{name} {_show(before.get(name))} -> {_show(now.get(name))}" for name in names]


def _show(value: Any) -> str:
    if value is None:
        return "(none)"
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."
