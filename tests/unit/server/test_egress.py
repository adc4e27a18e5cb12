"""The proxy in front of a program: all but Microsoft's hosts are let through, whole and in both directions."""

import http.server
import threading
from collections.abc import Iterator

import httpx
import pytest

from mafunzo.errors import InvalidParameter
from mafunzo.server.egress import EgressProxy, is_refused, proxy_environment


class Echo(http.server.BaseHTTPRequestHandler):
    """Answers with the path and the body that it got."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.path.encode() + b" " + body)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Echo) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def ask(proxy: str, url: str, body: bytes = b"") -> httpx.Response:
    with httpx.Client(proxy=proxy, trust_env=False) as client:
        return client.post(url, content=body)


def test_other_hosts_are_reached_with_all_that_is_sent(server: str) -> None:
    with EgressProxy() as proxy:
        answer = ask(proxy.url, f"{server}/a?b=1", b"x" * 300_000)
    assert answer.text == "/a?b=1 " + "x" * 300_000


def test_a_tunnel_joins_both_sides(server: str) -> None:
    """A second proxy is reached through a tunnel of the first, as every https host is."""
    with EgressProxy() as last, EgressProxy(upstream=last.url) as first:
        assert ask(first.url, f"{server}/there", b"and back").text == "/there and back"


@pytest.mark.parametrize("url", ["http://management.azure.com/", "http://169.254.169.254/metadata/identity"])
def test_microsofts_hosts_are_refused_with_the_reason(url: str) -> None:
    with EgressProxy() as proxy:
        answer = ask(proxy.url, url)
    assert answer.status_code == 403 and "nothing of this program leaves for Azure" in answer.text


def test_a_tunnel_to_microsoft_is_refused() -> None:
    with EgressProxy() as proxy, pytest.raises(httpx.ProxyError, match="403"):
        ask(proxy.url, "https://login.microsoftonline.com/common")


def test_a_host_that_is_not_there_is_a_bad_gateway() -> None:
    with EgressProxy() as proxy:
        assert ask(proxy.url, "http://127.0.0.1:1/").status_code == 502


@pytest.mark.parametrize(
    ("host", "refused"),
    [
        ("Login.MicrosoftOnline.com.", True),
        ("dc.services.visualstudio.com", True),
        ("mystore.blob.core.windows.net", True),
        ("notmicrosoft.com", False),
        ("azure.com.example.org", False),
        ("pypi.org", False),
        ("huggingface.co", False),
    ],
)
def test_names_are_compared_whole(host: str, refused: bool) -> None:
    assert is_refused(host) is refused


def test_the_environment_keeps_what_the_user_spares_already() -> None:
    variables = proxy_environment("http://127.0.0.1:9", {"NO_PROXY": "intranet,localhost"})
    assert variables["HTTPS_PROXY"] == variables["http_proxy"] == "http://127.0.0.1:9"
    assert variables["no_proxy"] == "127.0.0.1,localhost,intranet"


def test_a_proxy_of_another_kind_is_refused() -> None:
    with pytest.raises(InvalidParameter, match="expected http://HOST:PORT"):
        EgressProxy("socks5://127.0.0.1:1080")
