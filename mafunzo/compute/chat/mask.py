"""The loss mask: which characters of a rendered conversation the assistant generates. Works for any chat template.

The idea. In supervised fine-tuning the model reads the whole conversation, and the loss counts only the tokens that it
will have to generate when it is served: each answer and the token that ends its turn (TRL: `assistant_only_loss`). What
users, tools and the template write is context. Leave the end token out of the loss, and the model never learns to stop;
let a user's header in, and it learns to speak for the user.

Where an answer begins and ends is decided by the chat template, which is a program; few mark it with `{% generation %}`.
Searching the text for "<|assistant|>" fails as soon as a user types that, so neither the source nor the text is parsed.
Instead the template runs twice: once over the messages, and once over a hollow copy with a sentinel for each content.
Between the sentinels stand the *literals*, the template's own text. Phi-4-mini's, with ^ where the loss counts:

    hollow     <|user|>xSENTINEL000000x<|end|><|assistant|>xSENTINEL000001x<|end|><|endoftext|>
    literals   <|user|>                <|end|><|assistant|>                <|end|><|endoftext|>
    contents           Hi.                                 Hello!
    text       <|user|>Hi.<|end|><|assistant|>Hello!<|end|><|endoftext|>
    prompt     <|user|>Hi.<|end|><|assistant|>
    mask                                      ^^^^^^^^^^^^^

A turn begins where the served prompt ends: the same template over the messages before it, with `add_generation_prompt`.
So training starts where generation will, and what a template puts between that prompt and the content (an empty reasoning
block, say) is generated, and so it counts. A turn ends after the first token that closes it, before any separator.

Invariants:
- literals[0] + contents[0] + literals[1] + ... is the real text, character by character (`align`; a template may trim
  a content, or escape it as JSON). So no content, whatever it says, can shift the mask.
- Each content stands in the text exactly once, in the order of the messages.
- What can't be proven is refused with its reason; nothing is guessed.

Conversations that differ in their contents only share a hollow copy, so its *shape* (literals and turns) is cached: most
rows cost one rendering and one alignment.
"""

import hashlib
import json
import re
from bisect import bisect_left
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mafunzo.compute.chat.template import render_messages, template_messages, template_name
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
    """Finds the assistant's spans for one tokenizer, with a cache of the shapes of conversations (least recently used)."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._name = template_name(tokenizer)
        tokens = sorted((token.content for token in tokenizer.added_tokens_decoder.values()), key=len, reverse=True)
        self._added_token = re.compile("|".join(re.escape(token) for token in tokens if token) or r"(?!)")
        self._shapes: OrderedDict[str, _Shape] = OrderedDict()
        self._prompts: dict[str, _Shape] = {}

    def require_end_of_turn(self) -> None:
        """Raise `InvalidData` where the chat template ends no turn with a token: then it suits no conversation.

        Of a template that refuses the shortest conversation nothing is known: it may suit others.
        """
        shaper = _Shaper(self._tokenizer, self._added_token, self._name, self._prompts)
        try:
            ending = shaper.ending()
        except InvalidData:
            return
        shaper.end_of_turn(ending)

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
        if shape is None or starts is None:  # not cached, or of another day, for a template that writes the date
            if shape is not None or len(self._prompts) > REMEMBERED_PROMPTS:
                self._prompts.clear()
            shaper = _Shaper(self._tokenizer, self._added_token, self._name, self._prompts)
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
    """Return where each literal begins, so that literals and contents, alternating, make exactly `text`; None if they can't.

    A content may stand there unchanged, trimmed, or escaped as JSON: what templates do to it. A depth-first search, as
    one content may fit in several forms.
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
        depth = len(choices)
        starts[depth:] = [start]
        after = start + len(literals[depth])
        if depth < len(contents):
            choices.append(_placements(text, after, contents[depth], literals[depth + 1]))
        elif after == len(text):
            return starts
    return None


def _placements(text: str, position: int, content: str, literal: str) -> Iterator[int]:
    for form in _forms(content):
        if text.startswith(form, position) and text.startswith(literal, position + len(form)):
            yield position + len(form)


def _forms(content: str) -> Iterator[str]:
    """Yield the forms in which a content may stand in a text, each once; nearly always it is the first."""
    yield content
    escaped = json.dumps(content, ensure_ascii=False)[1:-1]
    others = (content.strip(), content.lstrip("\n"), content.lstrip(), content.rstrip(), escaped)
    yield from (form for form in dict.fromkeys(others) if form != content)


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
    digest = hashlib.blake2b(json.dumps(tools, sort_keys=True, default=str).encode(), digest_size=16)
    digests = []
    for message in hollow:
        digests.append(digest.hexdigest())
        digest.update(json.dumps(message, sort_keys=True, default=str).encode())
    return digests


class _Shaper:
    """Computes one shape."""

    def __init__(self, tokenizer: Any, added_token: re.Pattern[str], name: str, prompts: "dict[str, _Shape]") -> None:
        """`prompts` caches the served prompts, by a digest of the messages in them."""
        self._tokenizer, self._added_token, self._name, self._prompts = tokenizer, added_token, name, prompts

    def shape(self, hollow: Messages, tools: Sequence[Mapping[str, Any]] | None) -> _Shape:
        """Return the shape with its turns; raises `InvalidData` where a turn's ends can't be proven."""
        plain = self._split(hollow, tools)
        self._check_nothing_is_left_out(hollow, plain, tools)
        stop = self.end_of_turn(self.ending(tools))
        digests = _digests(hollow, tools)
        turns = [
            self._turn(index, hollow, plain, tools, stop, digests[index])
            for index, message in enumerate(hollow)
            if message["role"] == "assistant"
        ]
        return _Shape(plain.literals, plain.order, tuple(turns))

    def ending(self, tools: Sequence[Mapping[str, Any]] | None = None) -> str:
        """Return what the template writes after the answer of the shortest conversation."""
        pair = [
            {"role": "user", "content": "xSENTINEL000000x"},
            {"role": "assistant", "content": "xSENTINEL000001x"},
        ]
        return self._split(pair, tools).literals[-1]

    def end_of_turn(self, ending: str) -> str:
        """Return the token that ends a turn of the assistant: the first in what follows its answer."""
        closing = self._added_token.search(ending)
        if closing is None:
            raise InvalidData(
                f"the chat template of {self._name} ends an assistant's turn without a token for it, "
                "so that a model could never learn to stop"
            )
        return closing.group()

    def _split(
        self, hollow: Messages, tools: Sequence[Mapping[str, Any]] | None, add_generation_prompt: bool = False
    ) -> _Shape:
        parts = _SENTINEL.split(render_messages(self._tokenizer, hollow, tools, add_generation_prompt))
        return _Shape(tuple(parts[::2]), tuple(int(number) for number in parts[1::2]))

    def _check_nothing_is_left_out(
        self, hollow: Messages, shape: _Shape, tools: Sequence[Mapping[str, Any]] | None
    ) -> None:
        times_by_message = Counter(shape.order)
        for index, message in enumerate(hollow):
            times = times_by_message[index]
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
        before = bisect_left(shape.order, index)
        has_content = shape.order[before : before + 1] == (index,)
        start = self._start(index, hollow, shape, tools, before, has_content, digest)
        calls = hollow[index].get("tool_calls") or ()
        end_literal = before + has_content
        offset = 0 if has_content else start
        remainder = shape.literals[end_literal][offset:]
        for call in calls:
            if str((call.get("function") or call).get("name")) not in remainder:
                raise InvalidData(f"the chat template of {self._name} leaves out the tool calls of message {index + 1}")
        if calls and remainder.count(stop) != 1:
            raise self._unproven(index, f"'{stop}' doesn't stand once after its tool calls")
        closing = re.search(re.escape(stop), remainder) if calls else self._added_token.search(remainder)
        if closing is None or closing.group() != stop:
            actual = f"'{closing.group()}'" if closing else "nothing"
            raise self._unproven(index, f"'{stop}' ends the last turn, but {actual} ends this one")
        return _Turn(index, (before, start), (end_literal, offset + closing.end()))

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
        if not (self._added_token.match(literal, common) and self._added_token.match(tail, common)):
            raise self._unproven(index, "the prompt that is served for it ends differently")
        return common

    def _header(self, tools: Sequence[Mapping[str, Any]] | None) -> str:
        user = [{"role": "user", "content": "xSENTINEL000000x"}]
        tail = self._split(user, tools, add_generation_prompt=True).literals[-1]
        return tail[self._common(tail, self._split(user, tools).literals[-1]) :]

    def _common(self, left: str, right: str) -> int:
        """Return the length of the longest common prefix that splits no added token of the vocabulary."""
        length = next(
            (i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right))
        )
        for text in (left, right):
            for token in self._added_token.finditer(text):
                if token.start() < length < token.end():
                    length = token.start()
        return length

    def _unproven(self, index: int, why: str) -> InvalidData:
        return InvalidData(
            f"where message {index + 1} ('assistant') begins and ends in the chat template of {self._name} "
            f"can't be proven: {why}"
        )
