"""What else becomes of a step's output: a version of an asset, and blobs under a path of the datastore."""

from datetime import UTC, datetime

from mafunzo.entities.asset import MODEL_TYPES, WORKSPACE_SCOPE, Asset, AssetKey, AssetType, FolderType, next_version
from mafunzo.entities.job import Destination, Step
from mafunzo.errors import Conflict
from mafunzo.store.blob import Blobs
from mafunzo.store.record import Records
from mafunzo.wire.azureml.envelope import CONTAINER


def deliver(destination: Destination, artifact: str, step: Step, output: str, records: Records, blobs: Blobs) -> None:
    """Register an output, and show it where it is to go; what was done before isn't done again.

    Raises `Conflict` where the version that was asked for has other bytes.
    """
    if destination.path:
        blobs.place(CONTAINER, destination.path, artifact)
    if destination.asset_name:
        _register(destination, artifact, step, output, records)


def _register(destination: Destination, artifact: str, step: Step, output: str, records: Records) -> None:
    folder_type = FolderType(destination.folder_type)
    kind = AssetType.MODEL if folder_type in MODEL_TYPES else AssetType.DATA
    known = records.list_assets(WORKSPACE_SCOPE, kind, destination.asset_name, with_archived=True)
    source = {"job": step.job, "step": step.name, "output": output}
    if any(source.items() <= asset.properties.items() for asset in known):
        return
    version = destination.asset_version or next_version(asset.version for asset in known)
    same = next((asset for asset in known if asset.version == version), None)
    if same is not None and same.artifact != artifact:
        raise Conflict(
            f"Output {output} is to be {kind} {destination.asset_name}:{version}, which has other bytes already. "
            "Ask for another version, or leave it out."
        )
    if same is not None:
        return
    uri = f"azureml://jobs/{step.job}/outputs/{output}"
    records.add_asset(
        Asset(
            key=AssetKey(WORKSPACE_SCOPE, kind, destination.asset_name, version),
            folder_type=folder_type,
            artifact=artifact,
            properties={**source, "uri": uri},
            created_by=records.get_job(step.job).created_by,
            created_at=datetime.now(UTC),
        )
    )
