"""The environment variables that point the Azure SDK at this machine. Without them the same script runs on Azure."""

from collections.abc import Mapping

from mafunzo.launcher.server_process import ServerAddress
from mafunzo.server.egress import no_proxy_environment
from mafunzo.server.identity import identity_of
from mafunzo.server.tls import certificate
from mafunzo.store.home import Home
from mafunzo.wire.azureml.envelope import CLOUD, RESOURCE_GROUP, SUBSCRIPTION, WORKSPACE


def azure_environment(home: Home, address: ServerAddress, user: str, before: Mapping[str, str]) -> dict[str, str]:
    """Return the variables for a client of the server at `address`, to be set on top of the environment `before`.

    The cloud is always named: without it the SDK goes on to public Azure where the server doesn't answer.
    """
    url = address.azure_url
    return {
        "ARM_CLOUD_METADATA_URL": f"{url}/metadata/endpoints?api-version=2019-05-01",
        "AZUREML_CURRENT_CLOUD": CLOUD,
        "REGISTRY_DISCOVERY_ENDPOINT_URL": f"{url}/",
        "IDENTITY_ENDPOINT": f"{url}/msi/token",
        "IDENTITY_HEADER": identity_of(home, user).header,
        "REQUESTS_CA_BUNDLE": str(certificate(home).bundle),
        "AZURE_TOKEN_CREDENTIALS": "ManagedIdentityCredential",
        "AZUREML_RUN_POLLING_INTERVAL_MIN": "1",
        "AZUREML_RUN_POLLING_INTERVAL_MAX": "5",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        **no_proxy_environment(before),
    }


def workspace_config() -> Mapping[str, str]:
    """Return what `config.json` holds, in which the SDK finds its workspace."""
    return {"subscription_id": SUBSCRIPTION, "resource_group": RESOURCE_GROUP, "workspace_name": WORKSPACE}
