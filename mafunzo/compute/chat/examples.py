"""Conversations to tokenized examples: `input_ids`, and `labels` with the loss mask applied (-100 outside the answers).

The whole conversation is rendered once and tokenized once, so the ids are those that `apply_chat_template` gives. A token
counts in the loss when its first character lies in an assistant's span: a token that begins in the header belongs to the
prompt, and an end-of-turn token that swallows the line break after it (Phi-3's does) belongs to the turn.
"""

import json
import re
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Literal

from mafunzo.compute.chat.chunks import ChunkTokenizer, has_chunks
from mafunzo.compute.chat.mask import Span, SpanFinder
from mafunzo.entities.conversation import TRAINING_FIELDS, Conversation, Message
from mafunzo.errors import InvalidData

IGNORED = -100
"""The label of a token outside the loss: the `ignore_index` of torch's cross-entropy."""


TrainOn = Literal["assistant", "last", "everything"]
"""What the loss counts: all turns of the assistant, its last one, or the whole text."""


@dataclass(frozen=True)
class Example:
    """One tokenized conversation.

    ids: of each token, as int32. trained: the tokens that the loss counts, as (first, last), the last not included.
    full_length: tokens before truncation. piece_ends: the character of `text` where each token ends, if they were asked for.
    text_start: the character where the first token begins.
    """

    ids: "array[int]"
    trained: tuple[tuple[int, int], ...]
    full_length: int
    text: str
    piece_ends: Sequence[int] = ()
    text_start: int = 0

    @property
    def input_ids(self) -> list[int]:
        return self.ids.tolist()

    @property
    def labels(self) -> list[int]:
        """The ids with `IGNORED` in place of those that the loss doesn't count."""
        labels = [IGNORED] * len(self.ids)
        for first, last in self.trained:
            labels[first:last] = self.ids[first:last]
        return labels

    @property
    def is_truncated(self) -> bool:
        return len(self.ids) < self.full_length

    @property
    def assistant_tokens(self) -> int:
        return sum(last - first for first, last in self.trained)


@dataclass(frozen=True)
class Unusable:
    """A conversation that gives no example, and why. is_too_long: only because truncation leaves none of the answer."""

    reason: str
    is_too_long: bool = False


class Encoder:
    """Tokenizes conversations in batches, with one tokenizer."""

    def __init__(self, tokenizer: Any, train_on: TrainOn = "assistant") -> None:
        """Raises `InvalidData` for a chat template with which no row can be trained."""
        self._tokenizer, self._train_on = tokenizer, train_on
        self._spans = SpanFinder(tokenizer)
        self._spans.require_end_of_turn()
        self._backend = _offset_exact(tokenizer)
        self._chunks = ChunkTokenizer(self._backend) if has_chunks(self._backend) else None
        special = [re.escape(token.content) for token in tokenizer.added_tokens_decoder.values() if token.special]
        self._special = re.compile("|".join(special) or r"(?!)")

    def encode(
        self, conversations: Sequence[Conversation], max_seq_length: int | None, with_pieces: bool = True
    ) -> list[Example | Unusable]:
        """Return an example for each conversation, truncated on the right to `max_seq_length` tokens (None: whole).

        A conversation that the template refuses, or of which no assistant token is left, is `Unusable`. with_pieces: whether
        `piece_ends` are wanted; without them it takes a fraction of the time.
        """
        renderings = [self._find(conversation) for conversation in conversations]
        return self._examples(renderings, max_seq_length, with_pieces)

    def _examples(
        self, renderings: Sequence["_Rendering | Unusable"], max_seq_length: int | None, with_pieces: bool
    ) -> list[Example | Unusable]:
        if self._chunks is not None and not with_pieces:
            return [
                rendering if isinstance(rendering, Unusable) else _chunked(rendering, self._chunks, max_seq_length)
                for rendering in renderings
            ]
        texts = [rendering.text for rendering in renderings if isinstance(rendering, _Rendering)]
        encodings = iter(self._backend.encode_batch(texts, add_special_tokens=False))
        examples: list[Example | Unusable] = []
        for rendering in renderings:
            if isinstance(rendering, Unusable):
                examples.append(rendering)
                continue
            encoding = next(encodings)
            examples.append(_example(rendering, encoding, max_seq_length, with_pieces))
        return examples

    def unread_fields(self, conversation: Conversation, example: Example) -> Iterator[str]:
        """Yield the fields of its messages that the chat template leaves out, such as the reasoning of earlier turns."""
        fields = [field for message in conversation.messages for field in _template_fields(message)]
        if not fields:
            return
        source = str(self._tokenizer.get_chat_template(tools=[{}] if conversation.tools else None))
        for name in dict.fromkeys(name for name, _ in fields):
            texts = [value.strip() for other, value in fields if other == name and isinstance(value, str)]
            if name not in source or not all(text in example.text for text in texts):
                yield name

    def own_token(self, conversation: Conversation) -> str:
        """Return the first special token in the text of a message, or an empty text.

        As with `apply_chat_template` it is encoded as that token, so that a text can end its own turn.
        """
        matches = (self._special.search(message.content or "") for message in conversation.messages)
        return next((match.group() for match in matches if match), "")

    def _find(self, conversation: Conversation) -> "_Rendering | Unusable":
        try:
            text, spans = self._spans.find(conversation)
        except InvalidData as error:
            return Unusable(error.message)
        left_out = [span for span in spans if not conversation.messages[span.message].is_trained]
        if self._train_on == "last" and spans[-1] in left_out:
            return Unusable(
                "the last turn of the assistant isn't to be trained (weight 0, or loss, train or training false), and "
                "train_on is 'last'"
            )
        if self._train_on == "everything":
            return _Rendering(text, _between(left_out, len(text)))
        chosen = spans[-1:] if self._train_on == "last" else spans
        return _Rendering(text, [(span.start, span.end) for span in chosen if span not in left_out])


@dataclass(frozen=True)
class _Rendering:
    """A conversation as text, and the spans of it that are trained, in order, as (start, end)."""

    text: str
    spans: list[tuple[int, int]]


def _between(spans: Sequence[Span], length: int) -> list[tuple[int, int]]:
    """Return what lies before, between and behind spans of a text, as (start, end)."""
    starts, ends = [0, *(span.end for span in spans)], [*(span.start for span in spans), length]
    return [(start, end) for start, end in zip(starts, ends, strict=True) if end > start]


def pieces(example: Example) -> Iterator[dict[str, Any]]:
    """Yield the truncated text of an example in pieces, `{"text": ..., "trained": bool}`, split at the loss mask."""
    begin = end = example.text_start
    is_trained = False
    for label, piece_end in zip(example.labels, example.piece_ends, strict=True):
        if (label != IGNORED) != is_trained:
            if end > begin:
                yield {"text": example.text[begin:end], "trained": is_trained}
            begin, is_trained = end, label != IGNORED
        end = max(end, piece_end)
    if end > begin:
        yield {"text": example.text[begin:end], "trained": is_trained}


def _template_fields(message: Message) -> Iterator[tuple[str, Any]]:
    """Yield the fields that a template may write beside content and calls; what names a tool's result it needs not."""
    fields = message.extra if message.role == "tool" else {"name": message.name, **message.extra}
    for name, value in fields.items():
        if name not in TRAINING_FIELDS and value not in (None, "", [], {}):
            yield name, value


def _chunked(rendering: _Rendering, tokenizer: ChunkTokenizer, max_seq_length: int | None) -> Example | Unusable:
    """Return the example of a rendering by its chunks."""
    places = [place for span in rendering.spans for place in span]
    ids, tokens = tokenizer.encode(rendering.text, places)
    return _masked(rendering, ids, tokens, max_seq_length, array("q"))


def _example(
    rendering: _Rendering, encoding: Any, max_seq_length: int | None, with_pieces: bool = False
) -> Example | Unusable:
    """Return the example of a rendering and what the tokenizer made of its text."""
    places = [place for span in rendering.spans for place in span]
    tokens = [_first_token(encoding, place, len(rendering.text)) for place in places]
    piece_ends = array("q", (end for _, end in encoding.offsets) if with_pieces else ())
    return _masked(rendering, array("i", encoding.ids), tokens, max_seq_length, piece_ends)


def _masked(
    rendering: _Rendering,
    ids: "array[int]",
    tokens: Sequence[int],
    max_seq_length: int | None,
    piece_ends: Sequence[int],
) -> Example | Unusable:
    """Return the example whose spans begin and end at `tokens`, in turns."""
    spans = zip(tokens[::2], tokens[1::2], strict=True)
    trained = tuple((first, last) for first, last in spans if last > first)
    if not trained:
        return Unusable("no turn of the assistant is to be trained (weight 0, or loss, train or training false)")
    return cut(Example(ids, trained, len(ids), rendering.text, piece_ends), max_seq_length)


def cut(example: Example, max_seq_length: int | None) -> Example | Unusable:
    """Return a whole example truncated on the right; one of which no assistant token is left is `Unusable`."""
    length, whole = max_seq_length or example.full_length, example.full_length
    if whole <= length:
        return example
    first_trained = example.trained[0][0]
    if first_trained >= length:
        return Unusable(
            f"cut at {length} tokens, before the assistant's first word (token {first_trained + 1} of {whole}); "
            "raise max_seq_length",
            is_too_long=True,
        )
    trained = tuple((first, min(last, length)) for first, last in example.trained if first < length)
    return Example(example.ids[:length], trained, whole, example.text, example.piece_ends[:length])


def _first_token(encoding: Any, place: int, text_length: int) -> int:
    """Return the first token that starts at a character or after it; where tokens start never falls.

    The tokenizer is asked for the token at that character: all offsets as Python's objects would take longer than the rest.
    """
    n_tokens = len(encoding)
    token = n_tokens if place >= text_length else encoding.char_to_token(place)
    if token is None:  # no token covers this character
        return bisect_left(encoding.offsets, place, key=itemgetter(0))
    while token < n_tokens and encoding.token_to_chars(token)[0] < place:
        token += 1
    while token > 0 and encoding.token_to_chars(token - 1)[0] >= place:  # a token of no characters stands before it
        token -= 1
    return int(token)


def _offset_exact(tokenizer: Any) -> Any:
    """Return the tokenizer's backend with offsets that cover white space (GPT-2's trims them), no truncation, no padding."""
    from tokenizers import Tokenizer

    original = tokenizer.backend_tokenizer
    backend = Tokenizer(original.model)  # the same model: a copy of its vocabulary takes a second
    backend.normalizer, backend.pre_tokenizer = original.normalizer, original.pre_tokenizer
    tokens = original.get_added_tokens_decoder()
    for _, token in sorted(tokens.items()):
        (backend.add_special_tokens if token.special else backend.add_tokens)([token])
    contents = {number: token.content for number, token in tokens.items()}
    if {number: token.content for number, token in backend.get_added_tokens_decoder().items()} == contents:
        return backend
    body = json.loads(original.to_str())  # ids of added tokens that don't follow on the vocabulary's
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
