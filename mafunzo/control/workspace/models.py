"""Models: those on offer in the catalogue, and those that jobs made or that were uploaded."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mafunzo.control.workspace.export import export
from mafunzo.control.workspace.job_handle import JobHandle
from mafunzo.control.workspace.jobs import Jobs
from mafunzo.control.workspace.mirror import set_mirror
from mafunzo.control.workspace.model_source import IMPORT_STEP, ModelSources, import_title, is_repository
from mafunzo.control.workspace.retention import Holders, free, holders_of, named_artifacts
from mafunzo.control.workspace.services import Services
from mafunzo.control.workspace.versions import followed_by, taken
from mafunzo.entities.asset import REGISTRY_SCOPE, Asset, AssetType, FolderType, home_path
from mafunzo.entities.asset_request import ModelRequest
from mafunzo.entities.blob import HOME_CONTAINER, HOME_DATASTORE, REGISTRY_CONTAINER
from mafunzo.entities.job import JobStatus
from mafunzo.entities.model_form import ModelForm
from mafunzo.entities.reference import JobOutputReference, LocalPath, StoredPath, parse_reference
from mafunzo.errors import Conflict, InvalidParameter, NotFound

Assets = list[Asset]  # the class below has a verb called list
MODEL_OUTPUT = "mlflow_model_folder"


class Models(ModelSources):
    """The verbs on models. A reference is `name`, `name:version`, an address of a way in, `org/name` of a hub, or a folder."""

    def __init__(self, services: Services) -> None:
        super().__init__(services)
        self._jobs = Jobs(services)

    def list(
        self,
        name: str | None = None,
        with_archived: bool = False,
        limit: int | None = None,
        before: str | None = None,
    ) -> list[Asset]:
        """Return the registered models, newest first, then those on offer: all, or `limit` after the one called `before`.

        Raises `NotFound` where there is no such version.
        """
        return followed_by(
            lambda: self.on_offer(name),
            lambda asset: str(asset.key),
            lambda last: self._versions.page(limit, last, name, with_archived),
            limit,
            before,
        )

    def import_(self, reference: str) -> JobHandle:
        """Fetch a model from where it comes and convert it once; later jobs take it from the cache."""
        return self._jobs.import_model(reference)

    def import_once(self, reference: str) -> JobHandle:
        """Return the job that is importing a model, or begin one."""
        titles = [import_title(reference)]
        for job in self._services.records.jobs.list((JobStatus.QUEUED, JobStatus.RUNNING), display_names=titles):
            return self._jobs.get(job.name)
        return self.import_(reference)

    def artifact_of(self, asset: Asset) -> str | None:
        """Return the hash of a model's files: its own, or of what a job fetched of one on offer. None where none has yet."""
        if asset.artifact is not None:
            return asset.artifact
        titles = {import_title(str(asset.key))}
        if self.get(asset.name).key == asset.key:  # what the name alone stands for
            titles.add(import_title(asset.name))
        for job in self._services.records.jobs.list((JobStatus.COMPLETED,), display_names=titles):
            if not _imports(handle := self._jobs.get(job.name)):
                continue
            if (artifact := handle.written().get("model")) is not None:  # else it was pruned
                return artifact
        return None

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
        description: str = "",
        tags: Mapping[str, str] | None = None,
    ) -> Asset:
        """Register a job's output (default `mlflow_model_folder`), a folder, or a datastore's path as a version of a model.

        version: the next number by default. It is an MLflow model where there is an `MLmodel`, else a custom one. Raises as
        `create`, `Conflict` when the version exists, and `InvalidParameter` for an output of a folder.
        """
        if version is not None and (known := self._versions.find(name, version)):
            raise Conflict(f"Model {known.key} exists already. A version never changes; choose another one.")
        request = ModelRequest(source=_place_of(source, output), description=description, tags=dict(tags or {}))
        return self.create(name, version or self._versions.next(name), request)

    def create(self, name: str, version: str, request: ModelRequest) -> Asset:
        """Register a version, or change what may change of one that exists.

        Raises `VersionTaken` for files from elsewhere under the name of a version that exists, `Conflict` when the job hasn't
        completed, `NotFound` when it has no such output, and `InvalidParameter` for something called an MLflow model that has
        no `MLmodel`.
        """
        known = self._versions.find(name, version)
        if known is None:
            artifact, facts = self._files_of(request.source)
            is_mlflow = any(file.path == "MLmodel" for file in self._services.artifacts.manifest(artifact))
            if request.folder_type is FolderType.MLFLOW_MODEL and not is_mlflow:
                raise InvalidParameter(
                    f"Model {name} is to be an mlflow_model, but {request.source} has no file MLmodel."
                )
            detected = FolderType.MLFLOW_MODEL if is_mlflow else FolderType.CUSTOM_MODEL
            facts, folder_type = facts | _origin(request.source), request.folder_type or detected
        elif _is_of(known, request.source):
            artifact, facts, folder_type = known.artifact or "", dict(known.properties), known.folder_type
        else:
            raise taken(known)
        properties = facts | {"user_properties": dict(request.properties)}
        return self._versions.put(name, version, request, properties, artifact, folder_type, is_replaced=True)

    def version_with(self, name: str, source: JobOutputReference | StoredPath | LocalPath) -> str:
        """Return the version of a name that has a source's files already, else the next number."""
        artifact, _ = self._files_of(source)
        same = (asset.version for asset in self._versions.list(name) if asset.artifact == artifact)
        return next(same, self._versions.next(name))

    def download(self, reference: str, to: str | Path) -> Path:
        """Write a registered model, or one on offer, as plain files under `to`; return the folder."""
        folder = Path(to)
        if folder.exists() and any(folder.iterdir()):
            raise Conflict(f"{folder} isn't empty. Name a new folder.")
        artifact = self._fetched_artifact(reference, self._known(reference))
        self._services.artifacts.require_intact(artifact)
        self._services.artifacts.checkout(artifact, folder, is_writable=True)
        return folder

    def export(self, reference: str, form: ModelForm | str, to: str | Path) -> Path:
        """Write a registered model, or one on offer, as other programs read it, under the new folder `to`; return the folder.

        What was written is read again and must compute as the model does. Raises `NotSupported` for what has no such form.
        """
        if form not in list(ModelForm):
            raise InvalidParameter(f"The form is '{form}', expected one of {', '.join(ModelForm)}.", param="to")
        asset = self._known(reference)
        artifact = self._fetched_artifact(reference, asset)
        base = asset.properties.get("base_artifact") if asset else None
        name = (asset.name if asset else reference.rpartition("/")[2]) or "model"
        return export(self._services, name, ModelForm(form), artifact, base, Path(to))

    def _known(self, reference: str) -> Asset | None:
        return None if is_repository(reference) else self.get(reference)

    def _fetched_artifact(self, reference: str, asset: Asset | None) -> str:
        """Return the hash of a model's files, which are fetched if need be."""
        if asset is not None and asset.artifact is not None:
            return asset.artifact
        return str(self.import_(reference).wait().output_artifact("model"))

    def mirror(self, repository: str, folder: str | Path) -> Asset:
        """Name the folder where the hub's `org/name` is found from now on."""
        return set_mirror(self._services, AssetType.MODEL, repository, Path(folder))

    def archive(self, reference: str, is_archived: bool = True) -> Asset:
        """Hide a registered version from lists, or show it again."""
        return self._versions.change(self._own(reference), is_archived=is_archived)

    def delete(self, reference: str) -> int:
        """Delete a registered version and free the bytes that nothing else holds (`holders` says what does); return how many.

        Raises `Conflict` when a deployment serves it, or one of a batch endpoint names it.
        """
        asset = self._own(reference)
        served = served_versions(self._services, {str(asset.key)})
        if served:
            raise Conflict(f"Model {asset.key} is served by {', '.join(served)}. Delete the endpoint first.")
        self._services.records.assets.delete(asset.key)
        path = home_path(asset)
        path_artifacts = self._services.blobs.withdraw(_container_of(asset), path) if path else set[str]()
        return free(self._services, named_artifacts(asset) | path_artifacts, asset.created_at)

    def _own(self, reference: str) -> Asset:
        asset = self.get(reference)
        if asset.artifact is None:
            raise Conflict(f"{asset.key} belongs to the catalogue; only registered models can be changed.")
        return asset

    def _files_of(self, source: JobOutputReference | StoredPath | LocalPath) -> tuple[str, dict[str, Any]]:
        """Return the hash of a source's files, stored now if they weren't yet, and what is known of where they come from."""
        match source:
            case LocalPath(path):
                return self._services.artifacts.put(Path(path)), {"folder": str(Path(path).absolute())}
            case StoredPath(datastore, path):
                if datastore != HOME_DATASTORE:
                    raise NotFound(f"The model lies in the datastore '{datastore}'. There is '{HOME_DATASTORE}'.")
                return self._services.blobs.artifact(HOME_CONTAINER, path), {"uploaded": path}
            case JobOutputReference(name, output, path):
                from mafunzo.control.workspace.lineage import facts_of_job  # it plans, which no list of models needs

                handle, step = self._jobs.find(name)
                job = handle.job
                if not (step.status.is_done if step else job.status is JobStatus.COMPLETED):
                    raise Conflict(
                        f"Job {name} is {(step or job).status}; only a completed job's output can be registered. "
                        f"`mafunzo job show {job.name}` says how it stands."
                    )
                artifact = handle.output_artifact(output, path, step.name if step else None)
                return artifact, facts_of_job(self._services, job, output, step or handle.best_trial)

    def holders(self, artifact: str) -> Holders:
        """Return which jobs and registered models name the bytes of an artifact, so that they stay on the disk."""
        return holders_of(self._services, artifact)


def _imports(handle: JobHandle) -> bool:
    """Return whether a job fetches a model, whatever it is called."""
    return [step.spec.component.partition(":")[0] for step in handle.steps] == [IMPORT_STEP]


def _container_of(asset: Asset) -> str:
    return REGISTRY_CONTAINER if asset.key.scope == REGISTRY_SCOPE else HOME_CONTAINER


def served_versions(services: Services, versions: Set[str]) -> dict[str, list[str]]:
    """Return by deployment, of batch endpoints too, which of some versions it serves; nothing of one that serves none."""
    records = services.records
    models = {f"{one.endpoint}/{one.name}": one.models for one in records.deployments.list()}
    models |= {
        f"batch endpoint {one.endpoint}/{one.name}": frozenset((one.model,)) for one in records.batch_deployments.list()
    }
    return {place: sorted(versions & served) for place, served in models.items() if versions & served}


def _origin(source: JobOutputReference | StoredPath | LocalPath) -> dict[str, Any]:
    """Return the fact by which a model is known again that comes from the same place; none of a folder, which may change."""
    return {} if isinstance(source, LocalPath) else {"source": asdict(source)}


def _is_of(asset: Asset, source: JobOutputReference | StoredPath | LocalPath) -> bool:
    """Return whether a model came from a place, or is shown there."""
    is_origin = "source" in asset.properties and _origin(source).get("source") == asset.properties["source"]
    return is_origin or source == StoredPath(HOME_DATASTORE, home_path(asset))


def _place_of(
    source: JobHandle | JobOutputReference | StoredPath | str | Path, output: str | None
) -> JobOutputReference | StoredPath | LocalPath:
    """Return where a model's files lie; raises `InvalidParameter` for an output of a folder, or of another output."""
    if isinstance(source, Path) or (isinstance(source, str) and Path(source).is_dir()):
        if output is not None:
            raise InvalidParameter(
                f"output is {output}, but {source} is a folder, and only a job has outputs. Leave output out."
            )
        return LocalPath(str(source))
    place = parse_reference(source) if isinstance(source, str) else source
    if isinstance(place, StoredPath):
        return place
    if not isinstance(place, JobOutputReference):
        return JobOutputReference(source.name if isinstance(source, JobHandle) else str(source), output or MODEL_OUTPUT)
    if output not in (None, place.output):
        raise InvalidParameter(f"{source} names the output {place.output}, but output is {output}. Keep one.")
    return place
