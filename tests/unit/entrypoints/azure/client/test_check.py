"""Tests of `mafunzo.entrypoints.azure.client.check`: what is wrong with the way to a server is told in a sentence."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from mafunzo.control.store.home import Home
from mafunzo.entrypoints.azure.client.check import require_access
from mafunzo.entrypoints.azure.client.environment import Access
from mafunzo.entrypoints.http.tls import certificate, files
from mafunzo.errors import InvalidFile, MafunzoError, Unauthorized, Unreachable

URL = "https://gpu.example:8443"
TOKEN_FILE = Path("/home/amina/token")
Answer = Callable[[httpx.Request], httpx.Response]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = Home(tmp_path_factory.mktemp("home"))
    certificate(home, ["127.0.0.1"], None)
    return files(home).authority


@contextmanager
def answering(monkeypatch: pytest.MonkeyPatch, answer: Answer) -> Iterator[None]:
    """Let requests be answered here instead of over the network."""
    client = httpx.Client

    def local(**options: object) -> httpx.Client:
        assert options["trust_env"] is False, "the user's proxy isn't asked"
        return client(transport=httpx.MockTransport(answer))

    monkeypatch.setattr(httpx, "Client", local)
    yield


def refusal(monkeypatch: pytest.MonkeyPatch, bundle: Path, answer: Answer) -> MafunzoError:
    with answering(monkeypatch, answer), pytest.raises(MafunzoError) as refused:
        require_access(Access(URL, "secret", bundle), TOKEN_FILE)
    return refused.value


def breaking(error: httpx.HTTPError) -> Answer:
    def answer(_: httpx.Request) -> httpx.Response:
        raise error

    return answer


def test_a_token_is_asked_for_as_the_sdk_does(monkeypatch: pytest.MonkeyPatch, bundle: Path) -> None:
    requests: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return httpx.Response(200, json={"access_token": "x"})

    with answering(monkeypatch, answer):
        require_access(Access(URL, "secret", bundle), TOKEN_FILE)
    [request] = requests
    assert str(request.url) == f"{URL}/msi/token?resource=https%3A%2F%2Fmanagement.azure.com%2F"
    assert request.headers["x-identity-header"] == "secret"


def test_a_token_that_is_not_accepted_names_its_file_and_who_makes_another(
    monkeypatch: pytest.MonkeyPatch, bundle: Path
) -> None:
    error = refusal(monkeypatch, bundle, lambda request: httpx.Response(401))
    assert isinstance(error, Unauthorized)
    assert error.message.startswith(f"The token in {TOKEN_FILE} isn't accepted by {URL}: ")
    assert error.message.endswith("an owner makes: mafunzo user rotate NAME")


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        pytest.param(lambda request: httpx.Response(404), "what is there says 404 Not Found.", id="another server"),
        pytest.param(
            lambda request: httpx.Response(200, text="hello"), "what is there says 200 OK.", id="another page"
        ),
        pytest.param(
            breaking(httpx.ConnectError("refused")), "refused. Is it up, and listening for others", id="nobody"
        ),
        pytest.param(breaking(httpx.ReadTimeout("")), "ReadTimeout. Is it up", id="an error without words"),
        pytest.param(
            breaking(httpx.ConnectError("[SSL: WRONG_VERSION_NUMBER] wrong version number")),
            "there is http, not https. Name the https port, 8443",
            id="the http port",
        ),
    ],
)
def test_where_no_mafunzo_answers_it_says_what_is_there(
    answer: Answer, text: str, monkeypatch: pytest.MonkeyPatch, bundle: Path
) -> None:
    error = refusal(monkeypatch, bundle, answer)
    assert isinstance(error, Unreachable)
    assert error.message.startswith(f"No Mafunzo answers at {URL}: ")
    assert text in error.message


def test_a_certificate_that_is_not_trusted_is_told_with_its_reason(
    monkeypatch: pytest.MonkeyPatch, bundle: Path
) -> None:
    reason = "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: Hostname mismatch (_ssl.c:1006)"
    error = refusal(monkeypatch, bundle, breaking(httpx.ConnectError(reason)))
    assert isinstance(error, Unreachable)
    assert error.message.startswith(f"The certificate of {URL} isn't trusted by {bundle} (Hostname mismatch). Copy")


def test_a_bundle_that_cannot_be_read_is_refused_before_anything_is_asked(tmp_path: Path) -> None:
    (broken := tmp_path / "ca.pem").write_text("-----BEGIN CERTIFICATE-----\nxyz\n-----END CERTIFICATE-----\n")
    with pytest.raises(InvalidFile) as refused:
        require_access(Access(URL, "secret", broken), TOKEN_FILE)
    assert refused.value.message == f"{broken} holds no certificate that can be read. Copy it anew."
