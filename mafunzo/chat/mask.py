"""Which characters of a rendered conversation the assistant writes: found for any chat template, and proven or refused.

A template is a program, so its source isn't read. Instead the conversation is rendered a second time with a sentinel in
place of each content. What stands between the sentinels is the template's own text, and the whole is proven by putting
the contents back: unless that gives the real text, character by character, the row is refused.

In the template's own text a turn begins where the served prompt ends (the same template over the messages before it, with
its generation prompt), so that training starts where generation will; it ends after the first token that closes a turn.
What the template puts before the content there, such as an empty reasoning block, is generated, and so it is trained.
"""

import hashlib
import json
import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mafunzo.chat.template import render_messages, template_messages, template_name
from mafunzo.entities.conversation import Conversation
from mafunzo.errors import InvalidData

REMEMBERED_SHAPES = 512
REMEMBERED_PROMPTS = 4096
_SENTINEL = re.compile(r"xSENTINEL(\d{6})x")
_OPENING_TAG = re.compile(r"^<[\w-]+>")
_CLOSING_TAG = re.compile(r"</[\w-]+>$")
_END_OF_REASONING = "</think>"

Messages = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Span:
    """What the assistant generates in one turn: `text[start:end]`, its end-of-turn token included, no separator after it.

    `message` is the turn's index in the conversation.
    """

    message: int
    start: int
    end: int


class SpanFinder:
    """Finds the assistant's spans for one tokenizer; remembers the shapes of conversations that it has seen."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._name = template_name(tokenizer)
        added = sorted((token.content for token in tokenizer.added_tokens_decoder.values()), key=len, reverse=True)
        self._added = re.compile("|".join(re.escape(token) for token in added if token) or r"(?!)")
        self._shapes: OrderedDict[str, _Shape] = OrderedDict()
        self._prompts: dict[str, _Shape] = {}

    def find(self, conversation: Conversation) -> tuple[str, list[Span]]:
        """Return the rendered conversation and the span of each assistant turn, in order.

        Raises `InvalidData` where the template refuses the conversation, leaves a part of it out, or gives no proof.
        """
        messages = template_messages(self._tokenizer, conversation)
        tools = [dict(tool) for tool in conversation.tools] or None
        text = render_messages(self._tokenizer, messages, tools)
        hollow, contents = _hollow_out(messages)
        key = json.dumps([hollow, tools], sort_keys=True, default=str)
        shape = self._shapes.get(key)
        starts = align(text, shape.literals, [contents[m] for m in shape.order]) if shape else None
        if shape is None or starts is None:  # unseen, or of another day, for a template that writes the date
            if shape is not None or len(self._prompts) > REMEMBERED_PROMPTS:
                self._prompts.clear()
            shaper = _Shaper(self._tokenizer, self._added, self._name, self._prompts)
            shape = self._shapes[key] = shaper.shape(hollow, tools)
            starts = align(text, shape.literals, [contents[m] for m in shape.order])
        self._shapes.move_to_end(key)
        if len(self._shapes) > REMEMBERED_SHAPES:
            self._shapes.popitem(last=False)
        if starts is None:
            raise InvalidData(
                f"the chat template of {self._name} writes it in another form because of what a message says, "
                "so the assistant's turns can't be told apart for certain"
            )
        return text, [
            Span(turn.message, starts[turn.start[0]] + turn.start[1], starts[turn.end[0]] + turn.end[1])
            for turn in shape.turns
        ]


def align(text: str, literals: Sequence[str], contents: Sequence[str]) -> list[int] | None:
    """Return where each literal begins, such that literals and contents, in turn, are exactly `text`; None if they can't be.

    A content may stand there as it is, trimmed, or escaped as JSON: what templates do to it.
    """
    if not text.startswith(literals[0]):
        return None
    if not contents:
        return [0] if text == literals[0] else None
    starts = [0]
    choices = [_placements(text, len(literals[0]), contents[0], literals[1])]
    while choices:
        start = next(choices[-1], None)
        if start is None:
            choices.pop()
            continue
        placed = len(choices)
        starts[placed:] = [start]
        after = start + len(literals[placed])
        if placed < len(contents):
            choices.append(_placements(text, after, contents[placed], literals[placed + 1]))
        elif after == len(text):
            return starts
    return None


def _placements(text: str, position: int, content: str, literal: str) -> Iterator[int]:
    forms = (content, content.strip(), content.lstrip("\n"), content.lstrip(), content.rstrip(), _escaped(content))
    for form in dict.fromkeys(forms):
        if text.startswith(form, position) and text.startswith(literal, position + len(form)):
            yield position + len(form)


def _escaped(content: str) -> str:
    return json.dumps(content, ensure_ascii=False)[1:-1]


@dataclass(frozen=True)
class _Turn:
    """`start`, `end`: (literal, offset in it)."""

    message: int
    start: tuple[int, int]
    end: tuple[int, int]


@dataclass(frozen=True)
class _Shape:
    """A template's own text for conversations that differ in their contents only.

    order: the messages whose contents stand between `literals`, which are one more.
    """

    literals: tuple[str, ...]
    order: tuple[int, ...]
    turns: tuple[_Turn, ...] = ()


def _hollow_out(messages: Messages) -> tuple[list[dict[str, Any]], dict[int, str]]:
    """Return the messages with sentinels for their contents, and those contents by message.

    What templates look into stays: reasoning before `</think>`, and a tag at either end of a user's text.
    """
    hollow: list[dict[str, Any]] = []
    contents: dict[int, str] = {}
    for index, message in enumerate(messages):
        content = message.get("content")
        if not isinstance(content, str) or (not content and message.get("tool_calls")):
            hollow.append(dict(message))
            continue
        before, after = 0, len(content)
        if message["role"] == "assistant":
            before = content.rfind(_END_OF_REASONING) + len(_END_OF_REASONING) if _END_OF_REASONING in content else 0
        elif (opening := _OPENING_TAG.search(content)) and (closing := _CLOSING_TAG.search(content)):
            before, after = opening.end(), closing.start()
        contents[index] = content[before:after]
        hollow.append({**message, "content": f"{content[:before]}xSENTINEL{index:06d}x{content[after:]}"})
    return hollow, contents


def _digests(hollow: Messages, tools: Sequence[Mapping[str, Any]] | None) -> list[str]:
    """Return for each message a digest of all that stands before it."""
    running = hashlib.blake2b(json.dumps(tools, sort_keys=True, default=str).encode(), digest_size=16)
    digests = []
    for message in hollow:
        digests.append(running.hexdigest())
        running.update(json.dumps(message, sort_keys=True, default=str).encode())
    return digests


class _Shaper:
    """Works out one shape."""

    def __init__(self, tokenizer: Any, added: re.Pattern[str], name: str, prompts: "dict[str, _Shape]") -> None:
        """`prompts` remembers the prompts that are served for a turn, by a digest of the messages before it."""
        self._tokenizer, self._added, self._name, self._prompts = tokenizer, added, name, prompts

    def shape(self, hollow: Messages, tools: Sequence[Mapping[str, Any]] | None) -> _Shape:
        """Return the shape with its turns; raises `InvalidData` where a turn's ends can't be proven."""
        plain = self._split(hollow, tools)
        self._check_nothing_is_left_out(hollow, plain, tools)
        stop = self._end_of_turn(tools)
        digests = _digests(hollow, tools)
        turns = [
            self._turn(index, hollow, plain, tools, stop, digests[index])
            for index, message in enumerate(hollow)
            if message["role"] == "assistant"
        ]
        return _Shape(plain.literals, plain.order, tuple(turns))

    def _split(
        self, hollow: Messages, tools: Sequence[Mapping[str, Any]] | None, add_generation_prompt: bool = False
    ) -> _Shape:
        parts = _SENTINEL.split(render_messages(self._tokenizer, hollow, tools, add_generation_prompt))
        return _Shape(tuple(parts[::2]), tuple(int(number) for number in parts[1::2]))

    def _check_nothing_is_left_out(
        self, hollow: Messages, shape: _Shape, tools: Sequence[Mapping[str, Any]] | None
    ) -> None:
        for index, message in enumerate(hollow):
            times = shape.order.count(index)
            if _SENTINEL.search(message.get("content") or "") and times != 1:
                what = "leaves out or rewrites" if times == 0 else "repeats"
                raise InvalidData(f"the chat template of {self._name} {what} message {index + 1} ('{message['role']}')")
        if list(shape.order) != sorted(shape.order):
            raise InvalidData(f"the chat template of {self._name} changes the order of its messages")
        if tools and self._split(hollow, None).literals == shape.literals:
            raise InvalidData(f"the chat template of {self._name} leaves out the tool definitions ('tools')")

    def _turn(
        self,
        index: int,
        hollow: Messages,
        shape: _Shape,
        tools: Sequence[Mapping[str, Any]] | None,
        stop: str,
        digest: str,
    ) -> _Turn:
        before = sum(message < index for message in shape.order)
        has_content = index in shape.order
        start = self._start(index, hollow, shape, tools, before, has_content, digest)
        calls = hollow[index].get("tool_calls") or ()
        end_literal = before + has_content
        rest_from = 0 if has_content else start
        rest = shape.literals[end_literal][rest_from:]
        for call in calls:
            if str((call.get("function") or call).get("name")) not in rest:
                raise InvalidData(f"the chat template of {self._name} leaves out the tool calls of message {index + 1}")
        if calls and rest.count(stop) != 1:
            raise self._unproven(index, f"'{stop}' doesn't stand once after its tool calls")
        closing = re.search(re.escape(stop), rest) if calls else self._added.search(rest)
        if closing is None or closing.group() != stop:
            found = f"'{closing.group()}'" if closing else "nothing"
            raise self._unproven(index, f"'{stop}' ends the last turn, but {found} ends this one")
        return _Turn(index, (before, start), (end_literal, rest_from + closing.end()))

    def _start(
        self,
        index: int,
        hollow: Messages,
        shape: _Shape,
        tools: Sequence[Mapping[str, Any]] | None,
        before: int,
        has_content: bool,
        digest: str,
    ) -> int:
        """Return where in its literal the turn begins: where the prompt that is served for it ends."""
        literal = shape.literals[before]
        if index == 0:
            header = self._header(tools)
            if not header or not (literal.endswith(header) if has_content else literal.count(header) == 1):
                raise self._unproven(index, "no turn stands before it")
            return literal.index(header) + len(header) if not has_content else len(literal)
        if digest not in self._prompts:
            self._prompts[digest] = self._split(hollow[:index], tools, add_generation_prompt=True)
        prompt = self._prompts[digest]
        if prompt.order != shape.order[:before]:
            raise self._unproven(index, "the prompt that is served for it holds other messages")
        tail = prompt.literals[-1]
        if literal.startswith(tail):
            return len(tail)
        if has_content and tail.startswith(literal):
            return len(literal)
        common = self._common(literal, tail)
        if not (self._added.match(literal, common) and self._added.match(tail, common)):
            raise self._unproven(index, "the prompt that is served for it ends differently")
        return common

    def _header(self, tools: Sequence[Mapping[str, Any]] | None) -> str:
        user = [{"role": "user", "content": "xSENTINEL000000x"}]
        tail = self._split(user, tools, add_generation_prompt=True).literals[-1]
        return tail[self._common(tail, self._split(user, tools).literals[-1]) :]

    def _end_of_turn(self, tools: Sequence[Mapping[str, Any]] | None) -> str:
        pair = [
            {"role": "user", "content": "xSENTINEL000000x"},
            {"role": "assistant", "content": "xSENTINEL000001x"},
        ]
        found = self._added.search(self._split(pair, tools).literals[-1])
        if found is None:
            raise InvalidData(
                f"the chat template of {self._name} ends an assistant's turn without a token for it, "
                "so that a model could never learn to stop"
            )
        return found.group()

    def _common(self, one: str, other: str) -> int:
        """Return the length of the longest common beginning that cuts no token of the vocabulary's own in two."""
        length = next(
            (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
        )
        for text in (one, other):
            for token in self._added.finditer(text):
                if token.start() < length < token.end():
                    length = token.start()
        return length

    def _unproven(self, index: int, why: str) -> InvalidData:
        return InvalidData(
            f"where message {index + 1} ('assistant') begins and ends in the chat template of {self._name} "
            f"can't be proven: {why}"
        )
