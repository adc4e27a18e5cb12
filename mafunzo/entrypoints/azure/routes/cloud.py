"""This server's cloud metadata in Azure Resource Manager's dialect, and the managed identity endpoint, which issues tokens."""

from typing import Any

from fastapi import APIRouter, Request

from mafunzo.entrypoints.azure.context import azure_context
from mafunzo.entrypoints.azure.wire.envelope import CLOUD, SUFFIX
from mafunzo.entrypoints.http.access import caller_with
from mafunzo.errors import InvalidParameter

public = APIRouter()


@public.get("/metadata/endpoints")
def cloud_metadata(request: Request) -> Any:
    """Describe the cloud that this server is."""
    place = azure_context(request).place
    return [
        {
            "name": CLOUD,
            "portal": place.base,
            "resourceManager": place.base,
            "authentication": {"loginEndpoint": place.base, "audiences": [place.base], "tenant": "common"},
            "suffixes": {"storage": SUFFIX},
        }
    ]


@public.get("/msi/token")
def managed_identity(request: Request, resource: str = "") -> Any:
    """Issue an access token to a caller with the home's secret, a user's token, or that of a step which runs."""
    context = azure_context(request)
    secret = request.headers.get("x-identity-header", "")
    users, serving = context.workspace.users, context.serving
    request.state.caller = caller_with(secret, context.identity, users, lambda attempt: serving.is_running(attempt))
    if not resource:
        raise InvalidParameter("The request names no resource to give a token for.", param="resource")
    token, ends = context.identity.token(resource, request.state.caller)
    return {"access_token": token, "expires_on": str(ends), "resource": resource, "token_type": "Bearer"}


@public.get("/discovery")
def discover_services(request: Request) -> Any:
    """Return the address of the run history: this server's."""
    base = azure_context(request).place.base
    return {"api": base, "history": base, "experimentation": base, "studio": base}
