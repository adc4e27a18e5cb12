"""Models, data and code in Azure ML's JSON, and what versions of every type share: the bodies of PUTs, the answers to GETs."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from mafunzo.entities.asset import MODEL_TYPES, REGISTRY_SCOPE, Asset, AssetType, FolderType, home_path, next_version
from mafunzo.entities.asset_request import CodeRequest, DataRequest, ModelRequest, ShareRequest, VersionRequest
from mafunzo.entities.blob import REGISTRY_CONTAINER
from mafunzo.entities.reference import AssetReference, JobOutputReference, StoredPath, WebAddress, source_from_facts
from mafunzo.entrypoints.azure.reference import NOUNS, parse_reference, stored_path
from mafunzo.entrypoints.azure.wire.envelope import (
    CONTAINER,
    ECHO,
    SUFFIX,
    datastore_uri,
    echo_of,
    own_resource,
    registry_id,
    resource,
    system_data,
    texts,
    workspace_id,
)
from mafunzo.errors import InvalidParameter, NotSupported

COLLECTED = "modelDataCollector/"
"""The datastore folder in which Azure's data collector stores deployments' requests and responses."""
DATA_TYPES = (FolderType.URI_FILE, FolderType.URI_FOLDER, FolderType.MLTABLE)
_BLOB = re.compile(rf"https://[^/]+/[^/]+\.blob\.{SUFFIX}(:\d+)?/(?P<container>[^/?]+)/?(?P<path>[^?]*?)/?(\?.*)?")
_HASH = "hash_sha256"
"""The property in which a client says what the folder's content is, to find it again."""
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,254}")


def require_name(kind: AssetType, name: str, version: str) -> None:
    """Raise `InvalidParameter` for a name or version that Azure doesn't take either."""
    for what, text in (("name", name), ("version", version)):
        if not _NAME.fullmatch(text):
            raise InvalidParameter(
                f"The {what} of {kind} is '{text[:64]}', expected 1 to 255 letters (a-z), digits, '-', '_' and '.', the "
                "first a letter or digit.",
                param=what,
            )


def what_is_common(body: Mapping[str, Any], *echoed: str) -> dict[str, Any]:
    """Return the fields that every request for a version has. echoed: the keys that come back as they were sent."""
    properties = body.get("properties") or {}
    echo = {name: properties[name] for name in echoed if properties.get(name)}
    return {
        "description": str(properties.get("description") or ""),
        "tags": texts(properties.get("tags")),
        "is_archived": bool(properties.get("isArchived", False)),
        "is_anonymous": bool(properties.get("isAnonymous", False)),
        "echoes": {ECHO: echo} if echo else {},
    }


def version_from_body(body: Mapping[str, Any]) -> VersionRequest:
    """Read what may change of a version of any kind."""
    return VersionRequest(**what_is_common(body))


def model_uri(asset: Asset, base: str) -> str:
    """Return where a model's files are: for the registry's at the server `base`, else in the datastore, uploaded or shown."""
    if not (path := home_path(asset)):
        return str(echo_of(asset.echoes).get("modelUri") or datastore_uri(asset.properties["source"]["path"]))
    return f"{base}/{REGISTRY_CONTAINER}/{path}" if asset.key.scope == REGISTRY_SCOPE else datastore_uri(path)


def model_body(asset: Asset, base: str) -> dict[str, Any]:
    """Return a version of a model; `base` is the server's https address.

    One of the catalogue tells in tags what suits it, as Azure's own registry does.
    """
    return version_body(
        asset,
        {
            "description": asset.description,
            "tags": {**asset.tags, **card_tags(asset.properties.get("card") or {})},
            "properties": dict(asset.properties.get("user_properties") or {}),
            "isArchived": asset.is_archived,
            "isAnonymous": False,
            "modelType": str(asset.folder_type),
            "modelUri": model_uri(asset, base),
            "flavors": {"python_function": {"data": {}}} if asset.folder_type == "mlflow_model" else {},
            "provisioningState": "Succeeded",
            "stage": None,
            "jobName": asset.properties.get("job"),
            **{key: value for key, value in echo_of(asset.echoes).items() if key != "modelUri"},
        },
    )


def is_in_stage(asset: Asset, stage: str) -> bool:
    """Return whether a version of a model is in a stage, in whatever case; each is where no stage is named."""
    return not stage or str(echo_of(asset.echoes).get("stage") or "").lower() == stage.lower()


def card_tags(card: Mapping[str, Any]) -> dict[str, str]:
    """Return what a model's card says as tags: lists and mappings as Python's literals, which scripts read by `ast`."""
    lists = {
        name: repr(list(card[name]))
        for name in ("finetune_compute_allow_list", "inference_compute_allow_list")
        if card.get(name)
    }
    defaults = {"model_specific_defaults": repr(dict(card["defaults"]))} if card.get("defaults") else {}
    return {**texts(card.get("tags")), **lists, **defaults}


def model_from_body(body: Mapping[str, Any]) -> ModelRequest:
    """Read a PUT's body; raises `InvalidParameter` without the address of the model's files."""
    properties = body.get("properties") or {}
    uri = str(properties.get("modelUri") or "")
    if not uri:
        raise InvalidParameter("The model has no path. Name a job's output, or files to upload.", param="modelUri")
    source = parse_reference(uri)
    if not isinstance(source, JobOutputReference | StoredPath):  # above all no folder of the server's
        raise NotSupported(
            f"The model lies at '{uri}'. A job's output (azureml://jobs/JOB/outputs/OUTPUT) can be registered, "
            "or what was uploaded to the datastore (azureml://datastores/workspaceblobstore/paths/PATH)."
        )
    kind = str(properties.get("modelType") or FolderType.CUSTOM_MODEL)
    if kind not in MODEL_TYPES:
        raise NotSupported(
            f"The model is of type '{kind}'. Models of the types {', '.join(MODEL_TYPES)} can be registered."
        )
    return ModelRequest(
        source=source,
        folder_type=FolderType(kind),
        properties=texts(properties.get("properties")),
        **what_is_common(body, "modelUri", "stage", "flavors", "autoDeleteSetting"),
    )


def data_from_body(name: str, body: Mapping[str, Any]) -> DataRequest:
    """Read a PUT's body; raises `NotSupported` for data that lies elsewhere, `InvalidParameter` for another type."""
    properties = body.get("properties") or {}
    uri, kind = str(properties.get("dataUri") or ""), str(properties.get("dataType") or "")
    if kind not in DATA_TYPES:
        raise InvalidParameter(f"Data '{name}' is of type '{kind}', expected one of {', '.join(DATA_TYPES)}.")
    source = parse_reference(uri)
    if isinstance(source, WebAddress) and kind != FolderType.URI_FILE:
        raise InvalidParameter(
            f"Data '{name}' is at '{uri}', a file of the web, and of type '{kind}', expected uri_file."
        )
    if not isinstance(source, StoredPath | JobOutputReference | WebAddress):
        raise NotSupported(
            f"Data '{name}' lies at '{uri}'. Uploaded files, outputs of jobs, and files at https:// addresses can be "
            "registered: name a local path."
        )
    if isinstance(source, StoredPath) and source.path.startswith(COLLECTED):  # asked before the deployment itself
        raise NotSupported(
            f"Data '{name}' would hold what a deployment is asked and answers: data collection isn't supported. Leave the "
            "deployment's data_collector out."
        )
    return DataRequest(
        source=source,
        folder_type=FolderType(kind),
        **what_is_common(body, "dataUri", "properties", "referencedUris", "autoDeleteSetting"),
    )


def data_body(asset: Asset) -> dict[str, Any]:
    """Return a version of registered data."""
    return version_body(
        asset,
        {
            "description": asset.description,
            "tags": dict(asset.tags),
            "properties": {},
            "isArchived": asset.is_archived,
            "isAnonymous": False,
            "dataType": str(asset.folder_type),
            **echo_of(asset.echoes),
            "dataUri": _data_uri(asset),
        },
    )


def _data_uri(asset: Asset) -> str:
    """Return where data lies, as Azure writes it: in the datastore by the long address, of a folder with a slash at its end."""
    end = "" if asset.folder_type is FolderType.URI_FILE else "/"
    if path := home_path(asset):
        return datastore_uri(path) + end
    match source_from_facts(asset.properties["source"]):
        case StoredPath(path=path):
            return datastore_uri(path) + end
        case JobOutputReference(job, output, path):
            uri = f"azureml://jobs/{job}/outputs/{output}" + (f"/paths/{path}" if path else "")
        case WebAddress(uri):
            pass
    return str(echo_of(asset.echoes).get("dataUri") or uri)


def code_from_body(body: Mapping[str, Any]) -> CodeRequest:
    """Read a PUT's body; raises `InvalidParameter` for files that lie elsewhere."""
    properties = body.get("properties") or {}
    facts = properties.get("properties") or {}
    container, path = _place(str(properties.get("codeUri") or ""))
    return CodeRequest(
        container=container,
        path=path,
        hash=str(facts.get(_HASH) or ""),
        hash_version=str(facts.get("hash_version") or ""),
        **what_is_common(body, "codeUri"),
    )


def _place(uri: str) -> tuple[str, str]:
    """Return the container of an address of uploaded files, and the path in it."""
    if (match := _BLOB.fullmatch(uri)) is not None:
        return match["container"], match["path"]
    if (place := stored_path(uri)) is not None:
        return CONTAINER, place.path
    raise InvalidParameter(f"The code lies at '{uri}'. Upload a folder: name a local path as code.", param="codeUri")


def code_body(asset: Asset) -> dict[str, Any]:
    """Return a version of code."""
    return version_body(
        asset,
        {
            "description": asset.description,
            "tags": dict(asset.tags),
            "properties": {
                _HASH: asset.properties["hash"],
                "hash_version": asset.properties["hash_version"],
            },
            "isArchived": asset.is_archived,
            "isAnonymous": asset.is_anonymous,
            "codeUri": echo_of(asset.echoes).get("codeUri") or datastore_uri(asset.properties["path"]),
            "provisioningState": "Succeeded",
        },
    )


def upload_body(address: str, signature: str) -> dict[str, Any]:
    """Return where a client may upload a folder to: the address of a container, and what opens it."""
    return {
        "pendingUploadId": None,
        "pendingUploadType": "TemporaryBlobReference",
        "blobReferenceForConsumption": {
            "blobUri": address,
            "storageAccountArmId": f"{workspace_id()}/storage",
            "credential": {"credentialType": "SAS", "sasUri": f"{address}?{signature}"},
        },
    }


def share_from_body(body: Mapping[str, Any]) -> ShareRequest:
    """Read the body of an import into the registry; raises `InvalidParameter` for anything but a workspace's asset."""
    properties = body.get("properties") or {}
    source = parse_reference(str(properties.get("sourceAssetId") or ""))
    if not isinstance(source, AssetReference) or source.registry or not source.version:
        raise InvalidParameter("sourceAssetId names no version of an asset of this workspace.", param="sourceAssetId")
    name, version = (str(properties.get(f"destination{part}") or "") for part in ("Name", "Version"))
    return ShareRequest(source, name or source.name, version)


def container_body(
    kind: AssetType, name: str, newest: Mapping[str, Any], versions: Iterable[str], is_archived: bool
) -> dict[str, Any]:
    """Return the container of an asset's versions. newest: of those that are shown, as a GET answers it."""
    properties: dict[str, Any] = {
        "isArchived": is_archived,
        "latestVersion": newest["name"],
        "nextVersion": next_version(versions),
        "tags": {},
        "properties": {},
    }
    return own_resource(NOUNS[kind], name, properties=properties, systemData=newest["systemData"])


def version_body(asset: Asset, properties: Mapping[str, Any]) -> dict[str, Any]:
    """Return the resource that a version is, of the registry or in the workspace, around its properties."""
    parts = (NOUNS[asset.key.type], asset.name, "versions", asset.version)
    creation = system_data(asset.created_by, asset.created_at)
    if asset.key.scope != REGISTRY_SCOPE:
        return own_resource(*parts, properties=properties, systemData=creation)
    type = f"registries/{parts[0]}/versions"
    return resource(registry_id(*parts), asset.version, type, properties, systemData=creation)
