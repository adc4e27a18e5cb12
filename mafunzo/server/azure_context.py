"""What every request over Azure's wire finds, and who may ask."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from mafunzo.errors import InvalidParameter
from mafunzo.server.auth import bearer
from mafunzo.server.body import limited_body
from mafunzo.server.context import Context
from mafunzo.server.identity import Identity
from mafunzo.server.job_log import JobLogs
from mafunzo.server.sas import Sas
from mafunzo.wire.azureml.envelope import SUFFIX, Place
from mafunzo.workspace import Workspace

T = TypeVar("T")
BODY_LIMIT_BYTES = 8 * 2**20


@dataclass(frozen=True)
class AzureContext:
    """The https port's parts. `serving` is the http port's, whose ways to the workers it shares.

    mlflow_uri: where MLflow's own client finds the runs, with the key that opens them.
    """

    place: Place
    identity: Identity
    sas: Sas
    workspace: Workspace
    job_logs: JobLogs
    serving: Context
    mlflow_uri: str

    @property
    def audiences(self) -> frozenset[str]:
        """What a token may be for: this server, or Azure ML of its cloud."""
        return frozenset({self.place.base, f"https://ml.azure.{SUFFIX}", f"https://storage.azure.{SUFFIX}"})

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Do what blocks beside the event loop."""
        return await run_in_threadpool(work)


def azure_context(request: Request) -> AzureContext:
    """Return the context of the server that a request came to."""
    return cast(AzureContext, request.app.state.context)


def require_token(request: Request) -> None:
    """Raise `Unauthorized` unless the request has a token that this server gave."""
    context = azure_context(request)
    request.state.user = context.identity.check_token(bearer(request.headers), context.audiences)


async def body_of(request: Request) -> dict[str, Any]:
    """Return a request's JSON object; raises `InvalidParameter` for what is none, or is too large."""
    try:
        body = json.loads(await limited_body(request, BODY_LIMIT_BYTES))
    except ValueError as error:
        raise InvalidParameter("The request's body isn't JSON.") from error
    if not isinstance(body, dict):
        raise InvalidParameter("The request's body isn't a JSON object.")
    return body
