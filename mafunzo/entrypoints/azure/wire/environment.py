"""Environments in Azure's JSON. Bodies come back as sent; of them, the pip part of the conda file is built here."""

from collections.abc import Mapping
from typing import Any

from mafunzo.entities.asset import Asset
from mafunzo.entities.asset_request import EnvironmentRequest
from mafunzo.entities.environment import Environment, environment_of
from mafunzo.entrypoints.azure.wire.asset import version_body, what_is_common
from mafunzo.entrypoints.azure.wire.conda import CondaFile, conda_from_text, conda_text
from mafunzo.entrypoints.azure.wire.envelope import echo_of
from mafunzo.errors import InvalidParameter, NotSupported

_MAY_CHANGE = ("description", "tags", "isArchived", "provisioningState")
"""What of a body isn't the environment's content, and has fields of its own."""


def environment_from_body(name: str, version: str, body: Mapping[str, Any]) -> Environment:
    """Read a PUT's body; raises `NotSupported` for what isn't built here, `InvalidParameter` with all faults."""
    properties = body.get("properties") or {}
    if properties.get("build"):
        raise NotSupported(
            f"Environment '{name}' is built from a Dockerfile, which isn't done here. "
            "Give an image and a conda file that lists pip's requirements."
        )
    system = properties.get("osType") or "linux"
    if str(system).lower() != "linux":
        raise NotSupported(f"Environment '{name}' has os_type {system}. Steps run on this machine: leave it out.")
    text = properties.get("condaFile") or ""
    if not isinstance(text, str):
        raise InvalidParameter(f"The conda file of environment '{name}' isn't a text.", param="condaFile")
    conda, faults = conda_from_text(text)
    if faults:
        raise InvalidParameter(
            f"The conda file of environment '{name}' can't be used.", tuple(faults), param="condaFile"
        )
    return Environment(
        name=name,
        version=version,
        packages=conda.packages,
        python=conda.python,
        variables=conda.variables,
        image=str(properties.get("image") or ""),
        conda_packages=conda.conda_packages,
    )


def request_from_body(name: str, version: str, body: Mapping[str, Any]) -> EnvironmentRequest:
    """Read a PUT's body, of which all comes back; raises as `environment_from_body`."""
    properties = (body.get("properties") or {}).items()
    echoed = [key for key, value in properties if key not in _MAY_CHANGE and value not in (None, {})]
    return EnvironmentRequest(environment=environment_from_body(name, version, body), **what_is_common(body, *echoed))


def environment_body(asset: Asset) -> dict[str, Any]:
    """Return a version of an environment: the stored body, with the known fields filled in."""
    return version_body(
        asset,
        {
            "isAnonymous": False,
            "properties": {},
            **(echo_of(asset.echoes) or _sent_properties(environment_of(asset))),
            "description": asset.description,
            "tags": dict(asset.tags),
            "isArchived": asset.is_archived,
            "provisioningState": "Succeeded",
        },
    )


def _sent_properties(environment: Environment) -> dict[str, Any]:
    """Return what a client would send for an environment that nobody sent, such as one of the catalogue."""
    conda = CondaFile(environment.python, environment.conda_packages, environment.packages, environment.variables)
    return {"image": environment.image, "condaFile": conda_text(conda, environment.name), "osType": "Linux"}
