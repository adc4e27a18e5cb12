"""The Azure SDK's operations that aren't supported here: one sentence a noun, with what to do instead."""

from collections.abc import Mapping

from fastapi import APIRouter, Request
from starlette.responses import Response

from mafunzo.entrypoints.azure.wire.envelope import DATASTORE, REGISTRY, WORKSPACE
from mafunzo.errors import NotSupported

_REFUSED: Mapping[str, str] = {
    "serverlessendpoints": "Serverless endpoints aren't run here. Deploy the model to an online endpoint.",
    "marketplacesubscriptions": "Marketplace subscriptions aren't needed here. Take a model of `mafunzo model list`.",
    "listkeys": "The workspace has no keys of its own. Those of its files: datastores.get(..., include_secrets=True).",
    "schedules": "Schedules aren't run here. Submit the job when it is to run, from cron for example.",
    "connections": "Connections to other services aren't kept here. Give a job what it needs in its environment variables.",
    "indexes": "Indexes aren't built here. Register the folder of an index as data of the type uri_folder.",
    "featuresets": "Feature stores aren't kept here. Register the table as data of the type uri_folder or mltable.",
    "featurestoreentities": "Feature stores aren't kept here. Register the table as data of the type uri_folder or mltable.",
    "capabilityhosts": "Capability hosts aren't made here: agents need none to ask an online endpoint.",
    "outboundrules": "Networks aren't managed here: this server listens on this machine, and steps use its network.",
    "provisionmanagednetwork": "Networks aren't managed here: this server listens on this machine, and steps use its network.",
    "privateendpointconnections": "Networks aren't managed here: this server listens on this machine.",
    "virtualclusters": "Virtual clusters aren't made here. Use a cluster of compute.begin_create_or_update, or local.",
    "package": "Models aren't packed into containers here. Deploy the model as it is.",
    "datastores": f"Files live in this home: upload them to the datastore '{DATASTORE}'. Others can't be added or deleted.",
    "computes": "Clusters aren't started, stopped or detached here: their steps run on this machine as they come.",
    "resynckeys": "The workspace has no keys to synchronize. Keys of an endpoint: online_endpoints.get_keys.",
    "diagnose": "The workspace isn't diagnosed over this door. `mafunzo job show NAME` and the server's log say what is wrong.",
    "registries": f"The registry '{REGISTRY}' has what ships with Mafunzo and what is shared: nothing is made, changed or "
    "deleted there. Create it in the workspace; models, data and environments can then be shared.",
    "microsoft.resources": f"This home has one workspace, '{WORKSPACE}', and no other can be made. Use another "
    "MAFUNZO_HOME for another one.",
}
"""By a lower-case part of the path; the first match counts."""

router = APIRouter()


@router.api_route("/{path:path}", methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"], include_in_schema=False)
def unknown(request: Request, path: str) -> Response:
    """Refuse an unknown path, with the reason."""
    raise refusal(request.method, path)


def refusal(method: str, path: str) -> NotSupported:
    """Return the error for a request that no route has taken; `path` begins without a slash."""
    parts = path.lower().strip("/").split("/")
    for noun, sentence in _REFUSED.items():
        if noun in parts:
            return NotSupported(sentence)
    is_group = parts[-2:-1] == ["resourcegroups"]  # asked for before a workspace, or a store of features, is made in it
    if is_group or (method not in ("GET", "HEAD") and parts[-2:-1] == ["workspaces"]):
        return NotSupported(
            f"This home has one workspace, '{WORKSPACE}', which can't be made, changed or deleted. Use another MAFUNZO_HOME "
            "for another one."
        )
    return NotSupported(f"{method} /{path} isn't something that this version of Mafunzo answers.")
