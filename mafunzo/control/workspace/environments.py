"""Environments: registered ones, curated ones, and the lookup by the names that commands have for them."""

from __future__ import annotations

from dataclasses import replace

from mafunzo.control.store.catalog import curated_environment, curated_environments
from mafunzo.control.workspace.services import Services
from mafunzo.control.workspace.version import put_version, referenced, registered, scope_of, version_of
from mafunzo.entities.asset import REGISTRY_SCOPE, Asset, AssetKey, AssetType, FolderType
from mafunzo.entities.asset_request import EnvironmentRequest
from mafunzo.entities.environment import Environment, environment_facts, environment_of
from mafunzo.entities.reference import AssetReference
from mafunzo.errors import NotFound


class Environments:
    """The verbs on environments."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def register_from(self, request: EnvironmentRequest, name: str, version: str) -> Asset:
        """Register an environment; raises `Conflict` for another one under the name of a version that exists."""
        facts = environment_facts(request.environment)
        asset = version_of(AssetType.ENVIRONMENT, name, version, request, facts)
        return put_version(self._services, asset, is_replaced=request.is_anonymous)

    def on_offer(self, name: str | None = None, version: str | None = None) -> list[Asset]:
        """Return the curated environments, or the one that a name stands for.

        version: the version that it is to have; each is the same here.
        """
        if name is None:
            environments = [replace(one, name=one.name.removeprefix("AzureML-")) for one in curated_environments()]
        else:
            curated = curated_environment(name)
            environments = [] if curated is None else [replace(curated, version=version or curated.version)]
        return [_offered(one) for one in environments]

    def find(self, reference: AssetReference | str | None) -> Environment | None:
        """Return the environment that a command names, None for Mafunzo's own; raises `NotFound`, also for a text."""
        if reference is None:
            return None
        if isinstance(reference, str):
            raise NotFound(f"'{reference}' doesn't name an environment. Name one as azureml:NAME:VERSION.")
        is_ours = registered(self._services, AssetType.ENVIRONMENT, reference.name, scope_of(reference))
        curated = None if is_ours else curated_environment(reference.name)
        if curated is not None:
            return curated
        if reference.registry is not None and not is_ours:
            raise NotFound(
                f"The registry has no environment '{reference.name}'. Make one with an image and a conda file."
            )
        asset = referenced(self._services, AssetType.ENVIRONMENT, reference)
        return environment_of(asset)


def _offered(environment: Environment) -> Asset:
    return Asset(
        key=AssetKey(REGISTRY_SCOPE, AssetType.ENVIRONMENT, environment.name, environment.version),
        folder_type=FolderType.URI_FOLDER,
        properties=environment_facts(environment),
        created_by="catalogue",
    )
