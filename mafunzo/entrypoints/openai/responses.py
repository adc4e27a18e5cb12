"""OpenAI's Responses API: a request becomes a chat completion, and goes the way of all of them; its answer may be stored."""

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response
from starlette.types import Scope

from mafunzo.entities.rate_limit import PRIMARY, SECONDARY
from mafunzo.entities.stored_response import StoredResponse
from mafunzo.entrypoints.http.audit import route_name
from mafunzo.entrypoints.http.context import context_of
from mafunzo.entrypoints.http.directory import Entry
from mafunzo.entrypoints.http.endpoint_key import opened_endpoints, rate_caller
from mafunzo.entrypoints.http.forwarding import Answer
from mafunzo.entrypoints.openai.response_answer import ResponseAnswer
from mafunzo.entrypoints.openai.routes import forward, read_request
from mafunzo.errors import InvalidParameter
from mafunzo.protocol.field import Fields
from mafunzo.protocol.response_item import item_page, random_id
from mafunzo.protocol.response_request import ResponseRequest, chat_body, response_request_from_dict
from mafunzo.protocol.response_stream import ResponseHeading, ResponseStream

ENDPOINT_KEYS = "keys"
"""The owner of what was asked for with either of an endpoint's own keys: one takes the other's place when that is renewed."""

CHANGES = frozenset({"delete_response"})
"""Routes of the dialect that change what is stored, beside those that give an answer."""

router = APIRouter(prefix="/v1")


def is_audited(scope: Scope) -> bool:
    """Return whether a request of the dialect is written into the audit log, however it ends."""
    return route_name(scope) in CHANGES


@router.post("/responses")
async def create_response(request: Request) -> Response:
    """Answer the input, at once or as a stream, and store the answer unless `store` is false."""
    context = context_of(request)
    asked = await read_request(request)
    entry = asked.entry
    response_request = response_request_from_dict(asked.content)
    history = await _history(request, response_request)
    body = json.dumps(chat_body(response_request, history), ensure_ascii=False).encode()
    most_bytes = context.limits.chat_body_bytes
    if len(body) > most_bytes:
        raise InvalidParameter(
            f"The conversation is larger than {most_bytes} bytes: begin a new one.", param="previous_response_id"
        )
    heading = ResponseHeading(random_id("resp"), int(time.time()))
    stream = ResponseStream(response_request, heading)
    stored = StoredResponse(
        id=heading.id,
        endpoint=entry.endpoint.name,
        owner=_owner(request, entry),
        previous=response_request.previous_response_id,
        input=response_request.items,
        body=stream.response,
    )

    async def keep(response: Mapping[str, Any]) -> None:
        if response_request.is_stored:
            await run_in_threadpool(context.responses.put, dataclasses.replace(stored, body=response))

    def translated(answer: Answer) -> Answer:
        return ResponseAnswer(answer, stream, keep)

    return await forward(request, asked, "/v1/chat/completions", body, response_request.is_stream, translated)


@router.get("/responses/{response_id}")
async def get_response(request: Request, response_id: str) -> Response:
    """Return a stored response."""
    owners = await _owners(request)
    _refuse_query(request)
    response = await run_in_threadpool(context_of(request).responses.get, response_id, owners)
    return JSONResponse(dict(response.body))


@router.delete("/responses/{response_id}")
async def delete_response(request: Request, response_id: str) -> Response:
    """Delete a stored response."""
    owners = await _owners(request)
    _refuse_query(request)
    await run_in_threadpool(context_of(request).responses.delete, response_id, owners)
    return JSONResponse({"id": response_id, "object": "response", "deleted": True})


@router.get("/responses/{response_id}/input_items")
async def list_input_items(request: Request, response_id: str) -> Response:
    """List the items of a stored response's own input."""
    owners = await _owners(request)
    response = await run_in_threadpool(context_of(request).responses.get, response_id, owners)
    return JSONResponse(item_page(response.input, request.query_params))


async def _history(request: Request, response_request: ResponseRequest) -> Sequence[Mapping[str, Any]]:
    """Return the items that the request goes on with."""
    previous = response_request.previous_response_id
    if previous is None:
        return ()
    context, owners = context_of(request), await _owners(request)
    most = context.limits.chat_body_bytes
    return await run_in_threadpool(context.responses.conversation, previous, owners, most)


async def _owners(request: Request) -> dict[str, str]:
    """Return who asks, as the owner of responses, by each endpoint that the key opens."""
    return {entry.endpoint.name: _owner(request, entry) for entry in await opened_endpoints(request)}


def _owner(request: Request, entry: Entry) -> str:
    caller = rate_caller(request, entry)
    return ENDPOINT_KEYS if caller in (PRIMARY, SECONDARY) else caller


def _refuse_query(request: Request) -> None:
    """Refuse parameters in the address: of a stored response there are neither events nor further parts."""
    Fields(dict(request.query_params)).check()
