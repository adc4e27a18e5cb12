"""Tests of `mafunzo.entrypoints.http.auth`: a request's key and the operator's."""

from pathlib import Path

import pytest

from mafunzo.control.store.home import Home
from mafunzo.entrypoints.http.auth import bearer, endpoints_key, operator_key, renew_endpoints_key
from mafunzo.errors import Unauthorized


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


def test_the_key_of_all_endpoints_is_made_once_replaced_at_once_and_is_the_user_s_only(tmp_path: Path) -> None:
    home = Home(tmp_path)
    key = endpoints_key(home)
    assert (len(key) >= 32, endpoints_key(home)) == (True, key)
    assert key != operator_key(home)
    new = renew_endpoints_key(home)
    assert (endpoints_key(home), new != key) == (new, True)
    assert (home.root / "endpoints.key").stat().st_mode & 0o777 == 0o600
