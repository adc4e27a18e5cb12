"""What a reference names in the store: uploaded files, registered data and models, outputs of jobs."""

from __future__ import annotations

import tempfile
from pathlib import Path

from mafunzo.control.store.web_file import fetch, file_name, require_file
from mafunzo.control.workspace.job_output import JobOutputs, find_step
from mafunzo.control.workspace.model_source import ModelSources, Upload
from mafunzo.control.workspace.services import Services
from mafunzo.control.workspace.version import referenced
from mafunzo.entities.asset import AssetType
from mafunzo.entities.blob import HOME_CONTAINER, HOME_DATASTORE
from mafunzo.entities.job import ArtifactInput
from mafunzo.entities.reference import AssetReference, JobOutputReference, PathInput, StoredPath, WebAddress
from mafunzo.errors import InvalidFile, InvalidParameter, NotFound

Stored = ArtifactInput | Upload


def stored(services: Services, where: str, path: PathInput) -> Stored:
    """Return what `path`, given at `where`, names; raises `NotFound`, and `InvalidParameter` for what can't be taken."""
    match path.reference:
        case StoredPath(datastore, file):
            if datastore != HOME_DATASTORE:
                raise NotFound(f"{where} lies in the datastore '{datastore}'. There is '{HOME_DATASTORE}'.")
            return ArtifactInput(services.blobs.artifact(HOME_CONTAINER, file), Path(file).name)
        case JobOutputReference(job, output, file):
            step = find_step(services, job)
            outputs = JobOutputs(services, step.job if step else job)
            return ArtifactInput(outputs.artifact(output, file, step.name if step else None), f"{job}/{output}")
        case AssetReference(type=AssetType.MODEL) as reference if reference.registry:
            return _of_catalogue(services, where, path)
        case AssetReference() as reference:
            asset = referenced(services, reference.type or AssetType.DATA, reference)
            return ArtifactInput(asset.artifact or "", str(asset.key))
        case WebAddress(url):
            return _of_web(services, where, url)
    raise InvalidParameter(
        f"{where} lies at '{path.text}'. Uploaded files, registered data and models, outputs of jobs, and files at https:// "
        "addresses can be taken: fetch it first, and name the local path."
    )


def artifact_of(source: Stored) -> str:
    """Return the hash of the bytes that a reference names, stored first if they aren't yet."""
    return source.artifact if isinstance(source, ArtifactInput) else source.put()


def _of_web(services: Services, where: str, url: str) -> Upload:
    """Return a file elsewhere, known to be there, which is fetched when it is to be stored."""
    if services.is_offline:
        raise InvalidFile(
            f"{where} is '{url}', and Mafunzo is set to be offline. Fetch it first, and name the local path."
        )
    require_file(where, url)

    def put() -> str:
        with tempfile.TemporaryDirectory(prefix=".fetched-", dir=services.home.root) as folder:
            return services.artifacts.put(fetch(where, url, Path(folder)), is_final=True)

    return Upload(file_name(url), put)


def _of_catalogue(services: Services, where: str, path: PathInput) -> Stored:
    inputs = ModelSources(services).source(path.text).inputs
    model = next((value for value in inputs.values() if not isinstance(value, str)), None)
    if model is None:
        raise InvalidParameter(
            f"{where} is '{path.text}', a model of a hub, which only pipelines of the registry can take."
        )
    return model
