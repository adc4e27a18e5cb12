"""OpenAI's dialect: `model` names the endpoint, or `<endpoint>:<adapter>`, and the bearer key opens that endpoint."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from mafunzo.entities.adapter import adapter_model, split_model
from mafunzo.entrypoints.http.body import json_of, limited_body
from mafunzo.entrypoints.http.context import context_of
from mafunzo.entrypoints.http.directory import Entry
from mafunzo.entrypoints.http.endpoint_key import opened_endpoint, opened_endpoints, rate_caller
from mafunzo.entrypoints.http.forwarding import (
    Answer,
    Exchange,
    exchange_headers,
    named_deployment,
    while_connected,
)
from mafunzo.entrypoints.http.limits import Limits, retry_after
from mafunzo.entrypoints.http.listing import shown
from mafunzo.entrypoints.http.request_id import mark_routed, request_id
from mafunzo.errors import InvalidParameter, MafunzoError, NotFound
from mafunzo.protocol.body import check_values
from mafunzo.protocol.errors import error_body, refusal_body
from mafunzo.protocol.paths import unknown_address
from mafunzo.protocol.token_estimate import tokens_asked

Translate = Callable[[Answer], Answer]
"""Makes of a worker's answer that of another dialect."""

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
    """List the endpoints that the key opens, each with the adapters that answer there."""
    entries = await opened_endpoints(request)
    models = [model for bodies in shown(entries, _models) for model in bodies]
    return JSONResponse({"object": "list", "data": models})


@router.get("/models/{name}")
async def get_model(request: Request, name: str) -> Response:
    """Return one endpoint that the key opens, or one adapter of it."""
    models = _models(await opened_endpoint(request, split_model(name)[0]))
    model = next((one for one in models if one["id"] == name), None)
    if model is None:
        raise NotFound(f"The model '{name}' doesn't exist: no such adapter is live on the endpoint.")
    return JSONResponse(model)


@router.api_route("/{path:path}", methods=["GET", "POST", "PUT", "PATCH", "DELETE"], include_in_schema=False)
async def unknown(request: Request, path: str) -> Response:
    """Answer an unknown path with the dialect's 404."""
    return JSONResponse(refusal_body(unknown_address(request.method, path), "unknown_url"), 404)


def error_response(error: MafunzoError, limits: Limits) -> JSONResponse:
    """Return an error in the dialect; one that may succeed later has `Retry-After`."""
    headers = retry_after(error, limits)
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    param = error.param if isinstance(error, InvalidParameter) else None
    return JSONResponse(error_body(error, param), status_code=error.status, headers=headers)


class _Relay(StreamingResponse):
    """A worker's answer on its way back. Whatever ends it, also the client's leaving, ends the worker's part of it."""

    def __init__(self, exchange: Exchange, answer: Answer) -> None:
        exchange.relay()
        super().__init__(answer.chunks(), answer.status, {**answer.headers, **exchange_headers(exchange)})
        self._exchange, self._answer = exchange, answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._answer.close()
            self._exchange.end(self._answer.outcome)


async def _pass_on(request: Request, path: str) -> Response:
    asked = await read_request(request)
    return await forward(request, asked, path, asked.body, asked.content.get("stream") is True)


class Asked(NamedTuple):
    """A request's body, its content, the endpoint that it names, and the adapter there; None for the endpoint's model."""

    body: bytes
    content: Mapping[str, Any]
    entry: Entry
    adapter: str | None


async def read_request(request: Request) -> Asked:
    """Return what a request asks of whom; raises what refuses it."""
    await opened_endpoints(request)  # before the body is taken in
    body = await limited_body(request, context_of(request).limits.chat_body_bytes)
    content = json_of(body)
    check_values(content)
    name = content.get("model") if isinstance(content, dict) else None
    if not isinstance(name, str):
        raise InvalidParameter("The request names no model: 'model' is the name of the endpoint.", param="model")
    endpoint, adapter = split_model(name)
    return Asked(body, content, await opened_endpoint(request, endpoint), adapter)


async def forward(
    request: Request, asked: Asked, path: str, body: bytes, is_stream: bool, translated: Translate | None = None
) -> Response:
    """Have a worker answer `body` at its own `path`; the answer is passed on as it comes, or `translated`."""
    context, entry = context_of(request), asked.entry
    named = named_deployment(request.headers)
    caller = rate_caller(request, entry)
    tokens = tokens_asked(body) if entry.endpoint.rate_limits else 0
    exchange = context.router.open(
        entry.endpoint,
        entry.deployments,
        named,
        request.url.path,
        request_id(request),
        caller=caller,
        tokens=tokens,
        adapter=asked.adapter,
    )
    mark_routed(request)
    try:
        with exchange:
            answer = await while_connected(request, exchange.ask(path, body, request.headers, is_stream))
            if translated is not None:
                answer = translated(answer)
            if answer.is_stream:
                return _Relay(exchange, answer)
            content = await while_connected(request, answer.read())
            exchange.status = answer.status
    except MafunzoError as error:
        response = error_response(error, context.limits)
        response.headers.update(exchange_headers(exchange))
        return response
    return Response(content, answer.status, {**answer.headers, **exchange_headers(exchange)})


def _models(entry: Entry) -> list[dict[str, Any]]:
    """Return the endpoint's model, and those of its adapters that requests may name."""
    endpoint = entry.endpoint
    created = int(endpoint.created_at.timestamp()) if endpoint.created_at else 0
    offered = {name for deployment in entry.deployments for name in deployment.adapters if deployment.offers(name)}
    names = [endpoint.name, *(adapter_model(endpoint.name, adapter) for adapter in sorted(offered))]
    return [{"id": name, "object": "model", "created": created, "owned_by": "mafunzo"} for name in names]
