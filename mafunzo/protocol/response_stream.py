"""Responses of OpenAI's Responses API, made of a chat completion's chunks as they come.

    response.created, response.in_progress
    of a message:   output_item.added, content_part.added, output_text.delta ..., output_text.done, content_part.done,
                    output_item.done
    of a call:      output_item.added, function_call_arguments.delta ..., function_call_arguments.done, output_item.done
    response.completed, or response.incomplete, or response.failed

A whole answer is made in the same way, as a stream of one chunk, so that both have the same items.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mafunzo.protocol.response_item import Item, NewId, output_text, random_id
from mafunzo.protocol.response_request import ResponseRequest
from mafunzo.protocol.stream import event

Event = dict[str, Any]
FINAL_EVENTS = {status: f"response.{status}" for status in ("completed", "incomplete", "failed")}
PARAMS = {
    "messages": "input",
    "response_format": "text.format",
    **dict.fromkeys(("max_tokens", "max_completion_tokens"), "max_output_tokens"),
}
"""What chat completions call a part of the request, and what the Responses API does."""


@dataclass(frozen=True)
class ResponseHeading:
    """What is known of a response from the start. created_at: seconds since 1970."""

    id: str
    created_at: int


class ResponseStream:
    """The events of one response: `begin`, `add` as often as there is a chunk, then `close` and `end`, or `fail`.

    response: the whole response, once `close` was called. completed_at: when it ended, in seconds since 1970.
    """

    def __init__(self, request: ResponseRequest, heading: ResponseHeading, new_id: NewId = random_id) -> None:
        self._request, self._heading, self._new_id = request, heading, new_id
        self._output: list[Item] = []
        self._open: _OpenItem | None = None
        self._call_index: object = None
        self._finish_reason: str | None = None
        self._usage: dict[str, Any] | None = None
        self._sequence_number = 0
        self.response = self._body("in_progress")

    @property
    def has_begun(self) -> bool:
        """Whether an event was made."""
        return self._sequence_number > 0

    def begin(self) -> list[Event]:
        """Return the events before the first chunk."""
        return [self._event(f"response.{name}", response=self.response) for name in ("created", "in_progress")]

    def add(self, chunk: Mapping[str, Any]) -> list[Event]:
        """Return the events of a chunk of a chat completion; raises `TypeError` or `LookupError` for what is none."""
        if chunk.get("usage"):
            self._usage = _usage(chunk["usage"])
        return [event for choice in chunk["choices"] for event in self._choice(choice)]

    def close(self, completed_at: int) -> list[Event]:
        """Return the events after the last chunk, but the response's own."""
        is_cut = self._finish_reason == "length"
        events = [] if self._open or self._output else self._open_message()  # an answer that says nothing is one
        events += self._close("incomplete" if is_cut else "completed")
        self.response = self._body("incomplete" if is_cut else "completed", completed_at)
        return events

    def end(self) -> Event:
        """Return the last event, with the whole response."""
        return self._event(FINAL_EVENTS[self.response["status"]], response=self.response)

    def fail(self, error: Mapping[str, Any]) -> list[Event]:
        """Return the events of an answer that breaks off, with an error as OpenAI writes it (`message`, `type`, `code`)."""
        events = [] if self.has_begun else self.begin()
        events += self._close("incomplete")
        self.response = {**self._body("failed"), "error": _failure(error)}
        return [*events, self.end()]

    def _choice(self, choice: Mapping[str, Any]) -> list[Event]:
        events: list[Event] = []
        delta = choice.get("delta") or {}
        if delta.get("content"):
            events += self._text(delta["content"])
        for position, call in enumerate(delta.get("tool_calls") or ()):
            events += self._call(call, call.get("index", position))
        self._finish_reason = choice.get("finish_reason") or self._finish_reason
        return events

    def _text(self, text: str) -> list[Event]:
        events = [] if self._open and not self._open.is_call else self._open_message()
        assert self._open is not None
        self._open.pieces.append(text)
        place = self._place() | {"content_index": 0}
        return [*events, self._event("response.output_text.delta", **place, delta=text, logprobs=[])]

    def _call(self, call: Mapping[str, Any], index: object) -> list[Event]:
        """Return the events of a call, or of a further piece of one, which has the same index."""
        function, events = call["function"], []
        if self._open is None or not self._open.is_call or self._call_index != index:
            events = self._close("completed")
            self._open = _OpenItem(self._new_id("fc"), call["id"], function["name"])
            self._call_index = index
            events.append(self._added())
        if arguments := function.get("arguments"):
            self._open.pieces.append(arguments)
            events.append(self._event("response.function_call_arguments.delta", **self._place(), delta=arguments))
        return events

    def _open_message(self) -> list[Event]:
        events = self._close("completed")
        self._open = _OpenItem(self._new_id("msg"))
        place = self._place() | {"content_index": 0}
        return [*events, self._added(), self._event("response.content_part.added", **place, part=output_text(""))]

    def _added(self) -> Event:
        assert self._open is not None
        item = self._open.item("in_progress") | ({} if self._open.is_call else {"content": []})
        return self._event("response.output_item.added", output_index=len(self._output), item=item)

    def _close(self, status: str) -> list[Event]:
        """Return the events that end the item that is being written, if there is one."""
        if self._open is None:
            return []
        item, place, text = self._open.item(status), self._place(), "".join(self._open.pieces)
        if self._open.is_call:
            name = self._open.name
            events = [self._event("response.function_call_arguments.done", **place, name=name, arguments=text)]
        else:
            place |= {"content_index": 0}
            events = [
                self._event("response.output_text.done", **place, text=text, logprobs=[]),
                self._event("response.content_part.done", **place, part=output_text(text)),
            ]
        events.append(self._event("response.output_item.done", output_index=len(self._output), item=item))
        self._output.append(item)
        self._open = None
        return events

    def _place(self) -> dict[str, Any]:
        assert self._open is not None
        return {"item_id": self._open.id, "output_index": len(self._output)}

    def _event(self, kind: str, **fields: Any) -> Event:
        number = self._sequence_number
        self._sequence_number += 1
        return {"type": kind, "sequence_number": number, **fields}

    def _body(self, status: str, completed_at: int | None = None) -> dict[str, Any]:
        """Return the response as it is now."""
        is_cut = status == "incomplete"
        return {
            "id": self._heading.id,
            "object": "response",
            "created_at": self._heading.created_at,
            "status": status,
            "completed_at": None if is_cut else completed_at,
            "background": False,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
            "output": list(self._output),
            "reasoning": {"effort": None, "summary": None},
            "top_logprobs": 0,
            "truncation": "disabled",
            "usage": self._usage,
            **self._request.settings,
        }


@dataclass
class _OpenItem:
    """An item of the output that is being written; call_id and name: of a call, empty for a message."""

    id: str
    call_id: str = ""
    name: str = ""
    pieces: list[str] = field(default_factory=list)

    @property
    def is_call(self) -> bool:
        return bool(self.call_id)

    def item(self, status: str) -> dict[str, Any]:
        text = "".join(self.pieces)
        if self.is_call:
            call = {"type": "function_call", "call_id": self.call_id, "name": self.name, "arguments": text}
            return {"id": self.id, "status": status, **call}
        content = [output_text(text)]
        return {"id": self.id, "type": "message", "status": status, "role": "assistant", "content": content}


def whole_response(stream: ResponseStream, answer: Mapping[str, Any], completed_at: int) -> dict[str, Any]:
    """Return the response of a whole chat completion; raises `TypeError` or `LookupError` for what is none."""
    choices = [{"delta": choice["message"], "finish_reason": choice["finish_reason"]} for choice in answer["choices"]]
    stream.add({"choices": choices, "usage": answer.get("usage")})
    stream.close(completed_at)
    return stream.response


def named_event(body: Event) -> bytes:
    """Return an event of a response as a server-sent event, under its own name."""
    return b"event: " + str(body["type"]).encode() + b"\n" + event(body)


def refusal(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return a chat completion's refusal as one of a response: `param` names the part of that request."""
    error = body["error"]
    part = str(error.get("param") or "").partition("[")[0]
    return {**body, "error": {**error, "param": PARAMS.get(part, error.get("param"))}}


class EventReader:
    """Takes a stream of server-sent events apart, however it is cut into pieces."""

    def __init__(self) -> None:
        self._rest = b""

    def add(self, piece: bytes) -> list[bytes]:
        """Return the events that are whole now, without the empty lines between them."""
        *events, self._rest = (self._rest + piece).split(b"\n\n")
        return events


def _usage(usage: Mapping[str, Any]) -> dict[str, Any]:
    details = usage.get("prompt_tokens_details") or {}
    return {
        "input_tokens": usage["prompt_tokens"],
        "input_tokens_details": {"cached_tokens": details.get("cached_tokens") or 0},
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage["total_tokens"],
    }


def _failure(error: Mapping[str, Any]) -> dict[str, Any]:
    """Return an error as a response has it, with one of the codes that there are for that."""
    if error.get("code") == "rate_limit_exceeded":
        code = "rate_limit_exceeded"
    else:
        code = "invalid_prompt" if error.get("type") == "invalid_request_error" else "server_error"
    return {"code": code, "message": str(error.get("message"))}
