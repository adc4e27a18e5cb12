"""Code assets in Azure's JSON: where a client uploads a folder to, and the version that it then registers."""

import re
from collections.abc import Mapping
from typing import Any

from mafunzo.entities.asset import Asset
from mafunzo.entities.asset_request import CodeRequest
from mafunzo.entrypoints.azure.reference import stored_path
from mafunzo.entrypoints.azure.wire.asset import version_body, what_is_common
from mafunzo.entrypoints.azure.wire.envelope import CONTAINER, SUFFIX, datastore_uri, echo_of, workspace_id
from mafunzo.errors import InvalidParameter

_BLOB = re.compile(rf"https://[^/]+/[^/]+\.blob\.{SUFFIX}(:\d+)?/(?P<container>[^/?]+)/?(?P<path>[^?]*?)/?(\?.*)?")
_HASH = "hash_sha256"
"""The property in which a client says what the folder's content is, to find it again."""


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
