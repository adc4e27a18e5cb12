"""Environments: registered over a wire, curated ones, and the lookup by the names that commands have for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mafunzo.entities.asset import REGISTRY_SCOPE, Asset, AssetKey, AssetType, FolderType
from mafunzo.entities.environment import Environment
from mafunzo.entities.reference import AssetReference, parse_reference
from mafunzo.errors import NotFound
from mafunzo.store.environment_catalog import curated_environment, curated_environments
from mafunzo.wire.azureml.environment import BODY, environment_from_body, sent_body
from mafunzo.workspace.services import Services
from mafunzo.workspace.version import put_version, referenced, registered, scope_of, version_of

MAY_CHANGE = ("description", "tags", "isArchived", "provisioningState")
"""What of an environment's body isn't its content."""


class Environments:
    """The verbs on environments."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def register_from(self, body: Mapping[str, Any], name: str, version: str) -> Asset:
        """Register an environment as Azure's wire asks; raises `InvalidParameter`, `NotSupported` and `Conflict`."""
        environment = environment_from_body(name, version, body)
        said = dict(body.get("properties") or {})
        kept = {key: value for key, value in said.items() if key not in MAY_CHANGE and value not in (None, {})}
        asset = version_of(AssetType.ENVIRONMENT, name, version, {BODY: {"properties": kept}}, body)
        is_replaced = bool(said.get("isAnonymous", False)) or self._means(name, version) == environment
        return put_version(self._services, asset, is_replaced)

    def on_offer(self, name: str | None = None, version: str | None = None) -> list[Asset]:
        """Return the curated environments, or the one that a name of Azure's stands for.

        version: under which of Azure's versions, of which each is the same here.
        """
        if name is None:
            found = [replace(one, name=one.name.removeprefix("AzureML-")) for one in curated_environments()]
        else:
            curated = curated_environment(name)
            found = [] if curated is None else [replace(curated, version=version or curated.version)]
        return [_offered(one) for one in found]

    def find(self, written: str | None) -> Environment | None:
        """Return the environment that a command names, None for Mafunzo's own; raises `NotFound`."""
        if not written:
            return None
        reference = parse_reference(written)
        if not isinstance(reference, AssetReference):
            raise NotFound(f"'{written}' doesn't name an environment. Name one as azureml:NAME:VERSION.")
        is_ours = registered(self._services, AssetType.ENVIRONMENT, reference.name, scope_of(reference))
        curated = None if is_ours else curated_environment(reference.name)
        if curated is not None:
            return curated
        if reference.registry is not None and not is_ours:
            raise NotFound(
                f"The registry has no environment '{reference.name}'. Make one with an image and a conda file."
            )
        asset = referenced(self._services, AssetType.ENVIRONMENT, reference)
        return environment_from_body(asset.name, asset.version, asset.properties[BODY])

    def _means(self, name: str, version: str) -> Environment | None:
        """Return what a registered version is; None where there is none. Clients send one back in other words than it came."""
        known = registered(self._services, AssetType.ENVIRONMENT, name)
        found = (environment_from_body(name, version, one.properties[BODY]) for one in known if one.version == version)
        return next(found, None)


def _offered(environment: Environment) -> Asset:
    return Asset(
        key=AssetKey(REGISTRY_SCOPE, AssetType.ENVIRONMENT, environment.name, environment.version),
        folder_type=FolderType.URI_FOLDER,
        properties={BODY: sent_body(environment)},
        created_by="catalogue",
    )
