"""Tests of `mafunzo.entities.environment`: which Python an environment allows, and its facts as properties."""

import pytest

from mafunzo.entities.asset import WORKSPACE_SCOPE, Asset, AssetKey, AssetType, FolderType
from mafunzo.entities.environment import Environment, environment_facts, environment_of, is_python_condition


@pytest.mark.parametrize(
    ("python", "is_allowed"),
    [
        ("", True),
        ("3.11", True),
        ("3", True),
        ("3.1", False),
        ("3.11.4", True),
        ("3.11.*", True),
        ("=3.11", True),
        (">=3.9,<3.12", True),
        (">=3.9, !=3.11", False),
        ("<=3.10", False),
        (">3.11", False),
    ],
)
def test_a_python_is_allowed_where_every_condition_holds(python: str, is_allowed: bool) -> None:
    assert Environment("e", "1", python=python).allows_python((3, 11)) is is_allowed


@pytest.mark.parametrize(
    ("text", "is_one"), [("3.10", True), (">=3.9,<3.12", True), ("three", False), ("~=3.9", False)]
)
def test_a_condition_on_python_is_told_from_other_texts(text: str, is_one: bool) -> None:
    assert is_python_condition(text) is is_one


def test_a_registered_version_is_the_environment_that_its_facts_are_of() -> None:
    environment = Environment("e", "1", ("humanize", "six"), "3.11", {"A": "b"}, "image", ("numpy",))
    key = AssetKey(WORKSPACE_SCOPE, AssetType.ENVIRONMENT, "e", "1")
    facts = environment_facts(environment)
    assert "name" not in facts and facts["packages"] == ["humanize", "six"]
    assert environment_of(Asset(key, FolderType.URI_FOLDER, properties=facts)) == environment
