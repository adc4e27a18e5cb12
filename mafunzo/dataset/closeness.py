"""How close the rows of a data set are to a text: by BM25, and by the runs of words that they share with it exactly. No I/O.

A score says which rows are about the same; a long shared run says that the text, or a part of it, stands in the row. Words are
compared without case and punctuation; where a script has no spaces (Chinese, Japanese), each character is a word.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

RUN_WORDS = 5
"""The shortest run of words that counts as shared, or the whole text where that is shorter."""
SHOWN_RUNS = 3
_CHARACTERS = r"\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_CHARACTERS}]|[^\W{_CHARACTERS}]+")
_OTHER = 0
"""Stands for each word that the text doesn't have: it counts in a row's length, and for nothing else."""


@dataclass(frozen=True)
class Closeness:
    """How close a row is.

    index: its place among the rows, from 0. score: BM25. shared_words: the length of the longest shared run. shared: the
    longest runs, the longest first.
    """

    index: int
    score: float
    shared_words: int = 0
    shared: tuple[str, ...] = ()


def closest(rows: Iterable[str], text: str, most: int) -> list[Closeness]:
    """Return the rows closest to a text, the best score first: `most` by BM25, and as many that share the longest runs.

    Rows that have no word of the text aren't among them. Memory: 8 bytes a word of the rows.
    """
    query = words(text)
    ids = {word: number for number, word in enumerate(dict.fromkeys(query), start=1)}
    wanted = [ids[word] for word in query]
    names = {number: word for word, number in ids.items()}
    length = min(RUN_WORDS, len(query))
    grams = set(_grams(wanted, length))
    documents: list[list[int]] = []
    runs: dict[int, list[list[int]]] = {}
    for index, row in enumerate(rows):
        document = [ids.get(word, _OTHER) for word in words(row)]
        documents.append(document or [_OTHER])
        if shared := _shared_runs(document, grams, length):
            runs[index] = shared
    scores = _scores(documents, wanted, len(ids)) if ids and documents else []
    best = [index for index, score in enumerate(scores) if score > 0]
    by_score = sorted(best, key=lambda index: -scores[index])[:most]
    by_run = sorted(runs, key=lambda index: (-len(runs[index][0]), -scores[index]))[:most]
    chosen = sorted({*by_score, *by_run}, key=lambda index: (-scores[index], index))
    return [_closeness(index, scores[index], runs.get(index, []), names) for index in chosen]


def words(text: str) -> list[str]:
    """Return the words of a text, in lower case."""
    return _WORD.findall(text.lower())


def _closeness(index: int, score: float, runs: Sequence[Sequence[int]], names: dict[int, str]) -> Closeness:
    texts = [" ".join(names[word] for word in run) for run in runs]
    return Closeness(index, score, len(runs[0]) if runs else 0, tuple(dict.fromkeys(texts))[:SHOWN_RUNS])


def _scores(documents: list[list[int]], wanted: list[int], word_count: int) -> list[float]:
    """Return each document's BM25 score (Lucene's variant, k1 1.5, b 0.75)."""
    import bm25s

    index = bm25s.BM25()
    index.index((documents, {str(number): number for number in range(word_count + 1)}), show_progress=False)
    return [float(score) for score in index.get_scores([str(word) for word in wanted])]


def _grams(document: Sequence[int], length: int) -> Iterator[tuple[int, ...]]:
    """Yield the n-grams of a document."""
    return (tuple(document[at : at + length]) for at in range(len(document) - length + 1))


def _shared_runs(document: Sequence[int], grams: set[tuple[int, ...]], length: int) -> list[list[int]]:
    """Return the runs of words whose every n-gram stands in the text, the longest first."""
    runs: list[list[int]] = []
    for is_of_text, part in groupby(document, key=bool):  # all but _OTHER
        words_of_part = list(part) if is_of_text else []
        if len(words_of_part) >= length > 0:
            runs += _runs(words_of_part, grams, length)
    return sorted(runs, key=len, reverse=True)


def _runs(document: list[int], grams: set[tuple[int, ...]], length: int) -> Iterator[list[int]]:
    is_shared = [gram in grams for gram in _grams(document, length)]
    at = 0
    for shared, group in groupby(is_shared):
        count = len(list(group))
        if shared:
            yield document[at : at + count + length - 1]
        at += count
