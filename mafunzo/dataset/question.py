"""The questions of a file of rows: what a model is to answer, row by row, and why a row asks nothing."""

from collections.abc import Iterator
from dataclasses import dataclass

from mafunzo.dataset.check import checked
from mafunzo.dataset.files import Indices, RawRow, Source
from mafunzo.dataset.formats import Shape, question
from mafunzo.entities.conversation import Conversation
from mafunzo.errors import Faults


@dataclass(frozen=True)
class Question:
    """What a row asks; its conversation is empty where the row has a `fault`.

    index: counts the rows of a source from 0; row: how the user finds it in `file`.
    """

    index: int
    file: str
    row: int
    conversation: Conversation
    fault: str = ""


def read_questions(source: Source, indices: Indices | None = None) -> Iterator[Question]:
    """Yield what each row asks, or those at `indices`. Raises `InvalidFile` where a file as a whole can't be read."""
    for raw in source.rows(indices):
        yield _question(raw)


def _question(raw: RawRow) -> Question:
    faults = Faults()
    conversation = checked(Shape("", [], fault=raw.fault) if raw.body is None else question(raw.body), faults)
    return Question(raw.index, raw.file, raw.row, Conversation(()) if faults else conversation, "; ".join(faults))
