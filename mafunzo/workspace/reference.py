"""What an address of Azure's wire names in the store: uploaded files, registered data and models, outputs of jobs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mafunzo.entities.asset import AssetType
from mafunzo.entities.job import ArtifactInput
from mafunzo.errors import InvalidParameter, NotFound
from mafunzo.wire.azureml.envelope import CONTAINER, DATASTORE
from mafunzo.wire.azureml.reference import AssetReference, JobOutputReference, StoredPath, parse_reference
from mafunzo.workspace.asset import Upload
from mafunzo.workspace.version import referenced

if TYPE_CHECKING:
    from mafunzo.workspace.workspace import Workspace

Stored = ArtifactInput | Upload


def stored(workspace: Workspace, where: str, uri: str) -> Stored:
    """Return what `uri`, given at `where`, names; raises `NotFound`, and `InvalidParameter` for what can't be taken."""
    match parse_reference(uri):
        case StoredPath(datastore, path):
            if datastore != DATASTORE:
                raise NotFound(f"{where} lies in the datastore '{datastore}'. There is '{DATASTORE}'.")
            return ArtifactInput(workspace.blobs.artifact(CONTAINER, path), Path(path).name)
        case JobOutputReference(job, output, path):
            handle, step = workspace.jobs.find(job)
            return ArtifactInput(handle.output_artifact(output, path, step.name if step else None), f"{job}/{output}")
        case AssetReference(kind="models") as reference if reference.registry:
            return _of_catalogue(workspace, where, uri)
        case AssetReference() as reference:
            kind = AssetType.MODEL if reference.kind == "models" else AssetType.DATA
            asset = referenced(workspace, kind, reference)
            return ArtifactInput(asset.artifact or "", str(asset.key))
    raise InvalidParameter(
        f"{where} lies at '{uri}'. Uploaded files, registered data and models, and outputs of jobs can be taken: fetch it "
        "first, and name the local path."
    )


def _of_catalogue(workspace: Workspace, where: str, uri: str) -> Stored:
    inputs = workspace.models.source(uri).inputs
    found = next((value for value in inputs.values() if not isinstance(value, str)), None)
    if found is None:
        raise InvalidParameter(f"{where} is '{uri}', a model of a hub, which only pipelines of the registry can take.")
    return found
