"""Routes of OpenAI's dialect: chat and text completions, whole or as a stream."""

from collections.abc import AsyncIterator, Callable, Sequence

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from mafunzo.compute.inference.http.answering import Answering, whole_replies
from mafunzo.compute.inference.http.service import Service, json_body
from mafunzo.compute.inference.request import Delta, Finished, GenerationRequest, Reply
from mafunzo.compute.inference.sampler import Sampling
from mafunzo.errors import MafunzoError
from mafunzo.protocol.chat import ChatRequest, Heading, Options, Usage, chat_request_from_dict
from mafunzo.protocol.completions import Choice, CompletionRequest, Prompt, completion, completion_request_from_dict
from mafunzo.protocol.errors import error_body
from mafunzo.protocol.stream import END_OF_STREAM, ChatStream, Chunk, CompletionStream, event, whole_chat


def add_openai_routes(app: FastAPI, service: Service) -> None:
    """Add the routes that generate."""

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        chat_request = chat_request_from_dict(await json_body(request))
        prompt = service.prompt_ids(chat_request.conversation, True)
        answering = Answering(service, _engine_request(prompt, chat_request.options))
        heading = service.heading("chatcmpl")
        if chat_request.is_stream:
            return _event_stream(_chat_chunks(service, chat_request, heading, answering), answering)
        [reply] = await whole_replies(request, [answering])
        return JSONResponse(_chat_answer(service, chat_request, heading, reply))

    @app.post("/v1/completions")
    async def complete(request: Request) -> Response:
        completion_request = completion_request_from_dict(await json_body(request))
        requests = [_completion_request(service, completion_request, prompt) for prompt in completion_request.prompts]
        for engine_request in requests:
            service.loaded.engine.check(engine_request)
        answerings = [Answering(service, engine_request) for engine_request in requests]
        heading = service.heading("cmpl")
        if completion_request.is_stream:
            chunks = _completion_chunks(service, completion_request, heading, answerings[0])
            return _event_stream(chunks, answerings[0])
        replies = await whole_replies(request, answerings)
        choices = [
            _choice(service, completion_request, engine_request, reply)
            for engine_request, reply in zip(requests, replies, strict=True)
        ]
        return JSONResponse(completion(heading, choices, _sum_usage(replies)))


def _engine_request(prompt: Sequence[int], options: Options, is_echo: bool = False) -> GenerationRequest:
    return GenerationRequest(
        tuple(prompt),
        options.max_tokens,
        Sampling(options.temperature, options.top_p, options.top_k, options.seed),
        options.stop,
        options.ignore_eos,
        options.logprobs,
        options.logprobs if is_echo else None,
    )


def _completion_request(service: Service, completion_request: CompletionRequest, prompt: Prompt) -> GenerationRequest:
    ids = service.loaded.tokenizer(prompt)["input_ids"] if isinstance(prompt, str) else prompt
    return _engine_request(ids, completion_request.options, completion_request.is_echo)


def _event_stream(chunks: AsyncIterator[Chunk], answering: Answering) -> Response:
    async def events() -> AsyncIterator[bytes]:
        try:
            async for chunk in chunks:
                yield event(chunk)
        except MafunzoError as error:
            yield event(error_body(error))
        finally:
            answering.cancel()
        yield END_OF_STREAM

    return StreamingResponse(events(), media_type="text/event-stream", headers={"Cache-Control": "no-cache"})


def _chat_chunks(
    service: Service, chat_request: ChatRequest, heading: Heading, answering: Answering
) -> AsyncIterator[Chunk]:
    stream = ChatStream(heading, chat_request)
    return _chunks(
        stream, answering, lambda delta: stream.text(delta.text, service.describe(delta.logprobs)), stream.begin()
    )


def _completion_chunks(
    service: Service, completion_request: CompletionRequest, heading: Heading, answering: Answering
) -> AsyncIterator[Chunk]:
    stream, has_logprobs = (
        CompletionStream(heading, completion_request),
        completion_request.options.logprobs is not None,
    )

    def text(delta: Delta) -> list[Chunk]:
        tokens = service.texts(delta.token_ids) if has_logprobs else ()
        return stream.text(delta.text, delta.token_ids, tokens, service.describe(delta.logprobs))

    return _chunks(stream, answering, text)


async def _chunks(
    stream: ChatStream | CompletionStream,
    answering: Answering,
    text: Callable[[Delta], list[Chunk]],
    chunks: Sequence[Chunk] = (),
) -> AsyncIterator[Chunk]:
    """Yield `chunks`, those that `text` makes of new text, and those that end the stream."""
    for chunk in chunks:
        yield chunk
    async for step in answering.events():
        if isinstance(step, Delta):
            chunks = text(step)
        elif isinstance(step, Finished):
            chunks = stream.finish(step.reason, Usage(step.prompt_tokens, step.completion_tokens))
        else:
            chunks = ()
        for chunk in chunks:
            yield chunk


def _chat_answer(service: Service, chat_request: ChatRequest, heading: Heading, reply: Reply) -> Chunk:
    assert reply.finished is not None
    logprobs = service.describe(reply.logprobs)
    return whole_chat(heading, chat_request, reply.text, reply.finished.reason, _sum_usage([reply]), logprobs)


def _choice(
    service: Service, completion_request: CompletionRequest, request: GenerationRequest, reply: Reply
) -> Choice:
    assert reply.finished is not None
    echo_ids = request.prompt_token_ids if completion_request.is_echo else ()
    ids = (*echo_ids, *reply.token_ids)
    text = reply.text
    if echo_ids:
        text = str(service.loaded.tokenizer.decode(echo_ids, skip_special_tokens=False)) + text
    if completion_request.options.logprobs is None:
        return Choice(text, ids, (), None, reply.finished.reason)
    entries = [*reply.prompt_logprobs, *reply.logprobs]
    logprobs = tuple(None if entry is None else service.describe([entry])[0] for entry in entries)
    return Choice(text, ids, service.texts(ids), logprobs, reply.finished.reason)


def _sum_usage(replies: Sequence[Reply]) -> Usage:
    ends = [reply.finished for reply in replies if reply.finished is not None]
    return Usage(sum(end.prompt_tokens for end in ends), sum(end.completion_tokens for end in ends))
