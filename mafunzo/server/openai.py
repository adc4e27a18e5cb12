"""OpenAI's dialect: `model` names the endpoint, and the bearer key is that endpoint's."""

import asyncio
import logging
import random
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from mafunzo.entities.endpoint import Deployment, Endpoint
from mafunzo.errors import CLIENT_CLOSED_REQUEST, InvalidParameter, MafunzoError, RateLimitExceeded, Unavailable
from mafunzo.server.auth import bearer
from mafunzo.server.body import json_of, limited_body
from mafunzo.server.context import Context, context_of
from mafunzo.server.limits import Limits
from mafunzo.serving.router import Answer
from mafunzo.serving.traffic import pick
from mafunzo.wire.openai.error import error_body

logger = logging.getLogger(__name__)

INTERNAL_ERROR = 500
NAMES_DEPLOYMENT = ("mafunzo-deployment", "azureml-model-deployment")
"""Request headers that name a deployment, and response headers that say which one answered."""

T = TypeVar("T")
router = APIRouter(prefix="/v1")


@router.post("/chat/completions")
async def chat_completions(request: Request) -> Response:
    """Answer a conversation, at once or as a stream."""
    return await _pass_on(request, "/v1/chat/completions")


@router.post("/completions")
async def completions(request: Request) -> Response:
    """Continue a text."""
    return await _pass_on(request, "/v1/completions")


@router.get("/models")
async def list_models(request: Request) -> Response:
    """List the endpoints that the key opens."""
    snapshot = await context_of(request).directory.newest()
    found = snapshot.opened_by(bearer(request.headers))
    return JSONResponse({"object": "list", "data": [_model(entry.endpoint) for entry in found]})


@router.get("/models/{name}")
async def get_model(request: Request, name: str) -> Response:
    """Return one endpoint that the key opens."""
    snapshot = await context_of(request).directory.newest()
    return JSONResponse(_model(snapshot.find(bearer(request.headers), name).endpoint))


@router.api_route("/{path:path}", methods=["GET", "POST", "PUT", "PATCH", "DELETE"], include_in_schema=False)
async def unknown(request: Request, path: str) -> Response:
    """Refuse what isn't there in the dialect's own words."""
    message = f"{request.method} /v1/{path} doesn't exist here."
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": "unknown_url"}
    return JSONResponse({"error": error}, status_code=404)


def error_response(error: MafunzoError, limits: Limits) -> JSONResponse:
    """Return an error in the dialect; what may succeed later says when to try again."""
    headers = {"Retry-After": str(limits.retry_after_s)} if isinstance(error, Unavailable | RateLimitExceeded) else {}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(error_body(error), status_code=error.status, headers=headers)


@dataclass(frozen=True)
class _Passage:
    """One request on its way to a worker."""

    context: Context
    deployment: Deployment
    path: str
    began: float

    def headers(self) -> dict[str, str]:
        return dict.fromkeys(NAMES_DEPLOYMENT, self.deployment.name)

    def begin(self) -> None:
        """Count the request as being answered; `end` must follow."""
        self.context.metrics.in_flight.labels(self.deployment.endpoint, self.deployment.name).inc()

    def end(self, status: int) -> None:
        """Write the request down: where it went and how long it took, never what was said or with which key."""
        seconds = time.monotonic() - self.began
        endpoint, name = self.deployment.endpoint, self.deployment.name
        self.context.metrics.in_flight.labels(endpoint, name).dec()
        self.context.metrics.finished(endpoint, name, status, seconds)
        logger.info("POST %s %s/%s %s %.3f s", self.path, endpoint, name, status, seconds)


class _Relay(StreamingResponse):
    """A worker's answer on its way back. Whatever ends it, also the client's leaving, ends the worker's part of it."""

    def __init__(self, passage: _Passage, answer: Answer) -> None:
        super().__init__(answer.chunks(), answer.status, {**answer.headers, **passage.headers()})
        self._passage, self._answer = passage, answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._answer.close()
            self._passage.end(self._answer.status)


class _ClientGone(Exception):
    """Nobody waits for the answer any more."""


async def _pass_on(request: Request, path: str) -> Response:
    context, began = context_of(request), time.monotonic()
    key = bearer(request.headers)
    (await context.directory.newest()).opened_by(key)  # before the body is taken in
    body = await limited_body(request, context.limits.chat_body_bytes)
    entry = (await context.directory.newest()).find(key, _model_name(body))
    named = next((request.headers[name] for name in NAMES_DEPLOYMENT if name in request.headers), None)
    deployment = pick(entry.endpoint, entry.deployments, named, random.random())
    passage = _Passage(context, deployment, path, began)
    passage.begin()
    try:
        forwarding = context.router.forward(deployment, path, body, request.headers)
        answer = await _while_connected(request, forwarding)
        if answer.is_stream:
            return _Relay(passage, answer)
        content = await _while_connected(request, answer.read())
    except MafunzoError as error:
        passage.end(error.status)
        response = error_response(error, context.limits)
        response.headers.update(passage.headers())
        return response
    except _ClientGone:
        passage.end(CLIENT_CLOSED_REQUEST)
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    except BaseException:
        passage.end(INTERNAL_ERROR)
        raise
    passage.end(answer.status)
    return Response(content, answer.status, {**answer.headers, **passage.headers()})


def _model_name(body: bytes) -> str:
    asked = json_of(body)
    name = asked.get("model") if isinstance(asked, dict) else None
    if not isinstance(name, str):
        raise InvalidParameter("The request names no model: 'model' is the name of the endpoint.")
    return name


async def _while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Return the result of `work`, or cancel it and raise `_ClientGone` when the client leaves before."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise _ClientGone
        return task.result()
    finally:
        for each in (task, gone):
            each.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _model(endpoint: Endpoint) -> dict[str, Any]:
    created = int(endpoint.created_at.timestamp()) if endpoint.created_at else 0
    return {"id": endpoint.name, "object": "model", "created": created, "owned_by": "mafunzo"}
