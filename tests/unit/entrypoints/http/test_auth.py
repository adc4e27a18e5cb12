"""Keys, and the names that the server answers to."""

from pathlib import Path

import pytest

from mafunzo.control.store.home import Home
from mafunzo.entrypoints.http.auth import bearer, is_among, operator_key
from mafunzo.entrypoints.http.listen import LOOPBACK_NAMES
from mafunzo.errors import Unauthorized


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
        ("::1", False),
        ("[127.0.0.1]", False),
        ("localhost:8080@evil.example", False),
        ("localhost:²", False),
    ],
)
def test_only_the_server_s_names_are_answered(host: str, expected: bool) -> None:
    assert is_among(host, LOOPBACK_NAMES) is expected


@pytest.mark.parametrize("header", ["", "key", "Basic key", "Bearer", "Bearer "])
def test_a_request_without_a_bearer_key_is_refused(header: str) -> None:
    with pytest.raises(Unauthorized, match="has no key"):
        bearer({"authorization": header} if header else {})


def test_a_bearer_key_is_taken_whatever_the_scheme_s_case() -> None:
    assert bearer({"authorization": "bearer abc"}) == bearer({"authorization": "Bearer abc"}) == "abc"


def test_the_operator_s_key_is_made_once_and_is_the_user_s_only(tmp_path: Path) -> None:
    home = Home(tmp_path)
    key = operator_key(home)
    assert len(key) >= 32
    assert operator_key(home) == key
    assert (home.root / "operator.key").stat().st_mode & 0o777 == 0o600
