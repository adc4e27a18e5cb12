"""Conversations to training examples: token ids, and labels that are the same ids where the assistant speaks.

The whole conversation is rendered once and tokenised once, so the ids are those that `apply_chat_template` gives. A token
is trained when its first character lies in an assistant's span: a token that begins in the header belongs to the prompt,
and an end-of-turn token that swallows the line break after it (Phi-3's does) belongs to the turn.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mafunzo.chat.mask import Span, SpanFinder
from mafunzo.entities.conversation import Conversation
from mafunzo.errors import InvalidData

IGNORED = -100
"""The label of a token that isn't trained: torch's own `ignore_index`."""


@dataclass(frozen=True)
class Example:
    """One encoded conversation, both lists of the same length.

    full_length: its tokens before it was cut. piece_ends: where in `text` each kept token ends.
    """

    input_ids: list[int]
    labels: list[int]
    full_length: int
    text: str
    piece_ends: list[int]

    @property
    def is_truncated(self) -> bool:
        return len(self.input_ids) < self.full_length

    @property
    def assistant_tokens(self) -> int:
        return sum(label != IGNORED for label in self.labels)


@dataclass(frozen=True)
class Unusable:
    """A conversation that gives no example, and why. is_too_long: its beginning would do, but the cut leaves no answer."""

    reason: str
    is_too_long: bool = False


class Encoder:
    """Encodes conversations with one tokenizer, many at a time."""

    def __init__(self, tokenizer: Any) -> None:
        self._spans = SpanFinder(tokenizer)
        self._backend = _offset_exact(tokenizer)
        special = [re.escape(token.content) for token in tokenizer.added_tokens_decoder.values() if token.special]
        self._special = re.compile("|".join(special) or r"(?!)")

    def encode(self, conversations: Sequence[Conversation], max_seq_length: int | None) -> list[Example | Unusable]:
        """Return an example for each conversation, cut on the right at `max_seq_length` tokens (None: not cut).

        A conversation that the template refuses, or of which no assistant token is left, is `Unusable`.
        """
        found = [self._find(conversation) for conversation in conversations]
        texts = [text_and_spans[0] for text_and_spans in found if not isinstance(text_and_spans, Unusable)]
        encodings = iter(self._backend.encode_batch(texts, add_special_tokens=False))
        examples: list[Example | Unusable] = []
        for conversation, text_and_spans in zip(conversations, found, strict=True):
            if isinstance(text_and_spans, Unusable):
                examples.append(text_and_spans)
                continue
            text, spans = text_and_spans
            encoding = next(encodings)
            examples.append(
                _example(text, _trained(conversation, spans), encoding.ids, encoding.offsets, max_seq_length)
            )
        return examples

    def own_token(self, conversation: Conversation) -> str:
        """Return the first special token that stands in the text of a message, or an empty text.

        It is encoded as that token, as `apply_chat_template` does it, so a text can end its own turn.
        """
        found = (self._special.search(message.content or "") for message in conversation.messages)
        return next((match.group() for match in found if match), "")

    def _find(self, conversation: Conversation) -> tuple[str, list[Span]] | Unusable:
        try:
            return self._spans.find(conversation)
        except InvalidData as error:
            return Unusable(error.message)


def pieces(example: Example) -> list[dict[str, Any]]:
    """Return the text of an example in pieces, `{"text": ..., "trained": bool}`, that join to what was kept of it."""
    return list(_pieces(example))


def _pieces(example: Example) -> Iterator[dict[str, Any]]:
    begin = end = 0
    trained = False
    for label, piece_end in zip(example.labels, example.piece_ends, strict=True):
        if (label != IGNORED) != trained:
            if end > begin:
                yield {"text": example.text[begin:end], "trained": trained}
            begin, trained = end, label != IGNORED
        end = max(end, piece_end)
    if end > begin:
        yield {"text": example.text[begin:end], "trained": trained}


def _trained(conversation: Conversation, spans: Sequence[Span]) -> list[Span]:
    return [span for span in spans if conversation.messages[span.message].extra.get("weight", 1) != 0]


def _example(
    text: str,
    spans: Sequence[Span],
    ids: Sequence[int],
    offsets: Sequence[tuple[int, int]],
    max_seq_length: int | None,
) -> Example | Unusable:
    kept = len(ids) if max_seq_length is None else min(max_seq_length, len(ids))
    labels: list[int] = []
    remaining = iter(spans)
    span = next(remaining, None)
    first_trained: int | None = None
    for position, (token, (start, _)) in enumerate(zip(ids, offsets, strict=True)):
        while span is not None and start >= span.end:
            span = next(remaining, None)
        is_trained = span is not None and start >= span.start
        if is_trained and first_trained is None:
            first_trained = position
        labels.append(token if is_trained else IGNORED)
    if first_trained is None:
        return Unusable("no turn of the assistant is to be trained (each has weight 0)")
    if first_trained >= kept:
        return Unusable(
            f"cut at {kept} tokens, before the assistant's first word (token {first_trained + 1} of {len(ids)}); "
            "raise max_seq_length",
            is_too_long=True,
        )
    return Example(list(ids[:kept]), labels[:kept], len(ids), text, [end for _, end in offsets[:kept]])


def _offset_exact(tokenizer: Any) -> Any:
    """Return the tokenizer's backend with offsets that cover white space too (GPT-2's trims them), without cut or padding."""
    from tokenizers import Tokenizer

    body = json.loads(tokenizer.backend_tokenizer.to_str())
    _untrim(body.get("post_processor"))
    backend = Tokenizer.from_str(json.dumps(body))
    backend.no_truncation()
    backend.no_padding()
    return backend


def _untrim(processor: Any) -> None:
    if isinstance(processor, dict):
        if "trim_offsets" in processor:
            processor["trim_offsets"] = False
        for child in processor.get("processors") or ():
            _untrim(child)
