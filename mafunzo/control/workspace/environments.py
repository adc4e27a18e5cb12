"""Environments: registered and curated ones, the lookup by the names that commands have for them, what was built of them."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from mafunzo.control.launcher.environment import ENVIRONMENTS_FOLDER, READY_FILE, environment_folder, is_ready, remove
from mafunzo.control.store.catalog import CURATED, curated_environment, curated_environments, environment_cards
from mafunzo.control.store.codec import decode
from mafunzo.control.workspace.services import Services
from mafunzo.control.workspace.versions import Versions, followed_by, scope_of
from mafunzo.entities.asset import REGISTRY_SCOPE, Asset, AssetKey, AssetType, FolderType
from mafunzo.entities.asset_request import EnvironmentRequest
from mafunzo.entities.component import Source
from mafunzo.entities.environment import Environment, environment_facts, environment_of
from mafunzo.entities.reference import AssetReference, parse_reference
from mafunzo.errors import Conflict, NotFound

Assets = list[Asset]  # a class below has a verb called list
Names = list[str]


@dataclass(frozen=True)
class KnownEnvironment:
    """An environment that a step may name.

    folder: where its packages are, or would be; None for Mafunzo's own, and in a list unless it is built.
    size_bytes: on the disk; 0 unless it is built.
    """

    environment: Environment
    description: str = ""
    is_registered: bool = False
    is_archived: bool = False
    folder: Path | None = None
    is_built: bool = False
    size_bytes: int = 0

    def __str__(self) -> str:
        return f"{self.environment.name}:{self.environment.version}"


class Environments:
    """The verbs on environments."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._versions = Versions(services, AssetType.ENVIRONMENT)

    def create(self, request: EnvironmentRequest) -> Asset:
        """Register an environment; raises `VersionTaken` for another one under the name of a version that exists."""
        environment = request.environment
        facts = environment_facts(environment)
        return self._versions.put(
            environment.name, environment.version, request, facts, is_replaced=request.is_anonymous
        )

    def list(
        self, with_hidden: bool = False, limit: int | None = None, before: str | None = None
    ) -> list[KnownEnvironment]:
        """Return the registered environments, newest first, then the curated ones: all, or `limit` after the one `before`.

        with_hidden: archived ones too, and those that stand in a job or component and have no name of their own. Raises
        `NotFound` where there is no such version. While none is built, no folder is looked for: that may start the Pythons on
        the PATH.
        """
        is_any_built = any((self._services.home.root / ENVIRONMENTS_FOLDER).glob(f"*/{READY_FILE}"))
        return followed_by(
            lambda: [
                self._listed(curated, card.description, is_any_built)
                for card in environment_cards()
                if (curated := curated_environment(card.name))
            ],
            str,
            lambda last: [
                _registered(asset, self._listed(environment_of(asset), asset.description, is_any_built))
                for asset in self._versions.page(limit, last, with_archived=with_hidden, with_anonymous=with_hidden)
            ],
            limit,
            before,
        )

    def get(self, name: str) -> KnownEnvironment:
        """Return the environment of a name, or of `name:version`; raises `NotFound`."""
        reference = parse_reference(name)
        if isinstance(reference, AssetReference):
            if self._versions.has(reference.name):
                asset = self._versions.get(reference)
                return _registered(asset, self._known(environment_of(asset), asset.description))
            if curated := curated_environment(reference.name):
                return self._known(curated)
        names = ", ".join(sorted({known.environment.name for known in self.list()}))
        raise NotFound(f"No environment is called '{name}'. There are: {names}.")

    def on_offer(self, name: str | None = None, version: str | None = None) -> Assets:
        """Return the curated environments by their names in the registry, or the one that a name stands for.

        version: the version that it is to have; each is the same here.
        """
        if name is None:
            return [_offered(replace(one, name=one.name.removeprefix(CURATED))) for one in curated_environments()]
        curated = curated_environment(name)
        return [] if curated is None else [_offered(replace(curated, version=version or curated.version))]

    def find(self, reference: AssetReference | str | None) -> Environment | None:
        """Return the environment that a command names, None for Mafunzo's own; raises `NotFound`, also for a text."""
        if reference is None:
            return None
        if isinstance(reference, str):
            raise NotFound(f"'{reference}' doesn't name an environment. Name one as NAME:VERSION.")
        is_ours = self._versions.has(reference.name, scope_of(reference))
        curated = None if is_ours else curated_environment(reference.name)
        if curated is not None:
            return curated
        if reference.registry is not None and not is_ours:
            raise NotFound(
                f"The registry has no environment '{reference.name}'. Make one with an image and a conda file."
            )
        return environment_of(self._versions.get(reference))

    def archive(self, reference: str, is_archived: bool = True) -> Assets:
        """Hide a registered version, or all of a name, from lists, or show them again. Raises `NotFound`."""
        return self._versions.archive(reference, is_archived)

    def delete(self, name: str, is_forced: bool = False) -> int:
        """Delete a registered version, and what was built of it unless another one has the same; return the bytes freed.

        Of a curated one, only what was built goes. Raises `Conflict` while a step uses it, and, unless forced, where a
        component names it.
        """
        known = self.get(name)
        if not is_forced and (components := self._components_with(known)):
            raise Conflict(
                f"Environment {known} is named by {', '.join(components)}, which couldn't run without it. Archive it, or "
                "pass --force."
            )
        if steps := self._running_with(known):
            raise Conflict(f"Environment {known} is in use by {', '.join(steps)}. Delete it when they have ended.")
        if known.is_registered:
            reference = AssetReference(known.environment.name, known.environment.version)
            self._services.records.assets.delete(self._versions.get(reference).key)
        others = {self._folder(environment_of(asset)) for asset in self._versions.list()}
        if known.folder is None or not known.is_built or known.folder in others:
            return 0
        remove(known.folder)
        return known.size_bytes

    def _listed(self, environment: Environment, description: str, is_any_built: bool) -> KnownEnvironment:
        known = self._known(environment, description) if is_any_built else KnownEnvironment(environment, description)
        return known if known.is_built else replace(known, folder=None)

    def _known(self, environment: Environment, description: str = "") -> KnownEnvironment:
        folder = self._folder(environment)
        is_built = folder is not None and is_ready(folder)
        size_bytes = _size_bytes(folder) if folder is not None and is_built else 0
        return KnownEnvironment(environment, description, folder=folder, is_built=is_built, size_bytes=size_bytes)

    def _folder(self, environment: Environment) -> Path | None:
        """Return where an environment's packages are, or would be; None for one that has none of its own."""
        folder = self._services.home.root / ENVIRONMENTS_FOLDER
        return environment_folder(folder, environment) if environment.packages else None

    def _components_with(self, known: KnownEnvironment) -> Names:
        """Return the registered components that name a registered version."""
        if not known.is_registered:
            return []
        components = Versions(self._services, AssetType.COMPONENT).list()
        return [str(asset.key) for asset in components if self._environment_of(asset) == str(known)]

    def _environment_of(self, component: Asset) -> str:
        """Return a component's environment, as `name:version`; empty for a curated one, or for Mafunzo's own."""
        reference = decode(Source, component.properties["source"]).environment
        if not isinstance(reference, AssetReference) or not self._versions.has(reference.name):
            return ""
        return str(self._versions.get(reference).key)

    def _running_with(self, known: KnownEnvironment) -> Names:
        """Return the steps that run in what was built of an environment."""
        records = self._services.records
        return [
            f"{step.job}.{step.name}"
            for step in records.steps.running()
            if step.spec.runtime and known.folder is not None and self._folder(step.spec.runtime) == known.folder
        ]


def _registered(asset: Asset, known: KnownEnvironment) -> KnownEnvironment:
    return replace(known, is_registered=True, is_archived=asset.is_archived)


def _offered(environment: Environment) -> Asset:
    return Asset(
        key=AssetKey(REGISTRY_SCOPE, AssetType.ENVIRONMENT, environment.name, environment.version),
        folder_type=FolderType.URI_FOLDER,
        properties=environment_facts(environment),
        created_by="catalogue",
    )


def _size_bytes(folder: Path) -> int:
    files = (Path(root) / name for root, _, names in os.walk(folder) for name in names)
    return sum(file.stat(follow_symlinks=False).st_size for file in files)
