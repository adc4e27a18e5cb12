"""Hiding versions of components and environments from lists, and showing them again."""

from __future__ import annotations

import dataclasses

from mafunzo.control.workspace.services import Services
from mafunzo.control.workspace.version import archive_all, referenced
from mafunzo.entities.asset import Asset, AssetType
from mafunzo.entities.reference import AssetReference, parse_reference
from mafunzo.errors import NotFound


def archive(services: Services, kind: AssetType, written: str, is_archived: bool = True) -> list[Asset]:
    """Hide the version that `name:version` names, or all of `name`, or show them again; return them. Raises `NotFound`."""
    reference = parse_reference(written)
    if not isinstance(reference, AssetReference):
        raise NotFound(f"'{written}' doesn't name a registered {kind}, expected NAME or NAME:VERSION.")
    if reference.version is None and reference.label is None:
        return archive_all(services, kind, reference.name, is_archived)
    changed = dataclasses.replace(referenced(services, kind, reference), is_archived=is_archived)
    services.records.assets.update(changed)
    return [changed]
