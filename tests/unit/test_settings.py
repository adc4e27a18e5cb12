"""Tests of `mafunzo.settings`."""

from pathlib import Path

import pytest

from mafunzo import settings
from mafunzo.errors import InvalidParameter


def test_without_variables_everything_lies_under_the_user_s_folder():
    found = settings.load({"HOME": "/home/amina"})
    assert found.home == Path("/home/amina/.mafunzo")
    assert found.cache == Path("/home/amina/.cache/mafunzo")
    assert found.listen == "127.0.0.1"
    assert (found.port, found.https_port) == (8080, 8443)
    assert (found.database_url, found.offline, found.step_folder) == (None, False, None)


@pytest.mark.parametrize("name", ["MAFUNZO_HTTPS_PORT", "MAFUNZO_AZURE_PORT"])
def test_the_https_port_has_two_names(name: str):
    assert settings.load({name: "8444"}).https_port == 8444
    with pytest.raises(InvalidParameter, match=f"{name} is '-'"):
        settings.load({name: "-"})


def test_where_the_http_port_is_any_free_one_so_is_the_https_port():
    assert settings.load({"MAFUNZO_PORT": "0"}).https_port == 0


def test_variables_win():
    environment = {
        "HOME": "/home/amina",
        "MAFUNZO_HOME": "/data/m",
        "XDG_CACHE_HOME": "/c",
        "MAFUNZO_PORT": "0",
        "MAFUNZO_LISTEN": "0.0.0.0",
        "HF_HUB_OFFLINE": "1",
        "MAFUNZO_DATABASE_URL": "postgresql+psycopg://u@h/d",
    }
    found = settings.load(environment)
    assert (found.home, found.cache, found.port) == (Path("/data/m"), Path("/c/mafunzo"), 0)
    assert found.offline and found.listen == "0.0.0.0" and found.authorities is None
    assert found.database_url == "postgresql+psycopg://u@h/d"


def test_the_authorities_that_requests_and_curl_trust_are_the_user_s():
    assert settings.load({"HOME": "/h", "CURL_CA_BUNDLE": "/c.pem"}).authorities == Path("/c.pem")
    both = {"HOME": "/h", "CURL_CA_BUNDLE": "/c.pem", "REQUESTS_CA_BUNDLE": "/r.pem"}
    assert settings.load(both).authorities == Path("/r.pem")


@pytest.mark.parametrize("port", ["eighty", "70000", "-1"])
def test_a_bad_port_is_named(port):
    with pytest.raises(InvalidParameter, match="MAFUNZO_PORT"):
        settings.load({"HOME": "/h", "MAFUNZO_PORT": port})


def test_limits_of_the_server_are_taken_as_they_stand():
    found = settings.load({"HOME": "/h", "MAFUNZO_LIMIT_UPLOAD_BYTES": "5", "MAFUNZO_LIMIT_HEADERS": ""})
    assert found.limits == {"MAFUNZO_LIMIT_UPLOAD_BYTES": "5"}


def test_names_and_origins_are_lists_by_commas() -> None:
    found = settings.load({"MAFUNZO_HOST_NAMES": " a.org, b ,,a.org", "MAFUNZO_CORS_ORIGINS": "https://c.org"})
    assert (found.host_names, found.cors_origins) == (("a.org", "b"), ("https://c.org",))
    assert (settings.load({}).host_names, settings.load({"MAFUNZO_CORS_ORIGINS": ""}).cors_origins) == ((), ())


@pytest.mark.parametrize(("text", "price"), [("0.35", 0.35), ("0", 0.0), ("", None), (" ", None)])
def test_an_hour_has_the_price_that_is_set_and_else_none(text, price):
    assert settings.load({"HOME": "/h", "MAFUNZO_PRICE_PER_HOUR": text}).price_per_hour == price
    assert settings.load({"HOME": "/h"}).price_per_hour is None


@pytest.mark.parametrize("text", ["cheap", "-1", "nan", "inf", "3 EUR"])
def test_a_price_that_is_no_price_is_named(text):
    with pytest.raises(InvalidParameter, match=f"MAFUNZO_PRICE_PER_HOUR is '{text}', expected what an hour costs"):
        settings.load({"HOME": "/h", "MAFUNZO_PRICE_PER_HOUR": text})
