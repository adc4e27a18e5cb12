"""A model's name, over all of its versions."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from mafunzo.entities.asset import Asset


@dataclass(frozen=True)
class RegisteredModel:
    """What is said of a name, and what stands under it. versions: newest first; labels: label to version."""

    name: str
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    versions: tuple[Asset, ...] = ()
    created_by: str = ""
    created_at: datetime | None = None
