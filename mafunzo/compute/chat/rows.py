"""Rows to all that preparing them gives: checked, rendered and tokenized. A function of the row and the tokenizer alone.

So rows can be prepared in other processes (`row_workers.py`), and what they gave be kept for later (`row_cache.py`). What
depends on other rows, or on parameters of a step, comes after it.
"""

import json
from array import array
from collections.abc import Sequence
from typing import Any, NamedTuple

from mafunzo.compute.chat.examples import Encoder, Example, TrainOn, Unusable, cut
from mafunzo.dataset.check import BadRow, Row, check_row, fingerprint
from mafunzo.dataset.files import RawRow
from mafunzo.entities.conversation import Conversation

UNREAD_FIELD = "has '{}' in a message, which the chat template leaves out"
OWN_TOKEN = "has '{}', a token of the model's own, in its text"


class PreparedRow(NamedTuple):
    """What a row gives, in whichever file it stands.

    fault: why it is no conversation; all else is empty then. format, notes: of the row check. fingerprint: for deduplication.
    text: the conversation as JSON. reason: why it gives no example. ids: of its tokens, not truncated, as the bytes of an
    array. trained: (first, last) of each trained span, one after the other. token_notes: what is unusual in its text.
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

    def example(self, max_seq_length: int | None) -> Example | Unusable:
        """Return the example, truncated."""
        if self.reason:
            return Unusable(self.reason)
        ids = array("i", self.ids)
        spans = tuple(zip(self.trained[::2], self.trained[1::2], strict=True))
        return cut(Example(ids, spans, len(ids), ""), max_seq_length)


class RowPreparer:
    """Prepares rows with one tokenizer."""

    def __init__(self, tokenizer: Any, train_on: TrainOn = "assistant") -> None:
        """Raises `InvalidData` for a chat template with which no row can be trained."""
        self.encoder = Encoder(tokenizer, train_on)

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
        return known._replace(
            ids=result.ids.tobytes(),
            trained=tuple(token for span in result.trained for token in span),
            token_notes=tuple(self._token_notes(conversation, result)),
        )

    def _token_notes(self, conversation: Conversation, example: Example) -> list[str]:
        token = self.encoder.own_token(conversation)
        unread = [UNREAD_FIELD.format(name) for name in self.encoder.unread_fields(conversation, example)]
        return [*([OWN_TOKEN.format(token)] if token else ()), *unread]
