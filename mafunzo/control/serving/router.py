"""A reverse proxy: every request to a deployment, in whichever dialect, is limited, counted, logged and forwarded here.

A worker speaks OpenAI's dialect under its endpoint's name, so its answer is passed back byte by byte as it comes.
"""

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import aiohttp

from mafunzo.control.serving.metrics import RequestMetrics
from mafunzo.control.serving.traffic import pick
from mafunzo.entities.endpoint import Deployment, Endpoint
from mafunzo.errors import MafunzoError, RateLimitExceeded, TimedOut, Unavailable, WorkerFailed
from mafunzo.protocol.errors import error_body
from mafunzo.protocol.stream import event

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 5.0
IDLE_CONNECTION_S = 2.0
"""Less than a worker keeps an idle connection (uvicorn: 5 s), so that none is used at the moment when it closes."""
PASSED_REQUEST_HEADERS = ("content-type", "accept", "x-request-id")
PASSED_RESPONSE_HEADERS = ("content-type", "cache-control", "retry-after", "x-request-id")


@dataclass
class Answer:
    """A worker's answer, whose body is read while it comes. `close` ends the worker's part of it as well."""

    status: int
    headers: Mapping[str, str]
    _response: aiohttp.ClientResponse
    _deadline: float
    _timeout_s: float

    @property
    def is_stream(self) -> bool:
        return self.headers.get("content-type", "").startswith("text/event-stream")

    async def read(self) -> bytes:
        """Return the whole body; raises `TimedOut` or `WorkerFailed`."""
        try:
            async with _within(self._deadline, self._timeout_s):
                return await self._response.read()
        finally:
            self.close()

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body as it comes. A stream has its status already: what goes wrong then is its last event."""
        try:
            async with _within(self._deadline, self._timeout_s):
                async for chunk in self._response.content.iter_any():
                    yield chunk
        except MafunzoError as error:
            yield event(error_body(error))
        finally:
            self.close()

    def close(self) -> None:
        """Give the connection back if the answer was read to its end, else close it: the worker then stops writing."""
        self._response.close()


class Exchange:
    """One request of a client and its answer: limited, counted and logged once, whatever ends it. A context manager.

    `status` is the answer's HTTP status, set by whoever answers; an error that leaves the context has its own. `deployment` is
    the one that answers.
    """

    def __init__(self, router: "Router", deployment: Deployment, path: str) -> None:
        self.deployment, self.status = deployment, 200
        self._router, self._path = router, path
        self._began_s = 0.0
        self._is_relayed = False

    def __enter__(self) -> Self:
        self._began_s = time.monotonic()
        try:
            self._router.begin(self.deployment)
        except RateLimitExceeded as error:
            self.end(error.status)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.status = error.status if isinstance(error, MafunzoError) else MafunzoError.status
        if not self._is_relayed:
            self.end(self.status)

    async def ask(self, path: str, body: bytes, headers: Mapping[str, str]) -> "Answer":
        """Ask the deployment's worker; an exchange may ask it several times. See `Router.forward`."""
        return await self._router.forward(self.deployment, path, body, headers)

    def relay(self) -> None:
        """Leave the context without an end: the answer is a stream, and whoever passes it on calls `end`."""
        self._is_relayed = True

    def end(self, status: int) -> None:
        """Write the request down: where it went and how long it took, never what was said or with which key."""
        seconds = time.monotonic() - self._began_s
        self._router.end(self.deployment, status, seconds)
        name = f"{self.deployment.endpoint}/{self.deployment.name}"
        logger.info("POST %s %s %s %.3f s", self._path, name, status, seconds)


class Router:
    """The one way to the workers, for every dialect: connections that all requests share, limits, metrics and the access log.

    requests_in_flight: how many requests one deployment answers or queues at once. draw: a number in [0, 1) that decides among
    deployments. An async context manager.
    """

    def __init__(
        self, metrics: RequestMetrics, requests_in_flight: int, draw: Callable[[], float] = random.random
    ) -> None:
        self._metrics, self._most_in_flight, self._draw = metrics, requests_in_flight, draw
        self._in_flight: Counter[tuple[str, str]] = Counter()

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_CONNECTION_S)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S)
        self._session = aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    def open(
        self, endpoint: Endpoint, deployments: Sequence[Deployment], deployment_name: str | None, path: str
    ) -> Exchange:
        """Return the exchange of a request to `path`, with the deployment that it names or that its endpoint's traffic gives.

        Raises `NotFound` for an unknown name, `Unavailable` when nothing healthy can answer; entering the exchange raises
        `RateLimitExceeded` when the deployment has as many requests as it may.
        """
        return Exchange(self, pick(endpoint, deployments, deployment_name, self._draw()), path)

    def begin(self, deployment: Deployment) -> None:
        """Count a request as being answered; `end` must follow, also when this raises `RateLimitExceeded`."""
        key = (deployment.endpoint, deployment.name)
        self._in_flight[key] += 1
        self._metrics.begin(deployment)
        if self._in_flight[key] > self._most_in_flight:
            raise RateLimitExceeded(
                f"Deployment '{deployment.endpoint}/{deployment.name}' has {self._most_in_flight} requests under way, as many "
                "as it may. Try again in a moment."
            )

    def end(self, deployment: Deployment, status: int, seconds: float) -> None:
        """Count a request as answered."""
        self._in_flight[deployment.endpoint, deployment.name] -= 1
        self._metrics.end(deployment, status, seconds)

    async def forward(self, deployment: Deployment, path: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Send a request to a worker and return its answer as soon as its status is known.

        `headers` in lower case; those that concern the user's connection or key aren't passed on. The deployment's
        `request_timeout_s` counts from now to the last byte. Raises `Unavailable`, `TimedOut` or `WorkerFailed`.
        """
        timeout_s = deployment.request_timeout_s
        deadline = asyncio.get_running_loop().time() + timeout_s
        passed = {name: headers[name] for name in PASSED_REQUEST_HEADERS if name in headers}
        passed["accept-encoding"] = "identity"
        async with _within(deadline, timeout_s):
            try:
                response = await self._session.post(
                    f"http://127.0.0.1:{deployment.port}{path}", data=body, headers=passed, allow_redirects=False
                )
            except aiohttp.ClientConnectorError as error:
                raise Unavailable(
                    f"The worker of deployment '{deployment.endpoint}/{deployment.name}' can't be reached. Try again later."
                ) from error
        passed = {name: response.headers[name] for name in PASSED_RESPONSE_HEADERS if name in response.headers}
        return Answer(response.status, passed, response, deadline, timeout_s)


@asynccontextmanager
async def _within(deadline: float, timeout_s: float) -> AsyncIterator[None]:
    """Bound what a worker takes, and say in our words what goes wrong with it: `TimedOut` or `WorkerFailed`."""
    try:
        async with asyncio.timeout_at(deadline):
            yield
    except TimeoutError as error:
        raise TimedOut(
            f"The model didn't finish its answer in {timeout_s:g} s (request_timeout). Ask for fewer tokens."
        ) from error
    except aiohttp.ClientError as error:
        raise WorkerFailed(f"The worker broke off its answer ({type(error).__name__}). Try again.") from error
