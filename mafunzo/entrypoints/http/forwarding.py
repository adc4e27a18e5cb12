"""Forwarding a request to a deployment, in any dialect: who forwards it, which deployment it names, and that it may be cut off.

The router is made by `serve`; a way in knows it by these protocols.
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, Protocol, TypeVar

from starlette.requests import Request

from mafunzo.entities.endpoint import Deployment, Endpoint
from mafunzo.entities.rate_limit import RateState
from mafunzo.entrypoints.http.rate_headers import rate_headers
from mafunzo.errors import ClientGone

T = TypeVar("T")
NAMES_DEPLOYMENT = ("mafunzo-deployment", "azureml-model-deployment")
"""Request headers that name a deployment, and response headers that say which one answered."""
ANSWER_HEADER = "mafunzo-answer"
"""The ids of the answers in their order, where a dialect has no place for them in its body."""


class Answer(Protocol):
    """A worker's answer, whose body is read while it comes. outcome: the status that says how it went, once it has ended."""

    status: int
    outcome: int
    headers: Mapping[str, str]

    @property
    def is_stream(self) -> bool:
        """Whether the body comes in server-sent events."""

    async def read(self) -> bytes:
        """Return the whole body."""

    def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body as it comes."""

    def close(self) -> None:
        """End the worker's part of it as well."""


class Exchange(AbstractContextManager["Exchange"], Protocol):
    """One request and its answer. `status` is the answer's, set by whoever answers; `deployment` is the one that does."""

    deployment: Deployment
    status: int

    @property
    def rate(self) -> RateState:
        """What the caller has left of its rate limits."""

    async def ask(self, path: str, body: bytes, headers: Mapping[str, str], is_stream: bool = False) -> Answer:
        """Ask the deployment's worker; an exchange may ask it several times. is_stream: whether the client asks for one."""

    def relay(self) -> None:
        """Leave the context without an end: whoever passes the answer on calls `end`."""

    def end(self, status: int) -> None:
        """Count and log the request."""


class Router(AbstractAsyncContextManager[Any], Protocol):
    """The one way to the workers."""

    def open(
        self,
        endpoint: Endpoint,
        deployments: Sequence[Deployment],
        deployment_name: str | None,
        path: str,
        request_id: str = "",
        caller: str = "",
        tokens: int = 0,
        adapter: str | None = None,
    ) -> Exchange:
        """Return the exchange of a request to `path`, with the deployment that is named or that the traffic gives.

        caller: whose it is, for rate limits; tokens: how many it may take. adapter: which of the endpoint's it is for.
        """


def named_deployment(headers: Mapping[str, str]) -> str | None:
    """Return the deployment that a request names, or None where the endpoint's traffic decides."""
    return next((headers[name] for name in NAMES_DEPLOYMENT if name in headers), None)


def exchange_headers(exchange: Exchange) -> dict[str, str]:
    """Return the headers that say which deployment answered, and what the caller may ask next."""
    return {**deployment_headers(exchange.deployment), **rate_headers(exchange.rate)}


def deployment_headers(deployment: Deployment) -> dict[str, str]:
    """Return the headers that name the deployment that answered."""
    return dict.fromkeys(NAMES_DEPLOYMENT, deployment.name)


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Return the result of `work`, or cancel it and raise `ClientGone` when the client leaves before.

    The request's body must have been read: the next message is the client's disconnect.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone("The client left before its answer.")
        return task.result()
    finally:
        for each in (task, gone):
            each.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
