"""What is on offer: base models, data sets, machine sizes and environments, as YAML files in `mafunzo/catalog/`."""

from collections.abc import Iterator
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field

from mafunzo.entities.compute import Hardware, MachineSize
from mafunzo.entities.environment import Environment
from mafunzo.entities.model_memory import FINETUNE, INFERENCE, fitting_sizes
from mafunzo.entities.validation import validated
from mafunzo.errors import NotFound, did_you_mean

if TYPE_CHECKING:
    from mafunzo.entities.model_card import ModelCard

LOCAL = "local"
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The safe loader, in C where there is one: the tables of sizes are long."""
CURATED = "AzureML-"
"""A workspace has an environment of the catalogue as `AzureML-sklearn-1.5`, the registry as `sklearn-1.5`."""
Card = TypeVar("Card", bound=BaseModel)


class EnvironmentCard(BaseModel):
    """An environment that a command may name.

    names: patterns of the other names that it has, in small letters, without `AzureML-`. python: the version that it asks for.
    packages: pip's requirements; none for the environment that Mafunzo itself runs in.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    version: str
    description: str
    names: tuple[str, ...] = ()
    python: str = ""
    packages: tuple[str, ...] = ()


@cache
def model_cards() -> "list[ModelCard]":
    """Return the base models by name, the default one first."""
    from mafunzo.entities.model_card import (
        model_card_from_dict,  # its classes take 25 ms, which lists of environments don't need
    )

    cards = [_with_allow_lists(model_card_from_dict(body, where)) for where, body in _read("models")]
    return sorted(cards, key=lambda card: (not card.is_default, card.name.lower()))


def model_card(name: str, version: str | None = None) -> "ModelCard":
    """Return one base model, by its name or its repository on the hub; `version` None takes the one there is.

    Raises `NotFound`, with near names.
    """
    cards = model_cards()
    matches = [card for card in cards if name.lower() in (card.name.lower(), _repository(card).lower())]
    if not matches:
        hint = did_you_mean(name, [card.name for card in cards], 3, cutoff=0.5)
        raise NotFound(f"No base model is called '{name}'.{hint} `mafunzo model list` shows all.")
    if version is not None and version != matches[0].version:
        raise NotFound(f"{matches[0].name} has the version {matches[0].version}, not '{version}'.")
    return matches[0]


@cache
def environment_cards() -> list[EnvironmentCard]:
    """Return the environments by name."""
    cards = (_checked(EnvironmentCard, body, where) for where, body in _read("environments"))
    return sorted(cards, key=lambda card: card.name)


def curated_environment(name: str) -> Environment | None:
    """Return the environment that a curated name stands for, in whatever case; None for any other name."""
    plain = _plain(name)
    for card in environment_cards():
        if plain == _plain(card.name) or any(fnmatchcase(plain, pattern) for pattern in card.names):
            return _environment(card, name)
    return None


def curated_environments() -> list[Environment]:
    """Return one environment a card, by name."""
    return [_environment(card, card.name) for card in environment_cards()]


def machine_sizes(this_machine: Hardware | None = None) -> list[MachineSize]:
    """Return the machine sizes by name; `local` comes first where `this_machine` says what that is."""
    sizes = sorted(_catalogued_sizes(), key=lambda size: size.name.lower())
    return sizes if this_machine is None else [_local(this_machine), *sizes]


def machine_size(name: str, this_machine: Hardware | None = None) -> MachineSize:
    """Return one machine size, whatever the case of its letters. Raises `NotFound`, with near names."""
    sizes = machine_sizes(this_machine)
    for size in sizes:
        if size.name.lower() == name.lower():
            return size
    hint = did_you_mean(name, [size.name for size in sizes], 3, cutoff=0.5)
    raise NotFound(
        f"No machine size is called '{name}'.{hint} `{LOCAL}` is this machine, whatever it has; `mafunzo compute sizes` "
        "shows all."
    )


def _plain(name: str) -> str:
    return name.lower().removeprefix(CURATED.lower())


def _environment(card: EnvironmentCard, name: str) -> Environment:
    return Environment(name=name, version=card.version, packages=card.packages, python=card.python)


@cache
def _catalogued_sizes() -> tuple[MachineSize, ...]:
    families = [_checked(_MachineFamily, body, where) for where, body in _read("compute")]
    return tuple(
        MachineSize(
            name, size.cpus, size.memory_gb, size.gpus, family.gpu_name, size.gpu_memory_gb or family.gpu_memory_gb
        )
        for family in families
        for name, size in family.sizes.items()
    )


def _with_allow_lists(card: "ModelCard") -> "ModelCard":
    """Return a card with the machine sizes that hold its model, where it states none itself."""
    sizes = machine_sizes()
    derived = {
        "finetune_compute_allow_list": fitting_sizes(card.parameters, FINETUNE, sizes),
        "inference_compute_allow_list": fitting_sizes(card.parameters, INFERENCE, sizes),
    }
    return card.model_copy(update={name: (LOCAL, *names) for name, names in derived.items() if not getattr(card, name)})


class _Size(BaseModel):
    """What a machine of a size has. gpu_memory_gb: where it has a part of a GPU only, of which it counts as one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cpus: int = Field(gt=0)
    memory_gb: float = Field(gt=0)
    gpus: int = Field(ge=0, default=0)
    gpu_memory_gb: float = 0.0


class _MachineFamily(BaseModel):
    """Machine sizes that differ only in how much they have of the same. source: the page that says so."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    gpu_name: str = ""
    gpu_memory_gb: float = 0.0
    sizes: dict[str, _Size]


def _local(hardware: Hardware) -> MachineSize:
    gpu_name = ", ".join(sorted(set(hardware.gpus)))
    return MachineSize(LOCAL, hardware.cpus, round(hardware.memory_mb / 1024, 1), len(hardware.gpus), gpu_name)


def _read(folder: str) -> Iterator[tuple[str, Any]]:
    """Yield file name and parsed YAML of each card in a folder of the catalogue."""
    root = files("mafunzo.catalog") / folder
    if not root.is_dir():
        return
    for entry in sorted(root.iterdir(), key=lambda entry: entry.name):
        if entry.name.endswith(".yml"):
            yield f"catalog/{folder}/{entry.name}", yaml.load(entry.read_text(encoding="utf-8"), Loader=_LOADER)


def _checked(cls: type[Card], body: Any, where: str) -> Card:
    return validated(f"{where}: not a card that can be used.", lambda: cls.model_validate(body))


def _repository(card: "ModelCard") -> str:
    return card.source.repo if card.source.kind == "hub" else ""
