"""The headers by which a request names a deployment, and an answer says which one gave it."""

from collections.abc import Mapping

from mafunzo.entities.endpoint import Deployment

NAMES_DEPLOYMENT = ("mafunzo-deployment", "azureml-model-deployment")
"""Request headers that name a deployment, and response headers that say which one answered."""


def named_deployment(headers: Mapping[str, str]) -> str | None:
    """Return the deployment that a request names, or None where the endpoint's traffic decides."""
    return next((headers[name] for name in NAMES_DEPLOYMENT if name in headers), None)


def deployment_headers(deployment: Deployment) -> dict[str, str]:
    """Return the headers that name the deployment that answered."""
    return dict.fromkeys(NAMES_DEPLOYMENT, deployment.name)
