"""Code assets in Azure's JSON: where a client uploads a folder to, and the version that it then registers."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mafunzo.entities.asset import Asset
from mafunzo.errors import InvalidParameter
from mafunzo.wire.azureml.asset import version_body
from mafunzo.wire.azureml.envelope import CONTAINER, SUFFIX, workspace_id
from mafunzo.wire.azureml.reference import stored_path

_BLOB = re.compile(rf"https://[^/]+/[^/]+\.blob\.{SUFFIX}(:\d+)?/(?P<container>[^/?]+)/?(?P<path>[^?]*?)/?(\?.*)?")
HASH = "hash_sha256"
"""The property in which a client says what the folder's content is, to find it again."""


@dataclass(frozen=True)
class CodeRequest:
    """What a PUT of a version of code asks for: the blobs of `container` below `path`, or all of it."""

    container: str
    path: str
    uri: str


def code_from_body(body: Mapping[str, Any]) -> CodeRequest:
    """Read a PUT's body; raises `InvalidParameter` for files that lie elsewhere."""
    uri = str((body.get("properties") or {}).get("codeUri") or "")
    if (match := _BLOB.fullmatch(uri)) is not None:
        return CodeRequest(match["container"], match["path"], uri)
    if (path := stored_path(uri)) is not None:
        return CodeRequest(CONTAINER, path.path, uri)
    raise InvalidParameter(f"The code lies at '{uri}'. Upload a folder: name a local path as code.", param="codeUri")


def code_body(asset: Asset) -> dict[str, Any]:
    """Return a version of code."""
    properties = {
        "description": asset.description,
        "tags": dict(asset.tags),
        "properties": {
            HASH: asset.properties.get("hash", ""),
            "hash_version": asset.properties.get("hash_version", ""),
        },
        "isArchived": asset.is_archived,
        "isAnonymous": asset.properties.get("is_anonymous", False),
        "codeUri": asset.properties["uri"],
        "provisioningState": "Succeeded",
    }
    return version_body(asset, properties)


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
