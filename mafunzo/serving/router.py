"""Passes a request on to a worker and its answer back, byte by byte as they come.

A worker speaks OpenAI's dialect under its endpoint's name, so nothing is rewritten on the way.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import aiohttp

from mafunzo.entities.endpoint import Deployment
from mafunzo.errors import TimedOut, Unavailable, WorkerFailed
from mafunzo.wire.openai.error import error_body

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
            async with asyncio.timeout_at(self._deadline):
                return await self._response.read()
        except TimeoutError as error:
            raise _timed_out(self._timeout_s) from error
        except aiohttp.ClientError as error:
            raise _broke_off(error) from error
        finally:
            self.close()

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body as it comes. A stream has its status already: what goes wrong then is its last event."""
        try:
            async with asyncio.timeout_at(self._deadline):
                async for chunk in self._response.content.iter_any():
                    yield chunk
        except TimeoutError:
            yield _event(_timed_out(self._timeout_s))
        except aiohttp.ClientError as error:
            yield _event(_broke_off(error))
        finally:
            self.close()

    def close(self) -> None:
        """Give the connection back if the answer was read to its end, else close it: the worker then stops writing."""
        self._response.close()


class Router:
    """Connections to the workers, shared by all requests. An async context manager."""

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_CONNECTION_S)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S)
        self._session = aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def forward(self, deployment: Deployment, path: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Send a request to a worker and return its answer as soon as its status is known.

        `headers` in lower case; those that concern the user's connection or key aren't passed on. The deployment's
        `request_timeout_s` counts from now to the last byte. Raises `Unavailable`, `TimedOut` or `WorkerFailed`.
        """
        timeout_s = deployment.request_timeout_s
        deadline = asyncio.get_running_loop().time() + timeout_s
        passed = {name: headers[name] for name in PASSED_REQUEST_HEADERS if name in headers}
        passed["accept-encoding"] = "identity"
        try:
            async with asyncio.timeout_at(deadline):
                response = await self._session.post(
                    f"http://127.0.0.1:{deployment.port}{path}", data=body, headers=passed, allow_redirects=False
                )
        except TimeoutError as error:
            raise _timed_out(timeout_s) from error
        except aiohttp.ClientConnectorError as error:
            raise Unavailable(
                f"The worker of deployment '{deployment.endpoint}/{deployment.name}' can't be reached. Try again later."
            ) from error
        except aiohttp.ClientError as error:
            raise _broke_off(error) from error
        given = {name: response.headers[name] for name in PASSED_RESPONSE_HEADERS if name in response.headers}
        return Answer(response.status, given, response, deadline, timeout_s)


def _timed_out(timeout_s: float) -> TimedOut:
    return TimedOut(f"The model didn't finish its answer in {timeout_s:g} s (request_timeout). Ask for fewer tokens.")


def _broke_off(error: aiohttp.ClientError) -> WorkerFailed:
    return WorkerFailed(f"The worker broke off its answer ({type(error).__name__}). Try again.")


def _event(error: TimedOut | WorkerFailed) -> bytes:
    return b"data: " + json.dumps(error_body(error)).encode() + b"\n\n"
