"""Scoring requests in Azure's dialect: `POST /endpoints/<endpoint>/score`, with the endpoint's key."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from mafunzo.entrypoints.azure.wire.endpoint import scoring_path
from mafunzo.entrypoints.azure.wire.scoring import answer_body, requests_from_body
from mafunzo.entrypoints.http.body import limited_json
from mafunzo.entrypoints.http.context import context_of
from mafunzo.entrypoints.http.endpoint_key import opened_endpoint, rate_caller
from mafunzo.entrypoints.http.forwarding import (
    ANSWER_HEADER,
    Exchange,
    exchange_headers,
    named_deployment,
    while_connected,
)
from mafunzo.entrypoints.http.request_id import mark_routed, request_id
from mafunzo.errors import WorkerFailed
from mafunzo.protocol.token_estimate import tokens_asked

OK = 200
router = APIRouter()


@router.post(scoring_path("{endpoint}"))
async def score(request: Request, endpoint: str) -> Response:
    """Answer every conversation of a request; an error of any is the answer, with its own status."""
    context = context_of(request)
    entry = await opened_endpoint(request, endpoint)
    body = await limited_json(request, context.limits.chat_body_bytes)
    bodies, is_list = requests_from_body(body, endpoint, context.limits.score_conversations)
    deployment = named_deployment(request.headers)
    path, id_of_request = request.url.path, request_id(request)
    tokens = sum(tokens_asked(json.dumps(one).encode()) for one in bodies) if entry.endpoint.rate_limits else 0
    exchange = context.router.open(
        entry.endpoint,
        entry.deployments,
        deployment,
        path,
        id_of_request,
        caller=rate_caller(request, entry),
        tokens=tokens,
    )
    mark_routed(request)
    with exchange:
        answers = await while_connected(request, _ask_all(exchange, bodies))
        refusal = next(((status, body) for status, body in answers if status != OK), None)
        exchange.status, content = refusal or (OK, answer_body([body for _, body in answers], is_list))
    named = {} if refusal else {ANSWER_HEADER: ",".join(body["id"] for _, body in answers)}
    return JSONResponse(content, exchange.status, {**exchange_headers(exchange), **named})


async def _ask_all(exchange: Exchange, bodies: Sequence[Mapping[str, Any]]) -> list[tuple[int, dict[str, Any]]]:
    tasks = [asyncio.create_task(_ask(exchange, body)) for body in bodies]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:  # where one broke off, nobody waits for the others
            task.cancel()


async def _ask(exchange: Exchange, body: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
    """Return the worker's status and JSON answer; raises `WorkerFailed` for another answer."""
    content = json.dumps(body).encode()
    answer = await exchange.ask("/v1/chat/completions", content, {"content-type": "application/json"})
    text = await answer.read()
    try:
        reply: dict[str, Any] = json.loads(text)
    except ValueError as error:
        endpoint, name = exchange.deployment.endpoint, exchange.deployment.name
        raise WorkerFailed(
            f"The worker of {endpoint}/{name} answered HTTP {answer.status} without JSON. "
            f"Its log says why: mafunzo endpoint logs {endpoint}"
        ) from error
    return answer.status, reply
