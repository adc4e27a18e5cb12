"""Models: those on offer in the catalogue, and those that jobs made or that were uploaded."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mafunzo.control.workspace.jobs import JobHandle, Jobs
from mafunzo.control.workspace.lineage import facts_of_job
from mafunzo.control.workspace.mirror import set_mirror
from mafunzo.control.workspace.model_source import ModelSource, ModelSources, is_repository
from mafunzo.control.workspace.request import import_title
from mafunzo.control.workspace.retention import Holders, free, holders_of, models_made_by, named_artifacts
from mafunzo.control.workspace.services import Services
from mafunzo.control.workspace.version import taken
from mafunzo.entities.asset import (
    REGISTRY_SCOPE,
    WORKSPACE_SCOPE,
    Asset,
    AssetKey,
    AssetType,
    FolderType,
    home_path,
    next_version,
)
from mafunzo.entities.asset_request import ModelRequest
from mafunzo.entities.blob import HOME_CONTAINER, HOME_DATASTORE, REGISTRY_CONTAINER
from mafunzo.entities.job import JobStatus
from mafunzo.entities.reference import JobOutputReference, StoredPath, parse_reference, source_facts
from mafunzo.errors import Conflict, InvalidParameter, NotFound

Assets = list[Asset]  # the class below has a verb called list
MLFLOW_OUTPUT = "mlflow_model_folder"


class Models:
    """The verbs on models. A reference is `name`, `name:version`, an address of a way in, `org/name` of a hub, or a folder."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._sources = ModelSources(services)
        self._jobs = Jobs(services)

    def list(self, name: str | None = None, with_archived: bool = False) -> list[Asset]:
        """Return the registered models, newest first, then those on offer."""
        registered = self._services.records.assets.list(
            scope=WORKSPACE_SCOPE, type=AssetType.MODEL, name=name, with_archived=with_archived
        )
        return [*registered, *self._sources.on_offer(name)]

    def import_(self, reference: str) -> JobHandle:
        """Fetch a model from where it comes and convert it once; later jobs take it from the cache."""
        return self._jobs.import_model(reference)

    def import_once(self, reference: str) -> JobHandle:
        """Return the job that is importing a model, or begin one."""
        for job in self._jobs.list((JobStatus.QUEUED, JobStatus.RUNNING)):
            if job.display_name == import_title(reference):
                return self._jobs.get(job.name)
        return self.import_(reference)

    def show(self, asset: Asset, artifact: str) -> None:
        """Show a model's files as blobs, at its path of the home's datastore, or of the registry's."""
        self._services.blobs.publish(_container_of(asset), home_path(asset), artifact)

    def register(
        self,
        source: JobHandle | JobOutputReference | StoredPath | str | Path,
        *,
        name: str,
        version: str | None = None,
        output: str | None = None,
        folder_type: FolderType | None = None,
        description: str = "",
        tags: Mapping[str, str] | None = None,
    ) -> Asset:
        """Register a job's output (default `mlflow_model_folder`), a folder, or a datastore's path as a version of a model.

        folder_type: by default an MLflow model where there is an `MLmodel`, else a custom one. Raises `Conflict` when that
        version exists or the job hasn't completed, `NotFound` when the job has no such output, and `InvalidParameter` for an
        output of a folder, or for something called an MLflow model that has no `MLmodel`.
        """
        artifact, properties, detected = self._files_of(source, output)
        if folder_type is FolderType.MLFLOW_MODEL and detected is not folder_type:
            raise InvalidParameter(f"Model {name} is to be an mlflow_model, but {source} has no file MLmodel.")
        asset = Asset(
            key=AssetKey(WORKSPACE_SCOPE, AssetType.MODEL, name, version or self._next_version(name)),
            folder_type=folder_type or detected,
            artifact=artifact,
            description=description,
            tags=dict(tags or {}),
            properties=properties,
            created_by=self._services.user,
            created_at=datetime.now(UTC),
        )
        self._services.records.assets.add(asset)
        return asset

    def register_from(self, request: ModelRequest, name: str, version: str) -> Asset:
        """Register what a request describes; of a version that exists, what may change is changed.

        Raises `Conflict` for other files under the name of a version that exists.
        """
        versions = self._services.records.assets.list(
            scope=WORKSPACE_SCOPE, type=AssetType.MODEL, name=name, with_archived=True
        )
        known = next((asset for asset in versions if asset.version == version), None)
        if known is None:
            model = self.register(request.source, name=name, version=version, folder_type=request.folder_type)
            facts = {"source": source_facts(request.source)}
        elif _is_of(known, request.source):
            model, facts = known, {}
        else:
            raise taken(known)
        changed = dataclasses.replace(
            model,
            description=request.description,
            tags=request.tags,
            properties={**model.properties, **facts, "user_properties": dict(request.properties)},
            is_archived=request.is_archived if known else model.is_archived,
            echoes=request.echoes,
        )
        self._services.records.assets.update(changed)
        return changed

    def download(self, reference: str, to: str | Path) -> Path:
        """Write a registered model, or one on offer, as plain files under `to`; return the folder."""
        folder = Path(to)
        if folder.exists() and any(folder.iterdir()):
            raise Conflict(f"{folder} isn't empty. Name a new folder.")
        asset = None if is_repository(reference) else self._sources.get(reference)
        artifact = asset.artifact if asset else None
        if artifact is None:
            job = self.import_(reference).wait()
            artifact = job.output_artifact("model")
        self._services.artifacts.checkout(artifact, folder, is_writable=True)
        return folder

    def mirror(self, repository: str, folder: str | Path) -> Asset:
        """Name the folder where the hub's `org/name` is found from now on."""
        return set_mirror(self._services, AssetType.MODEL, repository, Path(folder))

    def archive(self, reference: str, is_archived: bool = True) -> Asset:
        """Hide a registered version from lists, or show it again."""
        asset = dataclasses.replace(self._own(reference), is_archived=is_archived)
        self._services.records.assets.update(asset)
        return asset

    def delete(self, reference: str) -> int:
        """Delete a registered version and free the bytes that nothing else holds (`holders` says what does); return how many.

        Raises `Conflict` when a deployment serves it.
        """
        asset = self._own(reference)
        served = [d for d in self._services.records.deployments.list() if d.model == str(asset.key)]
        if served:
            where = ", ".join(f"{d.endpoint}/{d.name}" for d in served)
            raise Conflict(f"Model {asset.key} is served by {where}. Delete the endpoint first.")
        self._services.records.assets.delete(asset.key)
        path = home_path(asset)
        path_artifacts = self._services.blobs.withdraw(_container_of(asset), path) if path else set[str]()
        return free(self._services, named_artifacts(asset) | path_artifacts, asset.created_at)

    def _own(self, reference: str) -> Asset:
        asset = self._sources.get(reference)
        if asset.artifact is None:
            raise Conflict(f"{asset.key} belongs to the catalogue; only registered models can be changed.")
        return asset

    def _next_version(self, name: str) -> str:
        versions = self._services.records.assets.list(
            scope=WORKSPACE_SCOPE, type=AssetType.MODEL, name=name, with_archived=True
        )
        return next_version(asset.version for asset in versions)

    def _files_of(
        self, source: JobHandle | JobOutputReference | StoredPath | str | Path, output: str | None
    ) -> tuple[str, dict[str, Any], FolderType]:
        """Return the hash of a source's files, what is known of where they come from, and whether they are an MLflow model."""
        if isinstance(source, Path) or (isinstance(source, str) and Path(source).is_dir()):
            return self._put_folder(Path(source), output)
        place = parse_reference(source) if isinstance(source, str) else source
        if isinstance(place, StoredPath):
            return self._take_blobs(place)
        return self._take_output(_output_of(source, output))

    def _put_folder(self, folder: Path, output: str | None) -> tuple[str, dict[str, Any], FolderType]:
        """Store a folder; return its hash, where it was, and whether it is an MLflow model."""
        if output is not None:
            raise InvalidParameter(
                f"output is {output}, but {folder} is a folder, and only a job has outputs. Leave output out."
            )
        artifact = self._services.artifacts.put(folder)
        return artifact, {"folder": str(folder.absolute())}, self._kind_of(artifact)

    def _take_blobs(self, path: StoredPath) -> tuple[str, dict[str, Any], FolderType]:
        """Return the hash of what was uploaded to a datastore's path, where it was, and whether it is an MLflow model."""
        if path.datastore != HOME_DATASTORE:
            raise NotFound(f"The model lies in the datastore '{path.datastore}'. There is '{HOME_DATASTORE}'.")
        artifact = self._services.blobs.artifact(HOME_CONTAINER, path.path)
        return artifact, {"uploaded": path.path}, self._kind_of(artifact)

    def _take_output(self, reference: JobOutputReference) -> tuple[str, dict[str, Any], FolderType]:
        """Return the hash of a completed job's or step's output, its lineage, and whether it is an MLflow model."""
        handle, step = self._jobs.find(reference.job)
        job = handle.job
        if not (step.status.is_done if step else job.status is JobStatus.COMPLETED):
            raise Conflict(
                f"Job {reference.job} is {(step or job).status}; only a completed job's output can be registered. "
                f"`mafunzo job show {job.name}` says how it stands."
            )
        artifact = handle.output_artifact(reference.output, reference.path, step.name if step else None)
        producer = step or handle.best_trial
        return artifact, facts_of_job(self._services, job, reference.output, producer), self._kind_of(artifact)

    def _kind_of(self, artifact: str) -> FolderType:
        is_mlflow = any(file.path == "MLmodel" for file in self._services.artifacts.manifest(artifact))
        return FolderType.MLFLOW_MODEL if is_mlflow else FolderType.CUSTOM_MODEL

    def get(self, reference: str) -> Asset:
        """Return one version of a model: registered, or on offer; raises `NotFound` with near names."""
        return self._sources.get(reference)

    def on_offer(self, name: str | None = None) -> Assets:
        """Return the catalogue's models, or the versions of one, its default first."""
        return self._sources.on_offer(name)

    def source(self, reference: str | Path | Asset) -> ModelSource:
        """Return how a job takes `reference` as its base model."""
        return self._sources.source(reference)

    def made_by(self, job: str) -> tuple[Asset, ...]:
        """Return the registered models, archived ones too, that came from a job."""
        return models_made_by(self._services, job)

    def holders(self, artifact: str) -> Holders:
        """Return which jobs and registered models name the bytes of an artifact, so that they stay on the disk."""
        return holders_of(self._services, artifact)


def _container_of(asset: Asset) -> str:
    return REGISTRY_CONTAINER if asset.key.scope == REGISTRY_SCOPE else HOME_CONTAINER


def _is_of(asset: Asset, source: JobOutputReference | StoredPath) -> bool:
    """Return whether a model came from a place, or is shown there."""
    is_source = asset.properties.get("source") == source_facts(source)
    return is_source or source == StoredPath(HOME_DATASTORE, home_path(asset))


def _output_of(
    source: JobHandle | JobOutputReference | str | Path | StoredPath, output: str | None
) -> JobOutputReference:
    if isinstance(source, JobHandle):
        return JobOutputReference(source.name, output or MLFLOW_OUTPUT)
    reference = parse_reference(source) if isinstance(source, str) else source
    if not isinstance(reference, JobOutputReference):
        return JobOutputReference(str(source), output or MLFLOW_OUTPUT)
    if output not in (None, reference.output):
        raise InvalidParameter(f"{source} names the output {reference.output}, but output is {output}. Keep one.")
    return reference
