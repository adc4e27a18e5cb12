"""What every resource of Azure's wire shares: names, ARM ids, errors, pagination, and long-running operations.

The last group of the subscription's id is three digits short on purpose: Azure's SDK knows it as a test's, and never sends
telemetry for it.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from mafunzo.entities.blob import HOME_CONTAINER, HOME_DATASTORE, REGISTRY_CONTAINER
from mafunzo.entities.reference import AssetReference
from mafunzo.entrypoints.azure.reference import compute_name, parse_reference
from mafunzo.errors import MafunzoError, VersionTaken

SUBSCRIPTION = "00000000-0000-0000-0000-000000000"
RESOURCE_GROUP = "mafunzo"
WORKSPACE = "mafunzo"
LOCATION = "local"
CLOUD = "Mafunzo"
SUFFIX = "local"
PROVIDER = "Microsoft.MachineLearningServices"
REGISTRY = "azureml"
OF_SUBSCRIPTION = f"/subscriptions/{{subscription}}/providers/{PROVIDER}"
OF_GROUP = f"/subscriptions/{{subscription}}/resourceGroups/{{group}}/providers/{PROVIDER}"
WS = f"{OF_GROUP}/workspaces/{{workspace}}"
REG = f"{OF_GROUP}/registries/{{registry}}"
"""The prefixes of routes."""
DATASTORE = HOME_DATASTORE
CONTAINER = HOME_CONTAINER
"""The home's own datastore, and the container of blobs that it is."""
ARTIFACT_DATASTORE = "workspaceartifactstore"
ARTIFACT_CONTAINER = "azureml"
"""Where what jobs print and write besides their outputs is shown."""
DATASTORES = {DATASTORE: CONTAINER, ARTIFACT_DATASTORE: ARTIFACT_CONTAINER}

CODES: Mapping[str, str] = {
    "not_found": "ResourceNotFound",
    "conflict": "ResourceConflict",
    "version_taken": "ResourceConflict",
    "unauthorized": "InvalidAuthenticationToken",
    "forbidden": "AuthorizationFailed",
    "not_supported": "OperationNotSupported",
    "rate_limit_exceeded": "TooManyRequests",
}
"""Our codes that Azure's clients know by another name; the others are `UserError` or `SystemError`."""
PATHS_DIFFER = "Asset paths cannot be updated."
"""By which its clients know that a version has other files already."""

ECHO = "azure"
"""Under which an entity's `echoes` hold what it doesn't say itself of a body, so that an answer has what was sent."""

_KNOWN_SEGMENTS = {
    name.lower(): name
    for name in ("subscriptions", "resourceGroups", "providers", PROVIDER, "workspaces", "registries", "locations")
}
_SERVICE_PREFIX = re.compile(r"^/(mferp/managementfrontend|(history|data)/v1\.0)(?=/)")
BLOB_ROOT = f"/mafunzo.blob.{SUFFIX}"
"""The path of blobs: it makes the SDK's `https://<account>.blob.<suffix>` an address of this server, without DNS."""
_PREFIXED_NAME = re.compile(
    rf"^(/subscriptions/[^/]+/resourceGroups/[^/]+/providers/{PROVIDER}/(workspaces|registries)/[^/]+"
    r"/(models|data|components|environments|codes)/)azureml:"
)
_AT_ROOT = re.compile(rf"^(?=/{REGISTRY_CONTAINER}(/|$))")


@dataclass(frozen=True)
class Place:
    """Where the server is: `base` is its https address without a slash at the end, `blob_account` the name of its blobs."""

    base: str

    @property
    def host(self) -> str:
        """`127.0.0.1:8443`"""
        return self.base.removeprefix("https://")

    @property
    def name(self) -> str:
        """The host without its port: `127.0.0.1`, `gpu-box`, `[::1]`."""
        name = str(urlsplit(self.base).hostname)
        return f"[{name}]" if ":" in name else name

    @property
    def ml_audience(self) -> str:
        """The audience of tokens for batch jobs: the SDK makes it of what stands behind the second dot of the address."""
        return f"https://ml.azure.{'.'.join(self.base.split('.')[2:])}"


def workspace_id() -> str:
    """Return the workspace's ARM id."""
    return f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{RESOURCE_GROUP}/providers/{PROVIDER}/workspaces/{WORKSPACE}"


def resource_id(*parts: str) -> str:
    """Return the ARM id of something in the workspace: `resource_id("models", "chat", "versions", "1")`."""
    return "/".join([workspace_id(), *parts])


def arm_id(written: str, noun: str) -> str:
    """Return the ARM id that a reference to an asset of the workspace stands for; any other text as it is.

    The Azure SDK knows an asset by its ARM id alone where an answer has one, and breaks off a whole list at another form.
    """
    reference = None if written.startswith("/") else parse_reference(written)
    if not isinstance(reference, AssetReference) or reference.registry:
        return written
    last = ("versions", reference.version) if reference.version else ("labels", reference.label or "latest")
    return resource_id(noun, reference.name, *last)


def compute_id(written: str) -> str:
    """Return the ARM id of the compute that an id, or a name, stands for; a binding as it is."""
    is_id = written.startswith("/") or "${{" in written
    return written if is_id else resource_id("computes", compute_name(written))


def datastore_uri(path: str) -> str:
    """Return the long address of a path of the datastore."""
    workspace = f"subscriptions/{SUBSCRIPTION}/resourcegroups/{RESOURCE_GROUP}/workspaces/{WORKSPACE}"
    return f"azureml://{workspace}/datastores/{DATASTORE}/paths/{path}"


def registry_arm_id() -> str:
    """Return the registry's ARM id."""
    return f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{RESOURCE_GROUP}/providers/{PROVIDER}/registries/{REGISTRY}"


def registry_id(*parts: str) -> str:
    """Return the id of something in the registry: `azureml://registries/azureml/models/...`."""
    return "/".join([f"azureml://registries/{REGISTRY}", *parts])


def plain_path(path: str) -> str:
    """Return a path without the name of the service that Azure has in front, its known parts spelled in one way.

    One to the registry's container, which is at the root, leads to where all containers are. An asset's name has no
    `azureml:` in front, which the SDK leaves there for `azureml:NAME@latest`.
    """
    path = _AT_ROOT.sub(BLOB_ROOT, _SERVICE_PREFIX.sub("", path))
    spelled = "/".join(_KNOWN_SEGMENTS.get(part.lower(), part) for part in path.split("/"))
    return _PREFIXED_NAME.sub(r"\1", spelled)


def resource(id: str, name: str, type: str, properties: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """Return a resource's envelope; `type` without the provider's name."""
    return {"id": id, "name": name, "type": f"{PROVIDER}/{type}", "properties": dict(properties), **more}


def own_resource(*parts: str, properties: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """Return the envelope of something in the workspace; nouns and names take turns: `"models", "chat", "versions", "1"`."""
    return resource(resource_id(*parts), parts[-1], "/".join(("workspaces", *parts[::2])), properties, **more)


def echo_of(echoes: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what an entity's `echoes` hold in this dialect; empty where another entrypoint made it."""
    echo: Mapping[str, Any] = echoes.get(ECHO) or {}
    return echo


def page(values: Iterable[Mapping[str, Any]], next_link: str | None = None) -> dict[str, Any]:
    """Return a page of a paginated list."""
    return {"value": list(values)} | ({"nextLink": next_link} if next_link else {})


def system_data(created_by: str, created_at: datetime | None) -> dict[str, str]:
    """Return a resource's `systemData`: who created it, and when."""
    moment = (created_at or datetime.now(UTC)).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return {
        "createdBy": created_by,
        "createdByType": "User",
        "createdAt": moment,
        "lastModifiedBy": created_by,
        "lastModifiedAt": moment,
    }


def texts(values: Mapping[str, Any] | None) -> dict[str, str]:
    """Return tags, environment variables and the like, each value as its text."""
    return {str(name): str(value) for name, value in (values or {}).items()}


def without_nulls(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that have a value."""
    return {key: value for key, value in fields.items() if value is not None}


def is_true(value: Any) -> bool:
    """Return whether a truth value says yes, which Azure's clients send as such or as a text."""
    return str(value).lower() == "true"


def operation_path(what: str) -> str:
    """Return the status path of a long-running operation; `what` identifies it."""
    return f"/subscriptions/{SUBSCRIPTION}/providers/{PROVIDER}/locations/{LOCATION}/operationsStatus/{what}"


def error_body(error: MafunzoError) -> dict[str, Any]:
    """Return an error as Azure's clients read it; each fault is a detail of its own, and stands in the message too."""
    code = CODES.get(error.code, "SystemError" if error.status >= 500 else "UserError")
    details = [{"code": code, "message": fault} for fault in error.faults]
    is_of_files = isinstance(error, VersionTaken) and error.has_files
    message = f"{PATHS_DIFFER} {error}" if is_of_files else str(error)
    return {"error": {"code": code, "message": message, "details": details}}
