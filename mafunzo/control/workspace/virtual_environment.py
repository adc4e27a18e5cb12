"""Environments with the virtual environments that steps were built of them: which there are, how big, and away with them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from mafunzo.control.launcher.environment import environment_folder, is_ready, remove
from mafunzo.control.pipelines.scheduler import ENVIRONMENTS_FOLDER
from mafunzo.control.store.catalog import EnvironmentCard, curated_environment, environment_cards
from mafunzo.control.workspace.components import definition
from mafunzo.control.workspace.services import Services
from mafunzo.control.workspace.version import referenced, registered
from mafunzo.entities.asset import Asset, AssetType
from mafunzo.entities.environment import Environment, environment_of
from mafunzo.entities.job import StepStatus
from mafunzo.entities.reference import AssetReference, parse_reference
from mafunzo.errors import Conflict, NotFound


@dataclass(frozen=True)
class KnownEnvironment:
    """An environment that a step may name.

    folder: where its packages are, or would be; None for Mafunzo's own. size_bytes: on the disk; 0 unless it is built.
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


def known_environments(services: Services, with_hidden: bool = False) -> list[KnownEnvironment]:
    """Return the registered environments, newest first, then the curated ones.

    with_hidden: archived ones too, and those that stand in a job or component and have no name of their own.
    """
    known = [
        _registered(services, asset)
        for asset in registered(services, AssetType.ENVIRONMENT)
        if with_hidden or not (asset.is_archived or asset.is_anonymous)
    ]
    return [*known, *(_curated(services, card) for card in environment_cards())]


def known_environment(services: Services, written: str) -> KnownEnvironment:
    """Return the environment of a name, or of `name:version`; raises `NotFound`."""
    reference = parse_reference(written)
    if isinstance(reference, AssetReference):
        if registered(services, AssetType.ENVIRONMENT, reference.name):
            return _registered(services, referenced(services, AssetType.ENVIRONMENT, reference))
        if curated := curated_environment(reference.name):
            return _known(services, curated)
    known = ", ".join(sorted({one.environment.name for one in known_environments(services)}))
    raise NotFound(f"No environment is called '{written}'. There are: {known}.")


def delete_environment(services: Services, written: str, is_forced: bool = False) -> int:
    """Delete a registered version, and what was built of it unless another one has the same; return the bytes freed.

    Of a curated one, only what was built goes. Raises `Conflict` while a step uses it, and, unless forced, where a component
    names it.
    """
    known = known_environment(services, written)
    if not is_forced and (components := _components_with(services, known)):
        raise Conflict(
            f"Environment {known} is named by {', '.join(components)}, which couldn't run without it. Archive it, or "
            "pass --force."
        )
    if steps := _running_with(services, known):
        raise Conflict(f"Environment {known} is in use by {', '.join(steps)}. Delete it when they have ended.")
    if known.is_registered:
        reference = AssetReference(known.environment.name, known.environment.version)
        services.records.assets.delete(referenced(services, AssetType.ENVIRONMENT, reference).key)
    others = {_folder(services, environment_of(asset)) for asset in registered(services, AssetType.ENVIRONMENT)}
    if known.folder is None or not known.is_built or known.folder in others:
        return 0
    remove(known.folder)
    return known.size_bytes


def _registered(services: Services, asset: Asset) -> KnownEnvironment:
    return _known(services, environment_of(asset), asset.description, True, asset.is_archived)


def _curated(services: Services, card: EnvironmentCard) -> KnownEnvironment:
    environment = curated_environment(card.name)
    assert environment is not None, "a card has its own name"
    return _known(services, environment, card.description)


def _known(
    services: Services,
    environment: Environment,
    description: str = "",
    is_registered: bool = False,
    is_archived: bool = False,
) -> KnownEnvironment:
    folder = _folder(services, environment)
    is_built = folder is not None and is_ready(folder)
    size = _size(folder) if folder is not None and is_built else 0
    return KnownEnvironment(environment, description, is_registered, is_archived, folder, is_built, size)


def _folder(services: Services, environment: Environment) -> Path | None:
    """Return where an environment's packages are, or would be; None for one that has none of its own."""
    return environment_folder(services.home.root / ENVIRONMENTS_FOLDER, environment) if environment.packages else None


def _size(folder: Path) -> int:
    return sum(entry.stat(follow_symlinks=False).st_size for entry in _files(folder))


def _files(folder: Path) -> list[Path]:
    return [Path(root) / name for root, _, names in os.walk(folder) for name in names]


def _components_with(services: Services, known: KnownEnvironment) -> list[str]:
    """Return the registered components that name a registered version."""
    if not known.is_registered:
        return []
    return [
        str(asset.key)
        for asset in registered(services, AssetType.COMPONENT)
        if _environment_of(services, asset) == (known.environment.name, known.environment.version)
    ]


def _environment_of(services: Services, component: Asset) -> tuple[str, str] | None:
    """Return name and version of the environment of a component's, None for a curated one, or for Mafunzo's own."""
    reference = definition(component)[1].environment
    if not isinstance(reference, AssetReference):
        return None
    if not registered(services, AssetType.ENVIRONMENT, reference.name):
        return None
    environment = referenced(services, AssetType.ENVIRONMENT, reference)
    return environment.name, environment.version


def _running_with(services: Services, known: KnownEnvironment) -> list[str]:
    """Return the steps that run in what was built of an environment."""
    steps = [step for job in services.records.jobs.queue() for step in services.records.steps.of(job.name)]
    return [
        f"{step.job}.{step.name}"
        for step in steps
        if step.status is StepStatus.RUNNING
        and step.spec.runtime
        and known.folder is not None
        and _folder(services, step.spec.runtime) == known.folder
    ]
