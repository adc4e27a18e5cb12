"""The environment variables that point the Azure SDK at a Mafunzo server. Without them the same script runs on Azure."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from mafunzo.control.workspace import Home
from mafunzo.entities.server_address import ServerAddress
from mafunzo.entrypoints.azure.client.egress import no_proxy_environment
from mafunzo.entrypoints.azure.wire.envelope import CLOUD, RESOURCE_GROUP, SUBSCRIPTION, WORKSPACE
from mafunzo.entrypoints.http.identity import identity_of
from mafunzo.entrypoints.http.tls import files
from mafunzo.errors import InvalidFile, InvalidParameter


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
    return Access(address.azure_url, identity_of(home, user).header, files(home).bundle)


def access_of_user(server: str, token_file: Path, ca_file: Path) -> Access:
    """Return a user's access to a server on another machine; raises `InvalidParameter` or `InvalidFile`."""
    try:
        secret = token_file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidFile(f"{token_file}, which holds your token, can't be read: {_why(error)}.") from error
    if not secret or len(secret.split()) != 1:
        raise InvalidFile(f"{token_file} holds no token, which is one word: what mafunzo user create has shown.")
    try:
        is_bundle = "BEGIN CERTIFICATE" in ca_file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidFile(f"{ca_file} can't be read: {_why(error)}. Copy it from the server's machine.") from error
    if not is_bundle:
        raise InvalidFile(
            f"{ca_file} holds no certificate. Make it on the server's machine: mafunzo env --write-ca FILE"
        )
    return Access(server.rstrip("/"), secret, ca_file.absolute())


def azure_environment(access: Access, before: Mapping[str, str]) -> dict[str, str]:
    """Return the variables for a client of a server, to be set on top of the environment `before`.

    The cloud is always named: without it the SDK goes on to public Azure where the server doesn't answer.
    """
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
        **no_proxy_environment(before, access.host),
    }


def workspace_config() -> Mapping[str, str]:
    """Return the content of `config.json`, by which the SDK finds its workspace."""
    return {"subscription_id": SUBSCRIPTION, "resource_group": RESOURCE_GROUP, "workspace_name": WORKSPACE}


def _why(error: OSError | UnicodeDecodeError) -> str:
    return str(error.strerror) if isinstance(error, OSError) else "it isn't text"
