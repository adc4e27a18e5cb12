"""Rows to all that preparing them gives: checked, rendered and tokenized. A function of the row and the tokenizer alone.

So rows can be prepared in other processes (`row_workers.py`), and what they gave be kept for later (`row_cache.py`). What
depends on other rows, or on parameters of a step, comes after it.
"""

import json
from array import array
from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

from mafunzo.compute.chat.examples import Encoder, Example, TrainOn, Unusable, cut
from mafunzo.compute.chat.long_rows import LongRows, split_by_turns, too_long
from mafunzo.dataset.check import BadRow, Row, check_row, fingerprint
from mafunzo.dataset.files import RawRow
from mafunzo.entities.conversation import Conversation

UNREAD_FIELD = "has '{}' in a message, which the chat template leaves out"
OWN_TOKEN = "has '{}', a token of the model's own, in its text"


class PreparedRow(NamedTuple):
    """What a row gives, in whichever file it stands.

    fault: why it is no conversation; all else is empty then. format, notes: of the row check. fingerprint: for deduplication.
    text: the conversation as JSON. reason: why it gives no example. ids: of its tokens, not truncated, as the bytes of an
    array. trained: (first, last) of each trained span, one after the other. token_notes: what is unusual in its text. parts:
    where each part of a row that was split ends in `ids`; empty for a whole row. full_length: tokens of a split row before.
    """

    fault: str = ""
    format: str = ""
    notes: tuple[str, ...] = ()
    fingerprint: bytes = b""
    text: str = ""
    reason: str = ""
    ids: bytes = b""
    trained: tuple[int, ...] = ()
    token_notes: tuple[str, ...] = ()
    parts: tuple[int, ...] = ()
    full_length: int = 0

    def examples(self, max_seq_length: int | None, long_rows: LongRows = "truncate") -> list[Example] | Unusable:
        """Return the examples: one, truncated or dropped where it is too long, or those of a row that was split."""
        if self.reason:
            return Unusable(self.reason, is_too_long=self.full_length > 0)
        ids = array("i", self.ids)
        spans = tuple(zip(self.trained[::2], self.trained[1::2], strict=True))
        if self.parts:
            return [_part(ids, spans, start, end) for start, end in pairwise((0, *self.parts))]
        if long_rows == "drop" and max_seq_length is not None and len(ids) > max_seq_length:
            return too_long(len(ids), max_seq_length)
        example = cut(Example(ids, spans, len(ids), ""), max_seq_length)
        return example if isinstance(example, Unusable) else [example]


class RowPreparer:
    """Prepares rows with one tokenizer."""

    def __init__(self, tokenizer: Any, train_on: TrainOn = "assistant", split_at: int | None = None) -> None:
        """split_at: the tokens beyond which a row is split by its turns; None splits none.

        Raises `InvalidData` for a chat template with which no row can be trained.
        """
        self.encoder, self._split_at = Encoder(tokenizer, train_on), split_at

    def prepare(self, raw_rows: Sequence[RawRow]) -> list[PreparedRow]:
        """Return what each row gives."""
        rows = [check_row(raw) for raw in raw_rows]
        conversations = [row.conversation for row in rows if isinstance(row, Row)]
        results = iter(self.encoder.encode(conversations, None, with_pieces=False))
        return [
            PreparedRow(fault=row.reason) if isinstance(row, BadRow) else self._prepared(row, next(results))
            for row in rows
        ]

    def _prepared(self, row: Row, result: Example | Unusable) -> PreparedRow:
        conversation = row.conversation
        known = PreparedRow(
            "", row.format, row.notes, fingerprint(conversation), json.dumps(conversation.as_dict(), ensure_ascii=False)
        )
        if isinstance(result, Unusable):
            return known._replace(reason=result.reason)
        known = known._replace(token_notes=tuple(self._token_notes(conversation, result)))
        if self._split_at is None or len(result.ids) <= self._split_at:
            return known._replace(ids=result.ids.tobytes(), trained=_flat(result.trained))
        known = known._replace(full_length=len(result.ids))
        parts = split_by_turns(self.encoder, conversation, self._split_at)
        if isinstance(parts, Unusable):
            return known._replace(reason=parts.reason, full_length=known.full_length if parts.is_too_long else 0)
        ends = tuple(accumulate(len(part.ids) for part in parts))
        moved = [
            (first + end - len(part.ids), last + end - len(part.ids))
            for part, end in zip(parts, ends, strict=True)
            for first, last in part.trained
        ]
        return known._replace(ids=b"".join(part.ids.tobytes() for part in parts), trained=_flat(moved), parts=ends)

    def _token_notes(self, conversation: Conversation, example: Example) -> list[str]:
        token = self.encoder.own_token(conversation)
        unread = [UNREAD_FIELD.format(name) for name in self.encoder.unread_fields(conversation, example)]
        return [*([OWN_TOKEN.format(token)] if token else ()), *unread]


def _flat(spans: Iterable[tuple[int, int]]) -> tuple[int, ...]:
    return tuple(token for span in spans for token in span)


def _part(ids: "array[int]", spans: Iterable[tuple[int, int]], start: int, end: int) -> Example:
    """Return the example of a part of a row that was split."""
    trained = tuple((first - start, last - start) for first, last in spans if start <= first < end)
    return Example(ids[start:end], trained, end - start, "")
