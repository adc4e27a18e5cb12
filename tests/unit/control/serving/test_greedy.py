"""Whether the tokens that greedy decoding takes are evaluation's, on made-up log-probabilities."""

import math

import pytest

from mafunzo.control.serving.greedy import Agreement, Disagreement, Top, agreement
from mafunzo.control.serving.reference import Reference, ReferenceRow


def reference(*greedy_ids: list[int | None] | None) -> Reference:
    rows = [
        ReferenceRow(messages=[], token_ids=[1, 2, 3], prompt_token_ids=[1], logprobs=[], greedy_ids=ids)
        for ids in greedy_ids
    ]
    return Reference(tolerance=0.1, stop_token_ids=[], rows=rows)


def test_tokens_before_the_answer_are_not_counted() -> None:
    tops = [None, {7: -0.1, 8: -3.0}, {5: -0.2, 6: -2.0}]
    assert agreement(reference([None, None, 5]), [tops]) == Agreement(1, 1)


@pytest.mark.parametrize(
    ("top", "expected"),
    [
        pytest.param({5: -0.2, 6: -2.0}, None, id="the same"),
        pytest.param({6: -0.7, 5: -0.7}, None, id="as likely, so the same"),
        pytest.param({6: -0.25, 5: -0.5}, Disagreement(0, 2, 5, 6, 0.25), id="the second"),
        pytest.param({6: -0.25, 7: -1.0}, Disagreement(0, 2, 5, 6, 0.75), id="farther down: by as much as the second"),
        pytest.param({6: -0.25, 7: -1.0, 5: -9.25}, Disagreement(0, 2, 5, 6, 9.0), id="told beside them"),
        pytest.param({6: -0.25}, Disagreement(0, 2, 5, 6, 0.0), id="one alone tells no gap"),
        pytest.param({5: math.nan}, Disagreement(0, 2, 5, -1, 0.0), id="not a number"),
        pytest.param(None, Disagreement(0, 2, 5, -1, 0.0), id="nothing"),
    ],
)
def test_the_likeliest_token_is_compared(top: Top | None, expected: Disagreement | None) -> None:
    assert agreement(reference([None, None, 5]), [[None, None, top]]) == Agreement(1, int(expected is None), expected)


def test_the_widest_disagreement_is_told_with_its_row() -> None:
    near, far = {6: -0.25, 5: -0.5}, {6: -0.25, 5: -1.25}
    told = agreement(reference([None, 5, 5], [None, 5, 5]), [[None, near, {5: 0.0}], [None, near, far]])
    assert told == Agreement(4, 1, Disagreement(1, 2, 5, 6, 1.0))


def test_what_a_package_or_a_worker_does_not_tell_is_not_known() -> None:
    tops = [None, {5: 0.0}, {5: 0.0}]
    assert agreement(reference([None, 5, 5], None), [tops, tops]) is None
    assert agreement(reference([None, 5, 5]), [None]) is None
