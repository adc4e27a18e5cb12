"""A worker's HTTP: OpenAI's dialect over one engine, and what a supervisor asks."""

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import psutil
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.exceptions import HTTPException

from mafunzo.chat.template import render_ids
from mafunzo.entities.conversation import Conversation
from mafunzo.errors import (
    CLIENT_CLOSED_REQUEST,
    FailedError,
    InvalidData,
    InvalidParameter,
    MafunzoError,
    NotFound,
    Unavailable,
)
from mafunzo.inference.engine import PROMPT
from mafunzo.inference.loading import LoadedModel
from mafunzo.inference.metrics import Metrics
from mafunzo.inference.request import Delta, Event, Failed, Finished, FinishReason, Reply
from mafunzo.inference.request import Request as EngineRequest
from mafunzo.inference.sampler import Sampling
from mafunzo.inference.sampler import TokenLogprob as EngineLogprob
from mafunzo.inference.token_text import token_text
from mafunzo.wire.openai.chat import (
    ChatRequest,
    Heading,
    Options,
    TokenLogprob,
    Usage,
    chat_completion,
    chat_request_from_dict,
    conversation_from_request,
    first_chunk,
    last_chunk,
    text_chunk,
    tool_calls_chunk,
    usage_chunk,
)
from mafunzo.wire.openai.completions import Choice, CompletionRequest, Prompt, completion, completion_request_from_dict
from mafunzo.wire.openai.error import error_body
from mafunzo.wire.openai.tool_call import ToolCallFilter

END_OF_STREAM = b"data: [DONE]\n\n"


class Disconnected(Exception):
    """The client went away; nobody reads the answer."""


class Service:
    """One model under a name. `model` is None while it loads."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.created = int(time.time())
        self.model: LoadedModel | None = None
        self.metrics = Metrics(lambda: self.model.engine.load() if self.model else (0, 0))

    @property
    def loaded(self) -> LoadedModel:
        """The model; raises `Unavailable` while it loads."""
        if self.model is None:
            raise Unavailable(f"'{self.name}' is loading. Try again in a few seconds.")
        return self.model

    def heading(self, prefix: str) -> Heading:
        """Return what an answer says of itself."""
        return Heading(f"{prefix}-{secrets.token_hex(12)}", int(time.time()), self.name)

    def describe(self, entries: Sequence[EngineLogprob]) -> list[TokenLogprob]:
        """Return log-probabilities with their tokens' texts."""
        return [self._describe(entry) for entry in entries]

    def _describe(self, entry: EngineLogprob) -> TokenLogprob:
        text, raw = token_text(self.loaded.tokenizer, entry.token_id)
        top = tuple(self._describe(EngineLogprob(id, value)) for id, value in entry.top)
        return TokenLogprob(text, raw, entry.logprob, top)


class Answering:
    """One request under way in the engine, as events that a coroutine awaits."""

    def __init__(self, service: Service, request: EngineRequest) -> None:
        self._metrics = service.metrics
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._started_s = time.perf_counter()
        self._has_begun = self._is_over = False
        loop = asyncio.get_running_loop()

        def hand_over(event: Event) -> None:
            loop.call_soon_threadsafe(self._events.put_nowait, event)

        self._stream = service.loaded.engine.submit(request, hand_over)

    async def events(self) -> AsyncIterator[Event]:
        """Yield all events; raises the error of a request that failed."""
        while not self._is_over:
            event = await self._events.get()
            self._measure(event)
            if isinstance(event, Failed):
                raise event.error
            yield event

    def cancel(self) -> None:
        """Tell the engine that nobody reads on; does nothing once the answer is done."""
        if not self._is_over:
            self._is_over = True
            self._metrics.requests.labels(FinishReason.CANCELED).inc()
            self._stream.cancel()

    def _measure(self, event: Event) -> None:
        seconds = time.perf_counter() - self._started_s
        if isinstance(event, Delta) and not self._has_begun:
            self._has_begun = True
            self._metrics.first_token_s.observe(seconds)
        if isinstance(event, Finished):
            self._metrics.prompt_tokens.inc(event.prompt_tokens)
            self._metrics.generated_tokens.inc(event.completion_tokens)
        if isinstance(event, Finished | Failed):
            self._is_over = True
            self._metrics.request_s.observe(seconds)
            self._metrics.requests.labels(event.reason if isinstance(event, Finished) else "error").inc()


def make_app(service: Service) -> FastAPI:
    """Return the worker's ASGI application."""
    app = FastAPI(title="Mafunzo worker", docs_url=None, redoc_url=None, openapi_url=None)
    app.exception_handler(MafunzoError)(_tell_error)
    app.exception_handler(Disconnected)(_tell_nobody)
    app.exception_handler(HTTPException)(_tell_http)
    app.exception_handler(Exception)(_tell_fault)
    _add_facts(app, service)

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        asked = chat_request_from_dict(await _json(request))
        answering = Answering(service, _engine_request(_render(service, asked.conversation, True), asked.options))
        heading = service.heading("chatcmpl")
        if asked.is_stream:
            return _event_stream(_chat_chunks(service, asked, heading, answering), answering)
        reply = await _whole(request, answering)
        return JSONResponse(_chat_answer(service, asked, heading, reply))

    @app.post("/v1/completions")
    async def complete(request: Request) -> Response:
        asked = completion_request_from_dict(await _json(request))
        requests = [_completion_request(service, asked, prompt) for prompt in asked.prompts]
        for each in requests:
            service.loaded.engine.check(each)
        answerings = [Answering(service, each) for each in requests]
        heading = service.heading("cmpl")
        if asked.is_stream:
            return _event_stream(_completion_chunks(service, asked, heading, answerings[0]), answerings[0])
        replies = await _all_whole(request, answerings)
        choices = [_choice(service, asked, each, reply) for each, reply in zip(requests, replies, strict=True)]
        return JSONResponse(completion(heading, choices, _sum_usage(replies)))

    @app.post("/tokenize")
    async def tokenize(request: Request) -> Response:
        body = await _json(request)
        if isinstance(body, dict) and "prompt" in body:
            ids = service.loaded.tokenizer(
                str(body["prompt"]), add_special_tokens=bool(body.get("add_special_tokens", True))
            )
            tokens = list(ids["input_ids"])
        else:
            asked = conversation_from_request(body)
            tokens = _render(service, asked, bool(body.get("add_generation_prompt", True)))
        return JSONResponse(
            {"tokens": tokens, "count": len(tokens), "max_model_len": service.loaded.engine.max_model_len}
        )

    return app


def _add_facts(app: FastAPI, service: Service) -> None:
    """Add what says how the worker is."""

    @app.get("/health")
    async def health() -> Response:
        return JSONResponse(
            {"status": "loading" if service.model is None else "ready"}, 503 if service.model is None else 200
        )

    @app.get("/v1/models")
    async def models() -> Response:
        engine = service.loaded.engine
        model = {"id": service.name, "object": "model", "created": service.created, "owned_by": "mafunzo"}
        return JSONResponse({"object": "list", "data": [model | {"max_model_len": engine.max_model_len}]})

    @app.get("/info")
    async def info() -> Response:
        loaded = service.loaded
        return JSONResponse(
            {
                "name": service.name,
                "stop_token_ids": sorted(loaded.engine.stop_token_ids),
                "dtype": loaded.dtype,
                "max_model_len": loaded.engine.max_model_len,
                "max_batch": loaded.engine.limits.max_batch,
                "parameters": loaded.parameters,
                "rss_mb": round(psutil.Process().memory_info().rss / 2**20, 1),
            }
        )

    @app.get("/metrics")
    async def metrics() -> Response:
        return PlainTextResponse(service.metrics.render(), media_type="text/plain; version=0.0.4")


async def _json(request: Request) -> Any:
    try:
        return json.loads(await request.body())
    except ValueError as error:
        raise InvalidParameter(f"The body isn't JSON: {error}") from error


async def _tell_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, MafunzoError)
    return JSONResponse(error_body(error, _param(error, request.url.path)), error.status)


async def _tell_http(request: Request, error: Exception) -> Response:
    """Tell of an unknown path or method in the same shape."""
    assert isinstance(error, HTTPException)
    body = error_body(NotFound(f"{request.method} {request.url.path}: {error.detail}."))
    body["error"]["code"] = None
    return JSONResponse(body, error.status_code)


async def _tell_fault(request: Request, error: Exception) -> Response:
    """Tell of a fault of ours, which uvicorn logs with its traceback."""
    return JSONResponse(error_body(FailedError(f"The request failed: {type(error).__name__}: {error}")), 500)


async def _tell_nobody(request: Request, error: Exception) -> Response:
    return Response(status_code=CLIENT_CLOSED_REQUEST)


def _param(error: MafunzoError, path: str) -> str | None:
    if not isinstance(error, InvalidParameter):
        return None
    return "messages" if error.param == PROMPT and "chat" in path else error.param


def _render(service: Service, conversation: Conversation, add_generation_prompt: bool) -> list[int]:
    try:
        return render_ids(service.loaded.tokenizer, conversation, add_generation_prompt)
    except InvalidData as error:
        raise InvalidParameter(f"messages: {error.message}", param="messages") from error


def _engine_request(prompt: Sequence[int], options: Options, is_echo: bool = False) -> EngineRequest:
    return EngineRequest(
        tuple(prompt),
        options.max_tokens,
        Sampling(options.temperature, options.top_p, options.top_k, options.seed),
        options.stop,
        options.ignore_eos,
        options.logprobs,
        options.logprobs if is_echo else None,
    )


def _completion_request(service: Service, asked: CompletionRequest, prompt: Prompt) -> EngineRequest:
    ids = service.loaded.tokenizer(prompt)["input_ids"] if isinstance(prompt, str) else prompt
    return _engine_request(ids, asked.options, asked.is_echo)


async def _whole(request: Request, answering: Answering) -> Reply:
    return (await _all_whole(request, [answering]))[0]


async def _all_whole(request: Request, answerings: Sequence[Answering]) -> list[Reply]:
    """Wait for whole replies; cancel them if the client goes away or one of them fails."""
    replies: asyncio.Future[Any] = asyncio.ensure_future(_collect_all(answerings))
    gone: asyncio.Future[Any] = asyncio.ensure_future(_wait_until_gone(request))
    try:
        await asyncio.wait({replies, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not replies.done():
            replies.cancel()
            raise Disconnected
        found: list[Reply] = replies.result()
        return found
    finally:
        gone.cancel()
        for answering in answerings:
            answering.cancel()


async def _collect_all(answerings: Sequence[Answering]) -> list[Reply]:
    return list(await asyncio.gather(*(_collect(answering) for answering in answerings)))


async def _collect(answering: Answering) -> Reply:
    reply = Reply()
    async for event in answering.events():
        reply.add(event)
    return reply


async def _wait_until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _event_stream(chunks: AsyncIterator[dict[str, Any]], answering: Answering) -> Response:
    async def lines() -> AsyncIterator[bytes]:
        try:
            async for chunk in chunks:
                yield _data(chunk)
        except MafunzoError as error:
            yield _data(error_body(error))
        finally:
            answering.cancel()
        yield END_OF_STREAM

    return StreamingResponse(lines(), media_type="text/event-stream", headers={"Cache-Control": "no-cache"})


def _data(body: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


async def _chat_chunks(
    service: Service, asked: ChatRequest, heading: Heading, answering: Answering
) -> AsyncIterator[dict[str, Any]]:
    calls_in = _call_filter(asked)
    yield first_chunk(heading)
    async for event in answering.events():
        match event:
            case Delta():
                text = calls_in.add(event.text) if calls_in else event.text
                if text or event.logprobs:
                    logprobs = None if asked.options.logprobs is None else service.describe(event.logprobs)
                    yield text_chunk(heading, text, logprobs)
            case Finished():
                text, calls = calls_in.finish() if calls_in else ("", [])
                calls = calls if asked.may_call_several else calls[:1]
                if text:
                    yield text_chunk(heading, text)
                if calls:
                    yield tool_calls_chunk(heading, calls)
                yield last_chunk(heading, "tool_calls" if calls else event.reason)
                if asked.include_usage:
                    yield usage_chunk(heading, Usage(event.prompt_tokens, event.completion_tokens))
            case _:
                pass


def _chat_answer(service: Service, asked: ChatRequest, heading: Heading, reply: Reply) -> dict[str, Any]:
    assert reply.finished is not None
    text = reply.text
    calls: list[dict[str, Any]] = []
    calls_in = _call_filter(asked)
    if calls_in:
        text = calls_in.add(reply.text)
        rest, calls = calls_in.finish()
        text = (text + rest).strip() if calls else text + rest
        calls = calls if asked.may_call_several else calls[:1]
    logprobs = None if asked.options.logprobs is None else service.describe(reply.logprobs)
    return chat_completion(heading, text, calls, reply.finished.reason, _sum_usage([reply]), logprobs)


def _call_filter(asked: ChatRequest) -> ToolCallFilter | None:
    if not asked.may_call_tools:
        return None
    return ToolCallFilter([str(tool["function"]["name"]) for tool in asked.conversation.tools])


async def _completion_chunks(
    service: Service, asked: CompletionRequest, heading: Heading, answering: Answering
) -> AsyncIterator[dict[str, Any]]:
    async for event in answering.events():
        match event:
            case Delta():
                logprobs = None if asked.options.logprobs is None else tuple(service.describe(event.logprobs))
                texts = _texts(service, event.token_ids) if logprobs is not None else ()
                yield completion(heading, [Choice(event.text, event.token_ids, texts, logprobs, None)], None)
            case Finished():
                yield completion(heading, [Choice("", (), (), None, event.reason)], None)
                if asked.include_usage:
                    yield completion(heading, [], Usage(event.prompt_tokens, event.completion_tokens))
            case _:
                pass


def _choice(service: Service, asked: CompletionRequest, request: EngineRequest, reply: Reply) -> Choice:
    assert reply.finished is not None
    echoed = request.prompt_token_ids if asked.is_echo else ()
    ids = (*echoed, *reply.token_ids)
    text = reply.text
    if echoed:
        text = str(service.loaded.tokenizer.decode(echoed, skip_special_tokens=False)) + text
    if asked.options.logprobs is None:
        return Choice(text, ids, (), None, reply.finished.reason)
    entries = [*reply.prompt_logprobs, *reply.logprobs]
    logprobs = tuple(None if entry is None else service.describe([entry])[0] for entry in entries)
    return Choice(text, ids, _texts(service, ids), logprobs, reply.finished.reason)


def _texts(service: Service, token_ids: Sequence[int]) -> tuple[str, ...]:
    return tuple(token_text(service.loaded.tokenizer, id)[0] for id in token_ids)


def _sum_usage(replies: Sequence[Reply]) -> Usage:
    ends = [reply.finished for reply in replies if reply.finished is not None]
    return Usage(sum(end.prompt_tokens for end in ends), sum(end.completion_tokens for end in ends))
