"""A client's access to a Mafunzo server, and the environment variables that point the Azure SDK at it.

Without them the same script runs on Azure.
"""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from mafunzo.control.workspace import Home
from mafunzo.entities.server_address import ServerAddress
from mafunzo.entrypoints.azure.client.egress import no_proxy_environment
from mafunzo.entrypoints.azure.wire.envelope import CLOUD, RESOURCE_GROUP, SUBSCRIPTION, WORKSPACE
from mafunzo.entrypoints.http.identity import identity_of
from mafunzo.entrypoints.http.listen import LOOPBACK_NAMES
from mafunzo.entrypoints.http.tls import files
from mafunzo.errors import InvalidFile, InvalidParameter, Unauthorized, Unreachable

RESOURCE = "https://management.azure.com/"
TIMEOUT_S = 20.0
MLFLOW_TOKEN = "MLFLOW_TRACKING_TOKEN"


@dataclass(frozen=True)
class Access:
    """Access to a server: its https address, the user's secret, and the file of trusted certificate authorities."""

    url: str
    secret: str
    authorities: Path

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme != "https" or not parts.hostname or parts.path.strip("/"):
            raise InvalidParameter(f"--server is '{self.url}', expected https://HOST:PORT.", param="server")

    @property
    def host(self) -> str:
        """The server's name or address, without its port."""
        return str(urlsplit(self.url).hostname)


def access_of_home(home: Home, address: ServerAddress, user: str) -> Access:
    """Return the owner's access to the home's own server."""
    return Access(address.https_url, identity_of(home, user).header, files(home).authorities)


def access_of_user(server: str, token_file: Path, ca_file: Path) -> Access:
    """Return a user's access to a server on another machine; raises `InvalidParameter` or `InvalidFile`."""
    secret = _read(token_file, "ascii", ", which holds your token,").strip()
    if not secret or len(secret.split()) != 1:
        raise InvalidFile(f"{token_file} holds no token, which is one word: what mafunzo user create has shown.")
    if "BEGIN CERTIFICATE" not in _read(ca_file, "utf-8", hint=" Copy it from the server's machine."):
        raise InvalidFile(
            f"{ca_file} holds no certificate. Make it on the server's machine: mafunzo env --write-ca FILE"
        )
    return Access(server.rstrip("/"), secret, ca_file.absolute())


def require_access(access: Access, token_file: Path) -> None:
    """Request an access token once, before a program starts: a failure is told with its reason in one sentence.

    Raises `Unreachable` where no Mafunzo answers, `Unauthorized` where it takes no such token, and `InvalidFile`.
    """
    import httpx

    try:
        file, folder = (None, access.authorities) if access.authorities.is_dir() else (access.authorities, None)
        authorities = ssl.create_default_context(cafile=file, capath=folder)
    except ssl.SSLError as error:
        raise InvalidFile(f"{access.authorities} holds no certificate that can be read. Copy it anew.") from error
    headers = {"X-IDENTITY-HEADER": access.secret}
    try:
        with httpx.Client(verify=authorities, trust_env=False, timeout=TIMEOUT_S) as client:
            answer = client.get(f"{access.url}/msi/token", params={"resource": RESOURCE}, headers=headers)
    except httpx.HTTPError as error:
        raise Unreachable(_unreachable(access, str(error) or type(error).__name__)) from error
    if answer.status_code == 401:
        raise Unauthorized(
            f"The token in {token_file} isn't accepted by {access.url}: it was replaced or revoked, or is another server's. "
            "Ask for a new one, which an owner makes: mafunzo user rotate NAME"
        )
    if not (answer.is_success and b"access_token" in answer.content):
        raise Unreachable(
            f"No Mafunzo answers at {access.url}: what is there says {answer.status_code} {answer.reason_phrase}."
        )


def azure_environment(access: Access, before: Mapping[str, str]) -> dict[str, str]:
    """Return the variables for a client of a server, to be set on top of the environment `before`.

    The cloud is always named: without it the SDK goes on to public Azure where the server doesn't answer. MLflow's own client
    takes the secret from the environment, since it prints the tracking URI; where that is another server's already, it is
    that one's that it takes.
    """
    mlflow = {} if _is_elsewhere(before.get("MLFLOW_TRACKING_URI", ""), access) else {MLFLOW_TOKEN: access.secret}
    return {
        "ARM_CLOUD_METADATA_URL": f"{access.url}/metadata/endpoints?api-version=2019-05-01",
        "AZUREML_CURRENT_CLOUD": CLOUD,
        "REGISTRY_DISCOVERY_ENDPOINT_URL": f"{access.url}/",
        "IDENTITY_ENDPOINT": f"{access.url}/msi/token",
        "IDENTITY_HEADER": access.secret,
        "REQUESTS_CA_BUNDLE": str(access.authorities),
        "AZURE_TOKEN_CREDENTIALS": "ManagedIdentityCredential",
        "AZUREML_RUN_POLLING_INTERVAL_MIN": "1",
        "AZUREML_RUN_POLLING_INTERVAL_MAX": "5",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        **mlflow,
        **no_proxy_environment(before, access.host),
    }


def _is_elsewhere(tracking_uri: str, access: Access) -> bool:
    """Return whether a tracking URI, if it is one, is that of another server's MLflow."""
    parts = urlsplit(tracking_uri)
    is_ours = parts.hostname in (access.host, *LOOPBACK_NAMES) and parts.path.startswith("/mlflow")
    return bool(tracking_uri) and not is_ours


def workspace_config() -> Mapping[str, str]:
    """Return the content of `config.json`, by which the SDK finds its workspace."""
    return {"subscription_id": SUBSCRIPTION, "resource_group": RESOURCE_GROUP, "workspace_name": WORKSPACE}


def _read(file: Path, encoding: str, what: str = "", hint: str = "") -> str:
    """Return a file's text; raises `InvalidFile` that says what the file is and what to do."""
    try:
        return file.read_text(encoding)
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it isn't text"
        raise InvalidFile(f"{file}{what} can't be read: {why}.{hint}") from error


def _unreachable(access: Access, reason: str) -> str:
    if "CERTIFICATE_VERIFY_FAILED" in reason:
        short = reason.rpartition("certificate verify failed: ")[2].partition(" (_ssl")[0]
        return (
            f"The certificate of {access.url} isn't trusted by {access.authorities} ({short}). Copy the file anew "
            "from the server's machine, where `mafunzo env --write-ca FILE` makes it, and use a name that the server has."
        )
    if "WRONG_VERSION_NUMBER" in reason or "record layer failure" in reason:
        return (
            f"No Mafunzo answers at {access.url}: there is http, not https. Name the https port, 8443 where no other one was "
            "chosen."
        )
    return f"No Mafunzo answers at {access.url}: {reason}. Is it up, and listening for others (`mafunzo up --listen`)?"
