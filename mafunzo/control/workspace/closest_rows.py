"""The training rows closest to a text: read from the stored data of the job that a lineage leads to."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mafunzo.control.workspace.services import Services
from mafunzo.entities.asset import Asset
from mafunzo.entities.job import Job
from mafunzo.errors import InvalidParameter, MafunzoError

if TYPE_CHECKING:  # most lineages need no rows
    from mafunzo.dataset.files import RawRow, Source

TRAINING = "train_"
"""How the inputs of a job are called that its training rows come from."""
EXCERPT_CHARACTERS = 300
MAX_ROWS = 1000


@dataclass(frozen=True)
class CloseRow:
    """A training row that is close to a text.

    file, row: where it stands in the job's input `input`, whose bytes have the hash `artifact`. score: BM25. shared_words,
    shared: the longest runs of words that it has in common with the text. excerpt: how the row begins.
    """

    input: str
    artifact: str
    file: str
    row: int
    score: float
    shared_words: int
    shared: tuple[str, ...]
    excerpt: str


@dataclass(frozen=True)
class CloseRows:
    """The rows closest to a text, the closest first. compared: how many rows there are. notes: what couldn't be compared, and
    why."""

    rows: tuple[CloseRow, ...] = ()
    compared: int = 0
    notes: tuple[str, ...] = ()

    def lines(self) -> Iterator[str]:
        """Yield readable lines."""
        yield f"closest of {self.compared} training rows:"
        for row in self.rows:
            yield f"  {row.file}, row {row.row}: BM25 {row.score:.2f}, {row.shared_words} words in a row shared"
            yield from (f"    shared: {shared}" for shared in row.shared)
            yield f"    {row.excerpt}"
        if not self.rows:
            yield "  none has a word of the text"
        yield from (f"  {note}" for note in self.notes)


def training_data(job: Job | None, model: Asset | None) -> dict[str, str]:
    """Return the hashes of the data that a model was trained on, by input: of the job, or as the model remembers a job that was
    deleted."""
    if job is not None:
        inputs = ((name, value) for name, value in job.inputs.items() if isinstance(value, Mapping))
        known: dict[str, Any] = {name: value.get("artifact") for name, value in inputs}
    else:
        known = dict(model.properties.get("data", {})) if model is not None else {}
    return {name: artifact for name, artifact in known.items() if name.startswith(TRAINING) and artifact}


def closest_rows(services: Services, data: Mapping[str, str], text: str, most: int) -> CloseRows:
    """Return the training rows closest to a text. Raises `InvalidParameter` for a text without words."""
    from mafunzo.dataset.closeness import words

    if not words(text):
        raise InvalidParameter("The text has no word to look for in the training rows.", param="text")
    if not 1 <= most <= MAX_ROWS:
        raise InvalidParameter(f"{most} rows are to be listed, expected 1 to {MAX_ROWS}.", param="rows")
    if not data:
        return CloseRows(notes=("no training rows are known: no fine-tuning job leads to it",))
    rows: list[CloseRow] = []
    notes: list[str] = []
    compared = 0
    for name, artifact in data.items():
        if not services.artifacts.exists(artifact):
            notes.append(f"{name}: its rows were pruned, or collected")
            continue
        try:
            close, count = _of_input(services, name, artifact, text, most)
        except MafunzoError as error:
            notes.append(f"{name}: {error.message}")
            continue
        rows, compared = [*rows, *close], compared + count
    rows.sort(key=lambda row: -row.score)
    return CloseRows(tuple(rows), compared, tuple(notes))


def _of_input(services: Services, name: str, artifact: str, text: str, most: int) -> tuple[list[CloseRow], int]:
    from mafunzo.dataset.closeness import closest
    from mafunzo.dataset.files import open_source

    services.artifacts.require_checked(artifact)
    with tempfile.TemporaryDirectory(prefix=".rows-", dir=services.home.root) as scratch:
        source = open_source(services.artifacts.checkout(artifact, Path(scratch) / "data"))
        texts = _Texts(source)
        close = closest(texts, text, most)
        by_index = {row.index: row for row in source.rows({one.index for one in close})}
    rows = [
        CloseRow(
            name,
            artifact,
            by_index[one.index].file,
            by_index[one.index].row,
            one.score,
            one.shared_words,
            one.shared,
            _excerpt(text_of(by_index[one.index])),
        )
        for one in close
    ]
    return rows, texts.count


class _Texts(Iterable[str]):
    """The texts of a source's rows, counted as they pass."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.count = 0

    def __iter__(self) -> Iterator[str]:
        for row in self._source.rows():
            self.count += 1
            yield text_of(row)


def text_of(row: RawRow) -> str:
    """Return what the messages of a row say; empty for one that no training can use."""
    from mafunzo.dataset.formats import shape

    messages = shape(row.body).messages if row.body is not None else []
    return "\n".join(part for message in messages for part in _parts(message))


def _parts(message: Any) -> Iterator[str]:
    content = message.get("content") if isinstance(message, Mapping) else None
    if isinstance(content, str):
        yield content
    for part in content if isinstance(content, list) else ():
        if isinstance(part, Mapping) and isinstance(part.get("text"), str):
            yield part["text"]


def _excerpt(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= EXCERPT_CHARACTERS else f"{line[:EXCERPT_CHARACTERS]}..."
