"""Names that need no way in, and syntaxes that ways in add."""

import pytest

from mafunzo.entities import reference
from mafunzo.entities.reference import AssetReference, JobOutputReference, PathInput, WebAddress, parse_name


@pytest.fixture(autouse=True)
def no_syntaxes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "_syntaxes", [])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("chitchat", AssetReference("chitchat")),
        ("chitchat:2", AssetReference("chitchat", "2")),
        ("chitchat@latest", AssetReference("chitchat")),
        ("chitchat@good", AssetReference("chitchat", label="good")),
        ("https://example.com/a.csv", WebAddress("https://example.com/a.csv")),
        ("https://example.com/", None),
        ("cloud://jobs/j/outputs/o", None),
        ("org/name", None),
        ("", None),
    ],
)
def test_a_name_needs_no_way_in(text: str, expected: object) -> None:
    assert parse_name(text) == reference.parse_reference(text) == expected


def test_a_syntax_that_a_way_in_adds_is_asked_first_and_other_texts_stay_names() -> None:
    def syntax(text: str) -> JobOutputReference | None:
        return JobOutputReference("j", "o") if text.startswith("cloud://") else None

    reference.add_syntax(syntax)
    reference.add_syntax(syntax)
    assert reference.parse_reference("cloud://jobs/j/outputs/o") == JobOutputReference("j", "o")
    assert reference.parse_reference("chitchat:2") == AssetReference("chitchat", "2")
    assert reference._syntaxes == [syntax]


def test_a_path_keeps_the_text_that_named_it_for_errors() -> None:
    assert reference.path_input("a/b", "uri_file") == PathInput(None, "uri_file", "a/b")
