"""What becomes of a conversation with more tokens than `max_seq_length`: it is truncated, dropped, or split by its turns.

    system  user 1  assistant 1 | user 2  assistant 2  user 3  assistant 3 | ...

A part is a conversation of its own: what stands before the first turn (the system message) and as many exchanges, each from a
user's turn to the next one's, as fit. It is rendered anew, so that it begins as a served prompt does. An exchange that is too
long alone is cut into windows; each begins with the last token of the one before it, so that no trained token is lost:

    window 1   t0 t1 t2 t3
    window 2            t3 t4 t5        t3 isn't trained again: the first token of a sequence never counts
"""

from collections.abc import Iterator, Sequence
from typing import Literal

from mafunzo.compute.chat.examples import Encoder, Example, Unusable
from mafunzo.entities.conversation import Conversation, Message

LongRows = Literal["truncate", "drop", "split"]
Exchanges = list[tuple[Message, ...]]
_OPENING = ("system", "developer")


def examples_of(
    encoder: Encoder, conversation: Conversation, limit: int | None, long_rows: LongRows, with_pieces: bool = True
) -> list[Example] | Unusable:
    """Return the examples of a conversation, each of at most `limit` tokens (None: no limit), or why there are none."""
    if long_rows == "truncate":
        example = encoder.encode([conversation], limit, with_pieces)[0]
        return example if isinstance(example, Unusable) else [example]
    whole = encoder.encode([conversation], None, with_pieces)[0]
    if isinstance(whole, Unusable) or limit is None or len(whole.ids) <= limit:
        return whole if isinstance(whole, Unusable) else [whole]
    if long_rows == "drop":
        return too_long(len(whole.ids), limit)
    return split_by_turns(encoder, conversation, limit, with_pieces)


def too_long(tokens: int, limit: int) -> Unusable:
    """Return that a row is dropped for its length."""
    return Unusable(f"has {tokens} tokens, more than {limit}, and long_rows is 'drop'", is_too_long=True)


def split_by_turns(
    encoder: Encoder, conversation: Conversation, limit: int, with_pieces: bool = False
) -> list[Example] | Unusable:
    """Return the examples of a conversation's parts; what the template refuses of one refuses the row."""
    opening, exchanges = _exchanges(conversation.messages)
    examples: list[Example] = []
    part: Exchanges = []
    fitting: Example | None = None

    def encode(parts: Exchanges) -> Example | Unusable | None:
        """Return the example of exchanges; None where nothing in them is to be learned."""
        messages = (*opening, *(message for exchange in parts for message in exchange))
        if not any(message.is_trained for message in messages):
            return None
        return encoder.encode([Conversation(messages, conversation.tools)], None, with_pieces)[0]

    for exchange in exchanges:
        longer = encode([*part, exchange])
        if isinstance(longer, Unusable):
            return longer
        if part and longer is not None and len(longer.ids) > limit:
            examples += _windows(fitting, limit)
            part, longer = [], encode([exchange])
            if isinstance(longer, Unusable):
                return longer
        part, fitting = [*part, exchange], longer
    examples += _windows(fitting, limit)
    return examples or Unusable("no part of it has a token to train on", is_too_long=True)


def _exchanges(messages: Sequence[Message]) -> tuple[tuple[Message, ...], Exchanges]:
    """Return the messages before the first turn, and the others in groups that begin with a user's turn each."""
    first = next((index for index, message in enumerate(messages) if message.role not in _OPENING), len(messages))
    starts = [
        index
        for index in range(first, len(messages))
        if index == first or (messages[index].role == "user" and messages[index - 1].role != "user")
    ]
    ends = [*starts[1:], len(messages)]
    return tuple(messages[:first]), [tuple(messages[start:end]) for start, end in zip(starts, ends, strict=True)]


def _windows(example: Example | None, limit: int) -> Iterator[Example]:
    """Yield an example in windows of at most `limit` tokens; one without a trained token is left out."""
    if example is None or len(example.ids) <= limit:
        if example is not None:
            yield example
        return
    step = max(limit - 1, 1)
    for start in range(0, len(example.ids) - 1, step):
        end = min(start + limit, len(example.ids))
        least = start + 1 if start else 0
        spans = [(max(first, least) - start, min(last, end) - start) for first, last in example.trained]
        trained = tuple((first, last) for first, last in spans if last > first)
        if not trained:
            continue
        pieces = example.piece_ends[start:end]
        text_start = example.piece_ends[start - 1] if start and example.piece_ends else 0
        yield Example(example.ids[start:end], trained, end - start, example.text, pieces, text_start)
