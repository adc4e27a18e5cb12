"""The context of every request over Azure's wire, and its authentication."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any, Protocol, TypeVar, cast

from fastapi import Depends
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from mafunzo.control.workspace import Workspace
from mafunzo.entities.user import Role
from mafunzo.entrypoints.azure.access import RULES
from mafunzo.entrypoints.azure.job_log import JobLogs
from mafunzo.entrypoints.azure.sas import Sas, sas_of
from mafunzo.entrypoints.azure.wire.body import check_body
from mafunzo.entrypoints.azure.wire.envelope import REGISTRY, RESOURCE_GROUP, SUBSCRIPTION, SUFFIX, WORKSPACE, Place
from mafunzo.entrypoints.http.access import admit, authorize, caller_of
from mafunzo.entrypoints.http.auth import bearer
from mafunzo.entrypoints.http.body import limited_json
from mafunzo.entrypoints.http.context import Context, context_of
from mafunzo.entrypoints.http.identity import Attempt, Caller, Identity, step_caller
from mafunzo.entrypoints.http.listen import LOOPBACK_NAMES
from mafunzo.errors import InvalidParameter, NotFound, Unauthorized

T = TypeVar("T")
AZURES = frozenset({"https://management.azure.com", "https://storage.azure.com"})
"""Token audiences that clients use in any cloud: before they share with a registry, and for blobs."""


class MlflowDialect(Protocol):
    """Answers MLflow's requests on this server, where it has that entrypoint."""

    @property
    def artifact_root(self) -> bytes:
        """The prefix of a run's artifact URI in the JSON of an answer."""

    def role_of(self, method: str, path: str) -> Role:
        """Return the role that a request needs."""

    async def answer(self, request: Request, caller: Caller, path: str) -> Response:
        """Answer an authorized caller."""


@dataclass(frozen=True)
class AzureContext:
    """The https port's parts, as they are for one request. `serving` is the http port's, whose ways to the workers it shares.

    caller: who asks, once that is known. place: this server under the name that the request calls it by. workspace: the verbs,
    in the caller's name. http_port: where MLflow is found.
    """

    caller: Caller
    place: Place
    identity: Identity
    workspace: Workspace
    job_logs: JobLogs
    serving: Context
    http_port: int
    mlflow: MlflowDialect | None = None

    @property
    def audiences(self) -> frozenset[str]:
        """The accepted audiences of a token: this server, or Azure ML of its cloud."""
        own = {self.place.base, self.place.ml_audience}
        return AZURES | own | {f"https://ml.azure.{SUFFIX}", f"https://storage.azure.{SUFFIX}"}

    @property
    def mlflow_uri(self) -> str:
        """The tracking URI for MLflow's own client, which prints it: the key is in the client's environment instead."""
        if self.place.name in LOOPBACK_NAMES:  # nobody listens there, and a client needs no authority of ours
            return f"http://{self.place.name}:{self.http_port}/mlflow"
        return f"https://{self.place.host}/mlflow"

    @property
    def sas(self) -> Sas:
        """The caller's key for shared access signatures."""
        return sas_of(self.identity, self.caller)

    def callers(self) -> Iterator[Caller]:
        """Yield all possible callers: the home's own user, the users who aren't revoked, the steps that run."""
        yield self.identity.owner
        yield from (caller_of(user) for user in self.workspace.users.list() if not user.is_revoked)
        makers = {job.name: job.created_by for job in self.workspace.jobs.queue()}
        for step in self.workspace.jobs.running_steps():
            if step.job in makers:  # else it was made since
                yield step_caller(Attempt(step.job, step.name, step.attempt), makers[step.job])

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Run blocking work in a thread, off the event loop."""
        return await run_in_threadpool(work)


def azure_context(request: Request) -> AzureContext:
    """Return a request's context: the server's, for the caller and under the host name of the request.

    Where nobody has said who asks (a signed address, an endpoint's key), it is the home's own. It is made once a request, and
    anew only when it has become known who asks.
    """
    server = cast(AzureContext, request.app.state.context)
    caller = getattr(request.state, "caller", server.caller)
    context: AzureContext | None = getattr(request.state, "azure_context", None)
    if context is None or context.caller != caller:
        is_own = caller.user == server.workspace.user
        workspace = server.workspace if is_own else server.workspace.acting_as(caller.user)
        place = Place(f"https://{request.headers['host']}")
        context = replace(server, caller=caller, place=place, workspace=workspace)
        request.state.azure_context = context
    return context


async def _context_of_caller(request: Request) -> AzureContext:
    return azure_context(request)


Azure = Annotated[AzureContext, Depends(_context_of_caller)]
"""What hands a route its context, once it is known who asks. Not a thread's work, which each dependency that blocks is."""


def require_token(request: Request) -> None:
    """Raise `Unauthorized` unless the request has a token that this server gave, `Forbidden` where its role isn't enough."""
    authorize(identify(request), request, azure_context(request).workspace, RULES)


def identify(request: Request) -> Caller:
    """Authenticate a request by its token, and set and return its caller; raises `Unauthorized`."""
    context = azure_context(request)
    request.state.caller = context.identity.check_token(bearer(request.headers), context.audiences)
    users, serving = context.workspace.users, context.serving
    request.state.caller = admit(request.state.caller, users, lambda attempt: serving.is_running(attempt))
    return cast(Caller, request.state.caller)


def require_workspace(request: Request) -> None:
    """Raise `NotFound` for another workspace than the home's, named within the home's own subscription, or another registry.

    In another subscription every name is the home's workspace: a script that was written for Azure names Azure's.
    """
    names = {part: str(name).lower() for part, name in request.path_params.items()}
    require_registry(request.path_params.get("registry", REGISTRY))
    if names.get("subscription") != SUBSCRIPTION or "workspace" not in names:
        return
    for part, noun, ours in (("group", "resource group", RESOURCE_GROUP), ("workspace", "workspace", WORKSPACE)):
        if names[part] != ours:
            raise NotFound(
                f"No {noun} is called '{request.path_params[part]}'. This home's is '{ours}'; `mafunzo run` writes a "
                "config.json that names it."
            )


def require_registry(name: str) -> None:
    """Raise `NotFound` for another registry than the one."""
    if name.lower() != REGISTRY:
        raise NotFound(f"No registry is called '{name}'. There is '{REGISTRY}'.")


def whoever_signed(request: Request, check: Callable[[Sas], T]) -> T:
    """Authenticate a request by its signature: set its caller to the signer, and return the result of `check` with their key.

    Raises what `check` raises where no caller's key fits: `Unauthorized`.
    """
    context, refusals = azure_context(request), []
    for caller in context.callers():
        try:
            result = check(sas_of(context.identity, caller))
        except Unauthorized as error:
            refusals.append(error)
        else:
            request.state.caller = caller
            return result
    raise refusals[0]


async def body_of(request: Request) -> dict[str, Any]:
    """Return a request's JSON object; raises `InvalidParameter` for what is none, or is too large."""
    body = await limited_json(request, context_of(request).limits.azure_body_bytes)
    if not isinstance(body, dict):
        raise InvalidParameter("The request's body isn't a JSON object.")
    check_body(body)
    return body


Body = Annotated[dict[str, Any], Depends(body_of)]
"""What hands a route its request's JSON object, once the caller may ask."""
