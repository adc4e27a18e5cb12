"""Routes of OpenAI's dialect: chat and text completions, whole or as a stream."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from mafunzo.compute.inference.detokenizer import TokenOffsets
from mafunzo.compute.inference.http.answering import Answering, merged, whole_replies
from mafunzo.compute.inference.http.echo import Echo, echo, prompt_ids
from mafunzo.compute.inference.http.service import Service, json_body, model_of
from mafunzo.compute.inference.request import Delta, Finished, GenerationRequest, Reply
from mafunzo.compute.inference.sampler import Sampling
from mafunzo.errors import MafunzoError
from mafunzo.protocol.chat import ChatRequest, Heading, Options, Usage, chat_request_from_dict
from mafunzo.protocol.completions import Choice, CompletionRequest, completion, completion_request_from_dict
from mafunzo.protocol.errors import error_body
from mafunzo.protocol.stream import (
    END_OF_STREAM,
    ChatReply,
    ChatStream,
    Chunk,
    CompletionStream,
    event,
    whole_chat,
)

TakeDelta = Callable[[Delta], list[Chunk]]


def add_openai_routes(app: FastAPI, worker: Service) -> None:
    """Add the routes that generate."""

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        body = await json_body(request)
        chat_request, service = chat_request_from_dict(body), worker.named(model_of(body))
        prompt = service.prompt_ids(chat_request.conversation, True, chat_request.template_variables)
        grammar = await asyncio.to_thread(service.grammar, chat_request)
        engine_request = replace(_engine_request(prompt, chat_request.options), grammar=grammar)
        answerings = _submit(service, _several(engine_request, chat_request.n))
        heading = service.heading("chatcmpl")
        if chat_request.is_stream:
            streams = [ChatStream(heading, chat_request, index=index) for index in range(chat_request.n)]
            takes = [_chat_delta(service, stream) for stream in streams]
            return _event_stream(_chunks(streams, takes, answerings, chat_request.n), answerings)
        replies = await whole_replies(request, answerings)
        return JSONResponse(_chat_answer(service, chat_request, heading, replies))

    @app.post("/v1/completions")
    async def complete(request: Request) -> Response:
        body = await json_body(request)
        completion_request, service = completion_request_from_dict(body), worker.named(model_of(body))
        answerings = _submit(service, _completion_requests(service, completion_request))
        heading, n = service.heading("cmpl"), completion_request.n
        if completion_request.is_stream:
            streams = [CompletionStream(heading, completion_request, index) for index in range(len(answerings))]
            takes = [_completion_delta(service, completion_request, stream) for stream in streams]
            return _event_stream(_chunks(streams, takes, answerings, n), answerings)
        replies = await whole_replies(request, answerings)
        choices = [_choice(service, completion_request, index, reply) for index, reply in enumerate(replies)]
        return JSONResponse(completion(heading, choices, _sum_usage([reply.finished for reply in replies], n)))


def _submit(service: Service, requests: Sequence[GenerationRequest]) -> list[Answering]:
    """Start all requests, or none if one is refused."""
    model = service.loaded
    own = [replace(one, adapter=model.adapter, stop_token_ids=model.stop_token_ids) for one in requests]
    for request in own:
        model.engine.check(request)
    return [Answering(service, request) for request in own]


def _engine_request(prompt: Sequence[int], options: Options, is_echo: bool = False) -> GenerationRequest:
    return GenerationRequest(
        tuple(prompt),
        options.max_tokens,
        Sampling(
            options.temperature,
            options.top_p,
            options.top_k,
            options.seed,
            options.min_p,
            options.presence_penalty,
            options.frequency_penalty,
            options.repetition_penalty,
            options.logit_bias,
        ),
        options.stop,
        options.ignore_eos,
        options.logprobs,
        options.logprobs if is_echo else None,
        cache_salt=options.cache_salt,
    )


def _several(request: GenerationRequest, n: int) -> list[GenerationRequest]:
    """Return `n` requests that draw their own tokens each; the first as a single one does."""
    sampling = request.sampling
    seeds = [None if sampling.seed is None else sampling.seed + i for i in range(n)]
    return [replace(request, sampling=replace(sampling, seed=seed)) for seed in seeds]


def _completion_requests(service: Service, request: CompletionRequest) -> list[GenerationRequest]:
    tokenizer = service.loaded.tokenizer
    return [
        engine_request
        for prompt in request.prompts
        for engine_request in _several(
            _engine_request(prompt_ids(tokenizer, prompt), request.options, request.is_echo), request.n
        )
    ]


def _event_stream(chunks: AsyncIterator[Chunk], answerings: Sequence[Answering]) -> Response:
    async def events() -> AsyncIterator[bytes]:
        try:
            async for chunk in chunks:
                yield event(chunk)
        except MafunzoError as error:
            yield event(error_body(error))
        finally:
            for answering in answerings:
                answering.cancel()
        yield END_OF_STREAM

    return StreamingResponse(events(), media_type="text/event-stream", headers={"Cache-Control": "no-cache"})


def _chat_delta(service: Service, stream: ChatStream) -> TakeDelta:
    return lambda delta: stream.text(delta.text, service.describe(delta.logprobs))


def _completion_delta(service: Service, request: CompletionRequest, stream: CompletionStream) -> TakeDelta:
    offsets, characters = TokenOffsets(service.loaded.tokenizer), 0

    def text(delta: Delta) -> list[Chunk]:
        nonlocal characters
        characters += len(delta.text)
        if request.options.logprobs is None:
            return stream.text(delta.text, delta.token_ids, (), ())
        return stream.text(
            delta.text,
            delta.token_ids,
            service.texts(delta.token_ids, request.names_tokens_by_id),
            service.describe(delta.logprobs, request.names_tokens_by_id),
            offsets.add(delta.token_ids, characters),
        )

    return text


async def _chunks(
    streams: Sequence[ChatStream | CompletionStream],
    takes: Sequence[TakeDelta],
    answerings: Sequence[Answering],
    n: int,
) -> AsyncIterator[Chunk]:
    """Yield the chunks of all choices as they come; those of a prompt are `n`."""
    for stream in streams:
        for chunk in stream.begin():
            yield chunk
    ends: dict[int, Finished] = {}
    async for index, step in merged(answerings):
        chunks: list[Chunk] = []
        if isinstance(step, Delta):
            chunks = takes[index](step)
        elif isinstance(step, Finished):
            ends[index] = step
            is_last = len(ends) == len(streams)
            usage = _sum_usage([ends[i] for i in range(len(streams))], n) if is_last else None
            chunks = streams[index].finish(step.reason, usage)
        for chunk in chunks:
            yield chunk


def _chat_answer(service: Service, chat_request: ChatRequest, heading: Heading, replies: Sequence[Reply]) -> Chunk:
    chat_replies = []
    for reply in replies:
        assert reply.finished is not None
        chat_replies.append(ChatReply(reply.text, reply.finished.reason, service.describe(reply.logprobs)))
    usage = _sum_usage([reply.finished for reply in replies], chat_request.n)
    return whole_chat(heading, chat_request, chat_replies, usage)


def _choice(service: Service, request: CompletionRequest, index: int, reply: Reply) -> Choice:
    assert reply.finished is not None
    tokenizer, prompt = service.loaded.tokenizer, request.prompts[index // request.n]
    prompt_echo = echo(tokenizer, prompt) if request.is_echo else Echo("", ())
    text = prompt_echo.text + reply.text
    ids = (*prompt_ids(tokenizer, prompt), *reply.token_ids) if request.is_echo else tuple(reply.token_ids)
    if request.options.logprobs is None:
        return Choice(text, ids, (), None, reply.finished.reason, index=index)
    entries = [*reply.prompt_logprobs, *reply.logprobs]
    by_id = request.names_tokens_by_id
    logprobs = tuple(None if entry is None else service.describe([entry], by_id)[0] for entry in entries)
    offsets = TokenOffsets(tokenizer, len(prompt_echo.text)).add(reply.token_ids, len(text))
    all_offsets = (*prompt_echo.offsets, *offsets)
    return Choice(text, ids, service.texts(ids, by_id), logprobs, reply.finished.reason, all_offsets, index)


def _sum_usage(ends: Sequence[Finished | None], n: int) -> Usage:
    """Return the usage of all choices, `n` for each prompt, which is counted once."""
    finished = [end for end in ends if end is not None]
    return Usage(
        sum(end.prompt_tokens for end in finished[::n]),
        sum(end.completion_tokens for end in finished),
        sum(end.cached_tokens for end in finished[::n]),
    )
