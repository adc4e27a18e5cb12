"""Which rows are close to a text: BM25 against its formula, written out, and shared runs against a slow search."""

import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mafunzo.dataset.closeness import Closeness, closest, words

ROWS = [
    "What is the capital of Kenya? The capital of Kenya is Nairobi.",
    "How do I boil an egg? Put it into boiling water for seven minutes.",
    "The capital of Tanzania is Dodoma, not Dar es Salaam.",
    "",
]


def bm25(rows: list[str], text: str) -> list[float]:
    """Lucene's BM25, as it stands in Kamphuis et al. 2020."""
    documents = [words(row) for row in rows]
    average = sum(max(1, len(document)) for document in documents) / len(documents)
    scores = []
    for document in documents:
        score = 0.0
        for word in words(text):
            frequency = Counter(document)[word]
            having = sum(word in other for other in documents)
            idf = math.log(1 + (len(documents) - having + 0.5) / (having + 0.5))
            score += idf * frequency / (frequency + 1.5 * (0.25 + 0.75 * len(document) / average))
        scores.append(score)
    return scores


def test_scores_are_those_of_the_formula() -> None:
    text = "The capital of Kenya is Mombasa"
    scores = {one.index: one.score for one in closest(ROWS, text, 9)}
    wanted = {index: score for index, score in enumerate(bm25(ROWS, text)) if score > 0}
    assert scores == pytest.approx(wanted, rel=1e-5)
    assert [one.index for one in closest(ROWS, text, 9)] == [0, 2]


def test_the_longest_runs_of_words_that_stand_in_a_row_are_told() -> None:
    [first, *_] = closest(ROWS, "I say: THE CAPITAL, of Kenya is Nairobi!", 1)
    assert (first.index, first.shared_words, first.shared) == (0, 6, ("the capital of kenya is nairobi",))


def test_a_row_that_shares_the_longest_run_is_listed_though_others_score_better() -> None:
    noise = "zebra " * 300
    rows = [noise + "one two three four five six", *["one two one two three three"] * 5]
    listed = closest(rows, "one two three four five six", 2)
    assert 0 in [one.index for one in listed]
    assert len(listed) <= 4


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        pytest.param([], "hello", id="no rows"),
        pytest.param(["a b"], "", id="no text"),
        pytest.param(["a b", ""], "c", id="no word in common"),
        pytest.param(["", "..."], "c", id="rows without words"),
    ],
)
def test_where_nothing_is_close_nothing_is_listed(rows: list[str], text: str) -> None:
    assert closest(rows, text, 3) == []


def test_scripts_without_spaces_are_compared_by_character() -> None:
    assert words("東京はJapanの首都 Ça va?") == ["東", "京", "は", "japan", "の", "首", "都", "ça", "va"]
    assert closest(["犬です", "私は東京に住んでいます"], "東京に住んで", 1) == [
        Closeness(
            1,
            pytest.approx(closest(["犬です", "私は東京に住んでいます"], "東京に住んで", 1)[0].score),
            6,
            ("東 京 に 住 ん で",),
        )
    ]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from("abc"), max_size=9), min_size=1, max_size=4),
    st.lists(st.sampled_from("abc"), min_size=5, max_size=9),
)
def test_each_n_gram_of_a_shared_run_stands_in_row_and_text(rows: list[list[str]], text: list[str]) -> None:
    grams = {tuple(text[at : at + 5]) for at in range(len(text) - 4)}
    for one in closest([" ".join(row) for row in rows], " ".join(text), 9):
        row = rows[one.index]
        common = [tuple(row[at : at + 5]) for at in range(len(row) - 4) if tuple(row[at : at + 5]) in grams]
        told = [tuple(run.split()[at : at + 5]) for run in one.shared for at in range(len(run.split()) - 4)]
        assert set(told) == set(common)
        assert bool(one.shared) == (one.shared_words >= 5)
