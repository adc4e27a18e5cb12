"""What else becomes of a step's output: a version of an asset, and blobs under a path of the datastore."""

from datetime import UTC, datetime
from pathlib import Path

from mafunzo.control.store.blob import Blobs
from mafunzo.control.store.records import Records
from mafunzo.entities.asset import (
    MODEL_TYPES,
    WORKSPACE_SCOPE,
    Asset,
    AssetKey,
    AssetType,
    FolderType,
    data_path,
    home_path,
    next_version,
)
from mafunzo.entities.blob import HOME_CONTAINER
from mafunzo.entities.job import ROOT, Destination, Step
from mafunzo.errors import Conflict


def deliver(destination: Destination, artifact: str, step: Step, output: str, records: Records, blobs: Blobs) -> None:
    """Register an output, and show it at its destination. Idempotent.

    Raises `Conflict` where the version that was asked for has other bytes.
    """
    if destination.path:
        blobs.place(HOME_CONTAINER, "" if destination.path == ROOT else destination.path, artifact)
    if destination.asset_name:
        asset = _registered(destination, artifact, step, output, records)
        if path := home_path(asset):
            blobs.place(HOME_CONTAINER, path, artifact)


def _registered(destination: Destination, artifact: str, step: Step, output: str, records: Records) -> Asset:
    """Return the version that an output is, added where it isn't known yet."""
    kind = AssetType.MODEL if destination.folder_type in MODEL_TYPES else AssetType.DATA
    name, source = destination.asset_name, {"job": step.job, "step": step.name, "output": output}
    for asset in records.assets.list(WORKSPACE_SCOPE, kind, name, with_archived=True, facts=source):
        return asset
    key = AssetKey(
        WORKSPACE_SCOPE,
        kind,
        name,
        destination.asset_version or next_version(records.assets.versions(WORKSPACE_SCOPE, kind, name)),
    )
    same = records.assets.find(key)
    if same is not None and same.artifact != artifact:
        raise Conflict(
            f"Output {output} is to be {kind} {key}, which has other bytes already. "
            "Ask for another version, or leave it out."
        )
    if same is not None:
        return same
    # A model's path in the home's datastore follows from its name.
    file_name = Path(step.spec.output_path(output)).name
    shown = {} if kind is AssetType.MODEL else {"shown_at": data_path(key, file_name)}
    return records.assets.add(
        Asset(
            key=key,
            folder_type=FolderType(destination.folder_type),
            artifact=artifact,
            properties=source | shown,
            created_by=records.jobs.get(step.job).created_by,
            created_at=datetime.now(UTC),
        )
    )
