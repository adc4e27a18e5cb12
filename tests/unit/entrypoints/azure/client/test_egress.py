"""The proxy in front of a program: all but Microsoft's hosts are let through, whole and in both directions."""

import base64
import http.server
import socket
import threading
from collections.abc import Iterator

import httpx
import pytest

from mafunzo.entrypoints.azure.client.egress import EgressProxy, is_refused, no_proxy_environment, proxy_environment
from mafunzo.errors import InvalidParameter


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
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
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


def test_each_request_of_a_connection_is_looked_at(server: str) -> None:
    """A client keeps one connection to a proxy for all hosts behind it."""
    with EgressProxy() as proxy, httpx.Client(proxy=proxy.url, trust_env=False) as client:
        answers = [client.post(url) for url in (server, "http://169.254.169.254/metadata", f"{server}/again")]
    assert [answer.status_code for answer in answers] == [200, 403, 200]
    assert answers[2].text == "/again "


def test_a_second_request_on_the_first_ones_heels_is_not_passed_on(server: str) -> None:
    first = f"POST {server}/one HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nok"
    second = "POST http://management.azure.com/two HTTP/1.1\r\nHost: y\r\nContent-Length: 0\r\n\r\n"
    with EgressProxy() as proxy, socket.create_connection(("127.0.0.1", proxy.port)) as client:
        client.sendall((first + second).encode())
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    assert answer.count(b"HTTP/1.") == 1 and answer.endswith(b"/one ok")


def test_the_users_own_proxy_is_told_who_asks() -> None:
    heads = []

    class Proxy(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            heads.append((self.path, self.headers.get("Proxy-Authorization")))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        upstream = f"http://amina:p%40ss@127.0.0.1:{server.server_address[1]}"
        with EgressProxy(upstream) as proxy, httpx.Client(proxy=proxy.url, trust_env=False) as client:
            assert client.get("http://pypi.org/simple").status_code == 204
        server.shutdown()
    assert heads == [("http://pypi.org/simple", f"Basic {base64.b64encode(b'amina:p@ss').decode()}")]


def test_a_host_that_is_not_there_is_told_as_such() -> None:
    with EgressProxy() as proxy:
        answer = ask(proxy.url, "http://127.0.0.1:1/")
        with pytest.raises(httpx.ProxyError, match=r"502 nowhere.invalid can't be reached"):
            ask(proxy.url, "https://nowhere.invalid/")
    assert (answer.status_code, answer.reason_phrase) == (502, "127.0.0.1 can't be reached")
    assert answer.text.startswith("127.0.0.1 can't be reached (")
    with EgressProxy(upstream="http://127.0.0.1:1") as proxy:
        answer = ask(proxy.url, "http://pypi.org/simple")
    assert "pypi.org can't be reached, because the proxy 127.0.0.1:1 can't be reached (" in answer.text


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


@pytest.mark.parametrize(
    "entry",
    ["*", ".azure.com", "azure.com:443", "*.windows.net", "com", "169.254.169.254", "169.254.0.0/16", "login.live.com"],
)
def test_what_would_spare_microsoft_is_left_out(entry: str) -> None:
    variables = no_proxy_environment({"no_proxy": f"{entry},10.0.0.0/8,example.org"})
    assert variables["NO_PROXY"] == "127.0.0.1,localhost,10.0.0.0/8,example.org"


@pytest.mark.parametrize("url", ["socks5://secret@127.0.0.1:1080", "http://proxy:abc", "https://u:secret@proxy:3128"])
def test_a_proxy_of_another_kind_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(InvalidParameter, match="Expected http://HOST:PORT") as refused:
        EgressProxy(url)
    assert "secret" not in str(refused.value)
