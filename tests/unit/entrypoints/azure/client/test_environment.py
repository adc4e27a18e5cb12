"""Tests of `mafunzo.entrypoints.azure.client.environment`: the way to a server, and the variables that name it to the Azure SDK."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from mafunzo.control.store.home import Home
from mafunzo.entities.server_address import ServerAddress
from mafunzo.entrypoints.azure.client.environment import (
    Access,
    access_of_home,
    access_of_user,
    azure_environment,
    require_access,
    workspace_config,
)
from mafunzo.entrypoints.http.identity import identity_of
from mafunzo.entrypoints.http.tls import certificate
from mafunzo.entrypoints.http.tls import files as tls_files
from mafunzo.errors import InvalidFile, InvalidParameter, MafunzoError, Unauthorized, Unreachable

URL = "https://gpu.example:8443"
ACCESS = Access(URL, "secret", Path("/ca.pem"))


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    (token := tmp_path / "token").write_text("mafunzo-abc\n")
    (bundle := tmp_path / "ca.pem").write_text("-----BEGIN CERTIFICATE-----\n")
    return token, bundle


@pytest.mark.parametrize(
    "url",
    ["http://gpu.example:8443", "gpu.example:8443", "https://", "https://gpu.example:8443/path", ""],
    ids=["http", "no scheme", "no host", "a path", "empty"],
)
def test_an_address_that_is_not_https_and_a_host_is_refused(url: str) -> None:
    with pytest.raises(InvalidParameter) as refusal:
        Access(url, "secret", Path("/ca.pem"))
    assert refusal.value.message == f"--server is '{url}', expected https://HOST:PORT."
    assert refusal.value.param == "server"


def test_the_host_has_no_port() -> None:
    assert ACCESS.host == "gpu.example"


def test_the_homes_own_way_in_is_its_owners(tmp_path: Path) -> None:
    home = Home(tmp_path)
    address = ServerAddress(1, 1.0, 8080, "", 8443)
    access = access_of_home(home, address, "amina")
    assert (access.url, access.secret) == ("https://127.0.0.1:8443", identity_of(home, "amina").header)
    assert access.authorities.is_relative_to(tmp_path)


def test_a_user_gives_their_token_and_the_authorities_as_files(files: tuple[Path, Path]) -> None:
    token, bundle = files
    assert access_of_user(f"{URL}/", token, bundle) == Access(URL, "mafunzo-abc", bundle)


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        pytest.param(
            "token", None, "token, which holds your token, can't be read: No such file or directory.", id="no token"
        ),
        pytest.param(
            "token", b"\xff", "token, which holds your token, can't be read: it isn't text.", id="token is no text"
        ),
        pytest.param("token", b" \n", "token holds no token, which is one word", id="empty token"),
        pytest.param("token", b"two words", "token holds no token, which is one word", id="two words"),
        pytest.param(
            "ca.pem", None, "can't be read: No such file or directory. Copy it from the server's", id="no bundle"
        ),
        pytest.param("ca.pem", b"\xff", "ca.pem can't be read: it isn't text.", id="bundle is no text"),
        pytest.param(
            "ca.pem", b"hello", "ca.pem holds no certificate. Make it on the server's machine", id="no certificate"
        ),
    ],
)
def test_a_file_that_cannot_be_used_is_named(
    name: str, content: bytes | None, text: str, files: tuple[Path, Path]
) -> None:
    file = next(one for one in files if one.name == name)
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InvalidFile) as refusal:
        access_of_user(URL, *files)
    assert text in refusal.value.message


def test_a_server_that_is_no_address_is_refused_after_its_files(files: tuple[Path, Path]) -> None:
    with pytest.raises(MafunzoError, match="--server is 'gpu', expected https://HOST:PORT"):
        access_of_user("gpu", *files)


def test_the_variables_name_the_server_wherever_the_sdk_looks() -> None:
    variables = azure_environment(ACCESS, {})
    assert variables["ARM_CLOUD_METADATA_URL"] == f"{URL}/metadata/endpoints?api-version=2019-05-01"
    assert variables["AZUREML_CURRENT_CLOUD"] == "Mafunzo"
    assert variables["REGISTRY_DISCOVERY_ENDPOINT_URL"] == f"{URL}/"
    assert variables["IDENTITY_ENDPOINT"] == f"{URL}/msi/token"
    assert variables["IDENTITY_HEADER"] == "secret"
    assert variables["REQUESTS_CA_BUNDLE"] == "/ca.pem"
    assert variables["AZURE_TOKEN_CREDENTIALS"] == "ManagedIdentityCredential"


def test_the_server_is_asked_without_the_users_proxy_and_microsoft_with_it() -> None:
    before = {"NO_PROXY": "intranet.example,management.azure.com"}
    variables = azure_environment(ACCESS, before)
    assert variables["NO_PROXY"] == variables["no_proxy"] == "127.0.0.1,localhost,gpu.example,intranet.example"


def test_config_json_names_the_homes_workspace() -> None:
    assert workspace_config() == {
        "subscription_id": "00000000-0000-0000-0000-000000000",
        "resource_group": "mafunzo",
        "workspace_name": "mafunzo",
    }


# The check of a connection


TOKEN_FILE = Path("/home/amina/token")
Answer = Callable[[httpx.Request], httpx.Response]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = Home(tmp_path_factory.mktemp("home"))
    certificate(home, ["127.0.0.1"], None)
    return tls_files(home).authority


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


def test_mlflow_has_the_key_from_the_environment_since_it_prints_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.utils.credentials import get_default_host_creds

    for name, value in azure_environment(ACCESS, {}).items():
        monkeypatch.setenv(name, value)
    assert get_default_host_creds("https://gpu.example:8443/mlflow").token == "secret"


@pytest.mark.parametrize(
    ("uri", "is_given"),
    [
        pytest.param("https://gpu.example:8443/mlflow", True, id="the server's own"),
        pytest.param("http://127.0.0.1:8080/mlflow", True, id="the same, on its machine"),
        pytest.param("azureml://gpu.example:8443/mlflow/v1.0/subscriptions/x", True, id="for azureml-mlflow"),
        pytest.param("http://127.0.0.1:5000", False, id="another on this machine"),
        pytest.param("https://mlflow.example/mlflow", False, id="elsewhere"),
        pytest.param("sqlite:///runs.db", False, id="a file"),
    ],
)
def test_the_key_is_not_sent_to_another_servers_mlflow(uri: str, is_given: bool) -> None:
    variables = azure_environment(ACCESS, {"MLFLOW_TRACKING_URI": uri})
    assert ("MLFLOW_TRACKING_TOKEN" in variables) is is_given
