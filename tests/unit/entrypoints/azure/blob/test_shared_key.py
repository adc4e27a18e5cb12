"""Tests of `mafunzo.entrypoints.azure.blob.shared_key`: requests that are signed with the account's key."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from starlette.requests import Request

from mafunzo.entrypoints.azure.blob.shared_key import check_shared_key, string_to_sign
from mafunzo.entrypoints.azure.sas import Sas
from mafunzo.errors import Unauthorized

SAS = Sas(b"a key of an account, thirty-two.")
MOMENT = datetime(2026, 5, 6, 12, tzinfo=UTC)
DATE = format_datetime(MOMENT, usegmt=True)
PATH, QUERY = "/mafunzo.blob.local/box/a%20b", "comp=block&blockid=MQ%3D%3D"
HEADERS = {"x-ms-date": DATE, "x-ms-version": "2023-11-03", "content-length": "5"}


def request(headers: dict[str, str], path: str = PATH, query: str = QUERY) -> Request:
    scope = {"type": "http", "method": "PUT", "raw_path": path.encode(), "query_string": query.encode()}
    return Request({**scope, "headers": [(name.encode(), value.encode()) for name, value in headers.items()]})


def signed(headers: dict[str, str], account: str = "mafunzo", sas: Sas = SAS) -> dict[str, str]:
    text = string_to_sign("PUT", PATH, QUERY, headers, account)
    return headers | {"authorization": f"SharedKey {account}:{sas.signature(text)}"}


def check(wanted: Request, now: datetime = MOMENT) -> None:
    check_shared_key(wanted, SAS, ("mafunzo", "host:8443/mafunzo"), now.timestamp())


@pytest.mark.parametrize("account", ["mafunzo", "host:8443/mafunzo"])
def test_a_request_that_is_signed_with_the_key_is_let_in_under_any_name_of_the_account(account: str) -> None:
    check(request(signed(HEADERS, account)))


def test_the_text_that_is_signed_is_azures() -> None:
    headers = {
        "content-length": "0",
        "content-type": "a/b",
        "x-ms-version": "v",
        "x-ms-meta-b": "2",
        "x-ms-date": DATE,
        "date": "d",
    }
    assert string_to_sign("PUT", "/box/x", "b=2&A=y&a=x%2Cz&&c", headers, "mafunzo").split("\n") == [
        "PUT", "", "", "", "", "a/b", "", "", "", "", "", "",
        f"x-ms-date:{DATE}", "x-ms-meta-b:2", "x-ms-version:v", "/mafunzo/box/x", "a:x,z,y", "b:2", "c:",
    ]  # fmt: skip


def test_without_our_date_the_plain_one_is_signed() -> None:
    assert string_to_sign("GET", "/", "", {"date": DATE}, "mafunzo").split("\n")[6] == DATE
    check(request(signed({"date": DATE})))


def test_headers_are_sorted_as_azure_sorts_them() -> None:
    names = ["x-ms-meta-a-b", "x-ms-meta-a_b", "x-ms-meta-a1", "x-ms-meta-ab"]
    lines = string_to_sign("GET", "/", "", dict.fromkeys(names, "v"), "mafunzo").split("\n")[12:-1]
    assert [line.partition(":")[0] for line in lines] == [
        "x-ms-meta-a_b",
        "x-ms-meta-a1",
        "x-ms-meta-a-b",
        "x-ms-meta-ab",
    ]


@pytest.mark.parametrize(
    ("changed", "path", "query"),
    [
        pytest.param({"content-length": "6"}, PATH, QUERY, id="another length"),
        pytest.param({"x-ms-meta-a": "b"}, PATH, QUERY, id="a header more"),
        pytest.param({}, PATH.replace("a%20b", "c"), QUERY, id="another path"),
        pytest.param({}, PATH, QUERY.replace("block&", "blocklist&"), id="another query"),
    ],
)
def test_what_was_changed_after_signing_is_refused(changed: dict[str, str], path: str, query: str) -> None:
    with pytest.raises(
        Unauthorized, match=r"isn't signed with the account's key\. Ask the datastore for its secrets again"
    ):
        check(request(signed(HEADERS) | changed, path, query))


def test_another_key_is_refused() -> None:
    with pytest.raises(Unauthorized, match="isn't signed with the account's key"):
        check(request(signed(HEADERS, sas=Sas(b"another"))))


def test_another_account_is_refused() -> None:
    with pytest.raises(Unauthorized, match="'devstoreaccount1' isn't the name of this server's storage account"):
        check(request(signed(HEADERS, "devstoreaccount1")))


@pytest.mark.parametrize("minutes", [-15, 15])
def test_clocks_may_differ_by_fifteen_minutes(minutes: int) -> None:
    check(request(signed(HEADERS)), MOMENT + timedelta(minutes=minutes))
    with pytest.raises(Unauthorized, match=r"is more than 15 minutes away\. Set the clock right"):
        check(request(signed(HEADERS)), MOMENT + timedelta(minutes=minutes, seconds=1 if minutes > 0 else -1))


def test_a_request_without_a_date_is_refused() -> None:
    with pytest.raises(Unauthorized, match="signed without its date: x-ms-date"):
        check(request(signed({"x-ms-version": "2023-11-03"})))
