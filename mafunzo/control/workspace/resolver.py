"""Resolving references to what they name in the store: uploaded files, registered data and models, outputs of jobs."""

from __future__ import annotations

import tempfile
from pathlib import Path

from mafunzo.control.store.web_file import fetch, file_name, require_file
from mafunzo.control.workspace.job_handle import JobHandle, find_step
from mafunzo.control.workspace.model_source import ModelSources, Upload
from mafunzo.control.workspace.services import Services
from mafunzo.control.workspace.versions import Versions
from mafunzo.entities.asset import AssetType
from mafunzo.entities.blob import HOME_CONTAINER, HOME_DATASTORE
from mafunzo.entities.job import ArtifactInput
from mafunzo.entities.reference import AssetReference, JobOutputReference, PathInput, StoredPath, WebAddress
from mafunzo.errors import InvalidFile, InvalidParameter, NotFound

Resolved = ArtifactInput | Upload


def resolve(services: Services, where: str, path: PathInput) -> Resolved:
    """Return what `path`, given at `where`, names; raises `NotFound`, and `InvalidParameter` for what can't be taken."""
    match path.reference:
        case StoredPath(datastore, file):
            if datastore != HOME_DATASTORE:
                raise NotFound(f"{where} lies in the datastore '{datastore}'. There is '{HOME_DATASTORE}'.")
            return ArtifactInput(services.blobs.artifact(HOME_CONTAINER, file), Path(file).name)
        case JobOutputReference(job, output, file):
            step = find_step(services, job)
            handle = JobHandle(services, step.job if step else job)
            artifact = handle.output_artifact(output, file, step.name if step else None)
            return ArtifactInput(artifact, f"{job}/{output}")
        case AssetReference(type=AssetType.MODEL) as reference if reference.registry:
            model = ModelSources(services).source(reference).inputs["mlflow_model_path"]
            assert not isinstance(model, str), "only a model of a hub is a name, and a reference names none"
            return model
        case AssetReference() as reference:
            asset = Versions(services, reference.type or AssetType.DATA).get(reference)
            return ArtifactInput(asset.artifact or "", str(asset.key))
        case WebAddress(url):
            return _of_web(services, where, url)
    raise InvalidParameter(
        f"{where} lies at '{path.text}'. Uploaded files, registered data and models, outputs of jobs, and files at https:// "
        "addresses can be taken: fetch it first, and name the local path."
    )


def artifact_of(source: Resolved) -> str:
    """Return the hash of the bytes that a reference names, stored first if they aren't yet."""
    return source.artifact if isinstance(source, ArtifactInput) else source.put()


def _of_web(services: Services, where: str, url: str) -> Upload:
    """Return a file elsewhere, known to be there, which is fetched when it is to be stored."""
    if services.is_offline:
        raise InvalidFile(
            f"{where} is '{url}', and Mafunzo is set to be offline. Fetch it first, and name the local path."
        )
    require_file(where, url, *services.input_hosts)

    def put() -> str:
        with tempfile.TemporaryDirectory(prefix=".fetched-", dir=services.home.root) as folder:
            return services.artifacts.put(fetch(where, url, Path(folder), *services.input_hosts), is_final=True)

    return Upload(file_name(url), put)
