"""Azure's curated environments, by the names that scripts have for them: what each one is here."""

from fnmatch import fnmatchcase

from mafunzo.control.store.catalog import EnvironmentCard, environment_cards
from mafunzo.entities.environment import Environment

PREFIX = "azureml-"
"""A workspace has a curated environment as `AzureML-sklearn-1.5`, the registry as `sklearn-1.5`."""


def curated_environment(name: str) -> Environment | None:
    """Return the environment that a curated name stands for, in whatever case; None for any other name."""
    match = next((card for card in environment_cards() if _has_name(card, _plain(name))), None)
    return None if match is None else _environment(match, name)


def curated_environments() -> list[Environment]:
    """Return one environment a card, by name."""
    return [_environment(card, card.name) for card in environment_cards()]


def _has_name(card: EnvironmentCard, plain: str) -> bool:
    return plain == _plain(card.name) or any(fnmatchcase(plain, pattern) for pattern in card.names)


def _plain(name: str) -> str:
    return name.lower().removeprefix(PREFIX)


def _environment(card: EnvironmentCard, name: str) -> Environment:
    return Environment(name=name, version=card.version, packages=card.packages, python=card.python)
