"""Mirrors: the folders in which a hub's models and data sets are found."""

from datetime import UTC, datetime
from pathlib import Path

from mafunzo.control.workspace.services import Services
from mafunzo.entities.asset import Asset, AssetKey, AssetType, FolderType
from mafunzo.errors import InvalidFile, InvalidParameter

MIRROR_SCOPE = "registry:mirror"


def set_mirror(services: Services, kind: AssetType, repository: str, folder: Path) -> Asset:
    """Remember where the hub's `org/name` is found; raises `InvalidFile` when the folder isn't there."""
    if not folder.is_dir():
        raise InvalidFile(f"{folder} isn't a folder. Name the folder that holds the files of {repository}.")
    if "/" not in repository:
        raise InvalidParameter(f"'{repository}' isn't the name of a repository, expected org/name.")
    asset = Asset(
        key=AssetKey(MIRROR_SCOPE, kind, repository, "1"),
        folder_type=FolderType.URI_FOLDER,
        properties={"folder": str(folder.absolute())},
        created_by=services.user,
        created_at=datetime.now(UTC),
    )
    if services.records.assets.list(scope=MIRROR_SCOPE, type=kind, name=repository):
        services.records.assets.update(asset)
    else:
        services.records.assets.add(asset)
    return asset


def find_mirror(services: Services, kind: AssetType, repository: str) -> Path | None:
    """Return the folder that was named for `org/name`, or None."""
    mirrors = services.records.assets.list(scope=MIRROR_SCOPE, type=kind, name=repository)
    return Path(mirrors[0].properties["folder"]) if mirrors else None
