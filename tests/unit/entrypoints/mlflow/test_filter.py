"""MLflow's searches, without MLflow."""

import pytest

from mafunzo.entrypoints.mlflow.filter import Facts, parse_filter, select
from mafunzo.errors import InvalidParameter

KEYS = ("name", "version_number")
CHAT: Facts = {"name": "chat", "version_number": 10, "tags.stage": "ready", "tags.made by": "ada"}
TOY: Facts = {"name": "Toy's", "version_number": 9}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ["chat", "Toy's"]),
        ("name = 'chat'", ["chat"]),
        ("name='chat'", ["chat"]),
        ("attribute.name != 'chat'", ["Toy's"]),
        ('name = "Toy\'s"', ["Toy's"]),
        ("name LIKE 'ch%'", ["chat"]),
        ("name like 'toy%'", []),
        ("name ILIKE 'toy_s'", ["Toy's"]),
        ("name IN ('chat', 'other')", ["chat"]),
        ("name NOT IN ('chat')", ["Toy's"]),
        ("version_number > 9", ["chat"]),
        ("version_number <= 9 AND name != 'chat'", ["Toy's"]),
        ("tags.stage = 'ready'", ["chat"]),
        ("tag.`made by` = 'ada' and name = 'chat'", ["chat"]),
        ("tags.stage != 'old'", ["chat"]),
    ],
)
def test_a_filter_keeps_what_it_names(text: str, expected: list[str]) -> None:
    found, token = select([CHAT, TOY], lambda facts: facts, KEYS, {"filter": text})
    assert [facts["name"] for facts in found] == expected
    assert token == ""


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name ~ 'chat'", "can't be read from 'name ~ 'chat''"),
        ("name = 'chat' OR name = 'toy'", "can't be read"),
        ("owner = 'ada'", "asks for 'owner', expected name, version_number or tags.NAME"),
        ("version_number = 'two'", "compares a number with 'two'"),
    ],
)
def test_a_filter_that_cant_be_read_is_refused(text: str, told: str) -> None:
    with pytest.raises(InvalidParameter, match=told):
        select([CHAT], lambda facts: facts, KEYS, {"filter": text})


def test_pages_follow_one_another_in_the_order_asked_for() -> None:
    things: list[Facts] = [{"name": name, "version_number": n} for name, n in (("b", 1), ("a", 2), ("a", 10))]
    asked = {"order_by": ["name ASC", "version_number DESC"], "max_results": 2}
    first, token = select(things, lambda facts: facts, KEYS, asked)
    rest, end = select(things, lambda facts: facts, KEYS, {**asked, "page_token": token})
    assert [(f["name"], f["version_number"]) for f in [*first, *rest]] == [("a", 10), ("a", 2), ("b", 1)]
    assert end == ""


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"order_by": "owner"}, "order_by is 'owner'"),
        ({"max_results": "many"}, "max_results is 'many'"),
        ({"page_token": "x"}, "page_token is 'x'"),
    ],
)
def test_an_order_or_a_page_that_cant_be_is_refused(asked: dict[str, str], told: str) -> None:
    with pytest.raises(InvalidParameter, match=told):
        select([CHAT], lambda facts: facts, KEYS, asked)


def test_a_quoted_value_keeps_the_other_quotes() -> None:
    assert parse_filter("name = '\"x\"'", KEYS)[0].values == ('"x"',)
