"""The ids of answers: which reference stands in them, and which ids weren't made here."""

import pytest

from mafunzo.control.serving.answer_id import new_id, reference_of
from mafunzo.entities.serving import Serving

SECRET = b"of the home"
REFERENCE = Serving("chat", "blue", "m:1", "sha256:0").reference


def test_an_id_leads_to_what_gave_the_answer_and_no_two_are_equal() -> None:
    ids = {new_id(SECRET, "chatcmpl", REFERENCE) for _ in range(100)}
    assert len(ids) == 100
    assert {reference_of(SECRET, one) for one in ids} == {REFERENCE}
    assert {len(one) for one in ids} == {len("chatcmpl-") + 30}
    assert reference_of(SECRET, new_id(SECRET, "cmpl", REFERENCE).removeprefix("cmpl-")) == REFERENCE


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda one: one[:-1] + ("a" if one[-1] != "a" else "b"), id="another letter in the check"),
        pytest.param(lambda one: one[:-9] + ("a" if one[-9] != "a" else "b") + one[-8:], id="in the random part"),
        pytest.param(lambda one: one[:-1], id="too short"),
        pytest.param(lambda one: "chatcmpl-" + "0" * 29, id="somebody else's"),
        pytest.param(lambda one: "", id="nothing"),
    ],
)
def test_an_id_that_was_not_made_here_is_told(change: object) -> None:
    assert callable(change)
    assert reference_of(SECRET, change(new_id(SECRET, "chatcmpl", REFERENCE))) is None
    assert reference_of(b"of another home", new_id(SECRET, "chatcmpl", REFERENCE)) is None


def test_each_thing_that_an_answer_depends_on_gives_another_reference() -> None:
    servings = [
        Serving("chat", "blue", "m:1", "sha256:0"),
        Serving("chat", "green", "m:1", "sha256:0"),
        Serving("talk", "blue", "m:1", "sha256:0"),
        Serving("chat", "blue", "m:2", "sha256:0"),
        Serving("chat", "blue", "m:1", "sha256:1"),
        Serving("chat", "blue", "m:1", "sha256:0", base_artifact="sha256:2"),
        Serving("chat", "blue", "m:1", "sha256:0", deployed_at="2026-01-01T00:00:00+00:00"),
    ]
    assert len({one.reference for one in servings}) == len(servings)
