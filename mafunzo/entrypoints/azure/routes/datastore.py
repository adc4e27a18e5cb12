"""The home's datastores in Azure ML's dialect, and the credentials of their blob containers."""

from typing import Any

from fastapi import APIRouter, Request

from mafunzo.entrypoints.azure.access import SIGNED_FOR
from mafunzo.entrypoints.azure.context import Azure, body_of
from mafunzo.entrypoints.azure.wire.envelope import (
    DATASTORE,
    DATASTORES,
    SUFFIX,
    WS,
    own_resource,
    page,
    system_data,
)
from mafunzo.errors import NotFound

router = APIRouter()


@router.get(f"{WS}/datastores")
def list_datastores(azure: Azure) -> Any:
    """List the datastores: the home's own, and the one of jobs' logs."""
    return page(get_datastore(azure, name) for name in DATASTORES)


@router.get(f"{WS}/datastores/{{name}}")
def get_datastore(azure: Azure, name: str) -> Any:
    """Return a datastore of the home."""
    properties = {
        "datastoreType": "AzureBlob",
        "accountName": f"{azure.place.host}/mafunzo",  # with which the SDK finds `BLOB_ROOT`
        "containerName": _container_of(name),
        "endpoint": SUFFIX,
        "protocol": "https",
        "isDefault": name == DATASTORE,
        "credentials": {"credentialsType": "AccountKey"},
        "description": "Files of this home, each stored by its content",
        "tags": {},
        "properties": {},
    }
    return own_resource("datastores", name, properties=properties, systemData=system_data("mafunzo", None))


@router.post(f"{WS}/datastores/{{name}}/listSecrets")
async def list_secrets(request: Request, azure: Azure, name: str) -> Any:
    """Return a SAS of the datastore's container, valid for an hour, or else the account's key: both the caller's own."""
    container = _container_of(name)
    body = await body_of(request) if request.headers.get("content-length", "0") != "0" else {}
    if body.get("expirableSecret"):
        return {"secretsType": "Sas", "sasToken": azure.sas.sign(container, SIGNED_FOR[azure.caller.role])}
    return {"secretsType": "AccountKey", "key": azure.sas.account_key}


def _container_of(datastore: str) -> str:
    """Return a datastore's blob container; raises `NotFound`."""
    if datastore not in DATASTORES:
        raise NotFound(f"No datastore is called '{datastore}'. There are: {', '.join(DATASTORES)}.")
    return DATASTORES[datastore]
