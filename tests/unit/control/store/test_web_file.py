"""Files of the web: fetched whole, or refused with why."""

from collections.abc import Iterator
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest

from mafunzo.control.store import web_file
from mafunzo.control.store.web_file import fetch, file_name, require_file
from mafunzo.errors import InvalidFile

LISTED = "127.0.0.1"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "iris.csv").write_text("a,b\n")
    with HTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "site"))) as server:
        thread = Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://host/folder/iris%20data.csv?x=1", "iris data.csv"),
        ("https://host/", "file"),
        ("https://host/..", "file"),
        ("https://host/a%00b", "file"),
    ],
)
def test_a_fetched_file_is_called_as_its_address_ends(url: str, expected: str) -> None:
    assert file_name(url) == expected


def test_a_file_is_fetched_under_its_own_name(site: str, tmp_path: Path) -> None:
    require_file("data", f"{site}/iris.csv", LISTED)
    assert fetch("data", f"{site}/iris.csv", tmp_path, LISTED).read_text() == "a,b\n"


@pytest.mark.parametrize("ask", [require_file, lambda where, url, host: fetch(where, url, Path("/nowhere"), host)])
def test_what_the_server_does_not_have_is_refused_by_where_it_stood(ask: object, site: str) -> None:
    with pytest.raises(InvalidFile, match=r"data is '.*/none\.csv', which the server there answers with 404"):
        ask("data", f"{site}/none.csv", LISTED)  # type: ignore[operator]


def test_an_address_that_nobody_answers_is_refused_with_what_to_do() -> None:
    with pytest.raises(InvalidFile, match=r"which can't be fetched .* Fetch it first, and name the local path"):
        require_file("data", "http://127.0.0.1:1/x")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        pytest.param("http://example.com/x.csv", r"http://example.com/x.csv isn't an https:// address", id="http"),
        pytest.param("https://127.0.0.1:8443/x", "127.0.0.1 is 127.0.0.1, which isn't a public", id="loopback"),
        pytest.param("https://localhost/x", "localhost is ", id="its name"),
        pytest.param("https://2130706433/x", "2130706433 is 127.0.0.1", id="its number"),
        pytest.param("https://[::1]/x", "::1 is ::1", id="of IPv6"),
        pytest.param("https://[::ffff:10.0.0.1]/x", "isn't a public", id="private, as one of IPv6"),
        pytest.param("https://[64:ff9b::a00:1]/x", "isn't a public", id="private, behind NAT64"),
        pytest.param(
            "https://169.254.169.254/latest", "169.254.169.254, which isn't a public", id="a cloud's metadata"
        ),
        pytest.param("https://192.168.0.7/x", "192.168.0.7, which isn't a public", id="a network of one's own"),
        pytest.param("https://100.64.0.1/x", "100.64.0.1, which isn't a public", id="a carrier's network"),
        pytest.param("https://0.0.0.0/x", "0.0.0.0, which isn't a public", id="any address"),
        pytest.param("https://224.0.0.1/x", "224.0.0.1, which isn't a public", id="many at once"),
    ],
)
def test_what_only_this_machine_or_its_network_can_see_is_never_fetched(url: str, reason: str) -> None:
    with pytest.raises(InvalidFile, match=reason) as refusal:
        require_file("data", url)
    assert "in MAFUNZO_INPUT_HOSTS" in refusal.value.message


class Web:
    """Hosts that answer; what is asked of them goes into `requests`."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, addresses: dict[str, str], answers: dict[str, httpx.Response]
    ) -> None:
        self.requests: list[httpx.Request] = []
        client = httpx.Client

        def answer(request: httpx.Request) -> httpx.Response:
            self.requests.append(request)
            return answers[request.headers["host"]]

        def look_up(host: str, *_: object, **__: object) -> list[Any]:
            return [(2, 1, 6, "", (addresses[host], 443))]

        monkeypatch.setattr(web_file.socket, "getaddrinfo", look_up)
        monkeypatch.setattr(httpx, "Client", lambda **options: client(transport=httpx.MockTransport(answer), **options))


def test_the_address_that_was_checked_is_the_one_that_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    web = Web(monkeypatch, {"files.example": "93.184.215.14"}, {"files.example": httpx.Response(200, content=b"a,b")})
    assert fetch("data", "https://files.example/a.csv", tmp_path).read_text() == "a,b"
    [request] = web.requests
    assert (str(request.url), request.headers["host"]) == ("https://93.184.215.14/a.csv", "files.example")
    assert request.extensions["sni_hostname"] == "files.example", "the certificate is checked for the name"


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        pytest.param("https://inside.example/secret", "inside.example is 10.0.0.7", id="to a private address"),
        pytest.param("http://files.example/a.csv", "isn't an https:// address", id="to http"),
    ],
)
def test_a_redirect_is_held_to_the_same_rule(location: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    addresses = {"files.example": "93.184.215.14", "inside.example": "10.0.0.7"}
    web = Web(monkeypatch, addresses, {"files.example": httpx.Response(302, headers={"location": location})})
    with pytest.raises(InvalidFile, match=reason):
        require_file("data", "https://files.example/a.csv")
    assert [request.headers["host"] for request in web.requests] == ["files.example"]


def test_what_leads_on_for_ever_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    Web(
        monkeypatch,
        {"files.example": "93.184.215.14"},
        {"files.example": httpx.Response(302, headers={"location": "/b"})},
    )
    with pytest.raises(InvalidFile, match="leads on more than 10 times"):
        require_file("data", "https://files.example/a")
