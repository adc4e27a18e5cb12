"""Streaming: the order of an answer's chunks, `usage` included, and chunks as server-sent events (SSE).

    chat          role chunk, text chunks ..., [rest of the text], [tool calls], finish reason, [usage], [DONE]
    completions   text chunks ..., finish reason, [usage], [DONE]

Brackets mark optional chunks; `usage` comes with `stream_options.include_usage`, and is null in the chunks before it. Several
choices come interleaved, told apart by their `index`; one usage is that of all.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mafunzo.protocol.chat import (
    ChatRequest,
    Heading,
    TokenLogprob,
    Usage,
    answer_body,
    chat_choice,
    chat_chunk,
    chat_completion,
)
from mafunzo.protocol.completions import Choice, CompletionRequest, completion
from mafunzo.protocol.tool_call import ToolCallFilter

END_OF_STREAM = b"data: [DONE]\n\n"
Chunk = dict[str, Any]


def event(body: Mapping[str, Any]) -> bytes:
    """Return a chunk, or an error, as a server-sent event."""
    return b"data: " + json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


class ChatStream:
    """The chunks of one choice of a streamed chat answer: `begin`, `text` as often as there is some, then `finish` once.

    `new_id` makes the ids of tool calls.
    """

    def __init__(
        self, heading: Heading, request: ChatRequest, new_id: Callable[[], str] | None = None, index: int = 0
    ) -> None:
        self._heading, self._request, self._index = heading, request, index
        self._calls_in = _call_filter(request, new_id)

    def begin(self) -> list[Chunk]:
        """Return the chunk before the first token: the role."""
        return [self._chunk({"role": "assistant", "content": "", "refusal": None})]

    def text(self, text: str, logprobs: Sequence[TokenLogprob]) -> list[Chunk]:
        """Return the chunk of new text. Text that may begin a tool call is held back until that is decided;
        log-probabilities never are."""
        safe_text = self._calls_in.add(text) if self._calls_in else text
        if not safe_text and not logprobs:
            return []
        return [self._chunk({"content": safe_text}, None, _if_requested(self._request, logprobs))]

    def finish(self, finish_reason: str, usage: Usage | None) -> list[Chunk]:
        """Return what comes after the last token; `usage` is that of all choices, with the last of them only."""
        tail, calls = self._calls_in.finish() if self._calls_in else ("", [])
        calls = [{"index": i, **call} for i, call in enumerate(_as_many_as_may_be(self._request, calls))]
        chunks = [self._chunk({"content": tail})] if tail else []
        chunks += [self._chunk({"tool_calls": calls})] if calls else []
        chunks.append(self._chunk({}, "tool_calls" if calls else finish_reason))
        if usage is not None and self._request.include_usage:
            chunks.append(answer_body(self._heading, "chat.completion.chunk", [], usage))
        return chunks

    def _chunk(
        self,
        delta: Mapping[str, Any],
        finish_reason: str | None = None,
        logprobs: Sequence[TokenLogprob] | None = None,
    ) -> Chunk:
        return chat_chunk(self._heading, self._index, delta, finish_reason, logprobs, self._request.include_usage)


class CompletionStream:
    """The chunks of one choice of a streamed text completion: `text` as often as there is some, then `finish` once."""

    def __init__(self, heading: Heading, request: CompletionRequest, index: int = 0) -> None:
        self._heading, self._request, self._index = heading, request, index

    def begin(self) -> list[Chunk]:
        """Return the chunks before the first token: none."""
        return []

    def text(
        self,
        text: str,
        token_ids: Sequence[int],
        tokens: Sequence[str],
        logprobs: Sequence[TokenLogprob],
        offsets: Sequence[int] = (),
    ) -> list[Chunk]:
        """Return the chunk of new text; `tokens` are the texts of `token_ids`, needed beside log-probabilities."""
        values = None if self._request.options.logprobs is None else tuple(logprobs)
        return [self._chunk(Choice(text, tuple(token_ids), tuple(tokens), values, None, tuple(offsets), self._index))]

    def finish(self, finish_reason: str, usage: Usage | None) -> list[Chunk]:
        """Return what comes after the last token; `usage` is that of all choices, with the last of them only."""
        chunks = [self._chunk(Choice("", (), (), None, finish_reason, index=self._index))]
        if usage is not None and self._request.include_usage:
            chunks.append(completion(self._heading, [], usage))
        return chunks

    def _chunk(self, choice: Choice) -> Chunk:
        return completion(self._heading, [choice], None, self._request.include_usage)


@dataclass(frozen=True)
class ChatReply:
    """The engine's whole reply for one choice."""

    text: str
    finish_reason: str
    logprobs: Sequence[TokenLogprob] = ()


def whole_chat(
    heading: Heading,
    request: ChatRequest,
    replies: Sequence[ChatReply],
    usage: Usage,
    new_id: Callable[[], str] | None = None,
) -> Chunk:
    """Return the whole answer to a request without streaming."""
    return chat_completion(heading, [_whole_choice(i, request, r, new_id) for i, r in enumerate(replies)], usage)


def _whole_choice(
    index: int, request: ChatRequest, reply: ChatReply, new_id: Callable[[], str] | None
) -> dict[str, Any]:
    text = reply.text
    calls: list[dict[str, Any]] = []
    calls_in = _call_filter(request, new_id)
    if calls_in:
        head = calls_in.add(text)
        tail, calls = calls_in.finish()
        text = (head + tail).strip() if calls else head + tail
        calls = _as_many_as_may_be(request, calls)
    return chat_choice(index, text, calls, reply.finish_reason, _if_requested(request, reply.logprobs))


def _call_filter(request: ChatRequest, new_id: Callable[[], str] | None) -> ToolCallFilter | None:
    if not request.may_call_tools:
        return None
    return ToolCallFilter([str(tool["function"]["name"]) for tool in request.conversation.tools], new_id)


def _as_many_as_may_be(request: ChatRequest, calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return calls if request.may_call_several else calls[:1]


def _if_requested(request: ChatRequest, logprobs: Sequence[TokenLogprob]) -> Sequence[TokenLogprob] | None:
    return None if request.options.logprobs is None else logprobs
