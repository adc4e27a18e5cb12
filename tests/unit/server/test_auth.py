"""Keys, and the loopback border."""

from dataclasses import replace
from pathlib import Path

import pytest

from mafunzo.entities.endpoint import Endpoint
from mafunzo.errors import Unauthorized
from mafunzo.server.auth import bearer, endpoints_of, is_loopback, is_same, operator_key
from mafunzo.store.database import open_database
from mafunzo.store.home import Home
from mafunzo.store.record import Records


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.0.0.1:8080", True),
        ("localhost", True),
        ("LOCALHOST:8080", True),
        ("[::1]", True),
        ("[::1]:8080", True),
        ("", False),
        ("evil.example", False),
        ("evil.example:8080", False),
        ("127.0.0.1.evil.example", False),
        ("localhost.evil.example:80", False),
        ("127.0.0.1:x", False),
        ("localhost:", False),
        ("0.0.0.0:8080", False),
    ],
)
def test_only_loopback_names_are_answered(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


@pytest.mark.parametrize("header", ["", "key", "Basic key", "Bearer", "Bearer "])
def test_a_request_without_a_bearer_key_is_refused(header: str) -> None:
    with pytest.raises(Unauthorized, match="has no key"):
        bearer({"authorization": header} if header else {})


def test_a_bearer_key_is_taken_whatever_the_scheme_s_case() -> None:
    assert bearer({"authorization": "bearer abc"}) == bearer({"authorization": "Bearer abc"}) == "abc"


def test_keys_are_compared_whole() -> None:
    assert is_same("abc", "abc")
    assert not is_same("abc", "abcd")
    assert not is_same("", "abc")
    assert not is_same("schlüssel", "abc"), "a key that isn't ASCII is a wrong key, not an error"


def test_a_key_opens_its_endpoint_until_that_is_being_deleted(tmp_path: Path) -> None:
    database = open_database(Home(tmp_path))
    records = Records(database)
    chat = records.add_endpoint(Endpoint("chat"), keys=("one", "two"))
    records.add_endpoint(Endpoint("other"), keys=("three", "four"))
    assert [found.name for found in endpoints_of(records, "two")] == ["chat"]
    with pytest.raises(Unauthorized):
        endpoints_of(records, "five")
    records.update_endpoint(replace(chat, is_deleting=True))
    with pytest.raises(Unauthorized):
        endpoints_of(records, "two")
    database.close()


def test_the_operator_s_key_is_made_once_and_is_the_user_s_only(tmp_path: Path) -> None:
    home = Home(tmp_path)
    key = operator_key(home)
    assert len(key) >= 32
    assert operator_key(home) == key
    assert (home.root / "operator.key").stat().st_mode & 0o777 == 0o600
