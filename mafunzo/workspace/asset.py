"""Models: those on offer in the catalogue, those that jobs made, and the mirrors in which a hub's are found."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from mafunzo.entities.asset import REGISTRY_SCOPE, WORKSPACE_SCOPE, Asset, AssetKey, AssetType, FolderType, next_version
from mafunzo.entities.job import ArtifactInput, Job, JobStatus, Step
from mafunzo.entities.model_card import ModelCard
from mafunzo.errors import Conflict, InvalidFile, InvalidParameter, NotFound
from mafunzo.store import catalog
from mafunzo.store.codec import encode
from mafunzo.store.record import ARTIFACT_HASH
from mafunzo.wire.azureml.asset import SAID, USER_PROPERTIES, ModelRequest, model_path, model_uri
from mafunzo.wire.azureml.envelope import CONTAINER, DATASTORE, REGISTRY_CONTAINER
from mafunzo.wire.azureml.reference import (
    AssetReference,
    JobOutputReference,
    StoredPath,
    parse_reference,
)
from mafunzo.workspace.version import referenced, scope_of, taken

if TYPE_CHECKING:
    from mafunzo.workspace.job import JobHandle
    from mafunzo.workspace.workspace import Workspace

MIRROR_SCOPE = "registry:mirror"
Assets = list[Asset]  # the class below has a verb called list
MLFLOW_OUTPUT = "mlflow_model_folder"


@dataclass(frozen=True)
class Upload:
    """A path input whose bytes go into the store only when the whole request is known to be good."""

    name: str
    put: Callable[[], str]

    def artifact(self) -> ArtifactInput:
        """Store the bytes."""
        return ArtifactInput(self.put(), self.name)


@dataclass(frozen=True)
class ModelSource:
    """A model as a job's inputs, and the defaults and ranges that its card brings."""

    name: str
    inputs: Mapping[str, Upload | ArtifactInput | str]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Holders:
    """What names an artifact: jobs by name, registered models as `name:version`."""

    jobs: tuple[str, ...] = ()
    models: tuple[str, ...] = ()


class Models:
    """The verbs on models. A reference is `name`, `name:version`, Azure's `azureml://...`, `org/name` of a hub, or a folder."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace

    def list(self, name: str | None = None, with_archived: bool = False) -> list[Asset]:
        """Return the registered models, newest first, then those on offer."""
        registered = self._workspace.records.list_assets(
            scope=WORKSPACE_SCOPE, type=AssetType.MODEL, name=name, with_archived=with_archived
        )
        return [*registered, *self.on_offer(name)]

    def on_offer(self, name: str | None = None) -> Assets:
        """Return the catalogue's models, or the versions of one, its default first."""
        cards = [card for card in catalog.model_cards() if name in (None, card.name)]
        return [_offered(card) for card in sorted(cards, key=lambda card: not card.is_default)]

    def get(self, reference: str) -> Asset:
        """Return one version of a model: registered, or on offer; raises `NotFound` with near names."""
        parsed = parse_reference(reference)
        if isinstance(parsed, AssetReference):
            if found := self._registered(parsed):
                return found
            return _offered(catalog.model_card(parsed.name, parsed.version))
        if isinstance(parsed, JobOutputReference):
            raise InvalidParameter(f"{reference} is the output of a job: register it, then name the model.")
        raise NotFound(f"No model is called '{reference}'. `mafunzo model list` shows all.")

    def by_id(self, id: str) -> Asset:
        """Return the version that an id of Azure's wire names (`.../models/<name>/versions/<version>`), or a reference."""
        parsed = parse_reference(id)
        if not isinstance(parsed, AssetReference) or parsed.kind != "models" or parsed.registry:
            return self.get(id)
        return referenced(self._workspace, AssetType.MODEL, parsed)

    def source(self, reference: str | Path | Asset) -> ModelSource:
        """Return how a job takes `reference` as its base model."""
        if isinstance(reference, Asset):
            reference = f"{reference.name}:{reference.version}"
        folder = Path(reference).expanduser()
        if isinstance(reference, Path) or folder.is_dir():
            return self._source_folder(folder)
        if "/" in reference and not reference.startswith("azureml:"):
            return self._source_hub(reference)
        asset = self.get(reference)
        if asset.artifact is None:
            return self._source_card(catalog.model_card(asset.name, asset.version))
        return self._source_registered(asset, asset.artifact)

    def import_(self, reference: str) -> JobHandle:
        """Fetch a model from where it comes and convert it once; later jobs take it from the cache."""
        return self._workspace.jobs.import_model(reference)

    def import_once(self, reference: str) -> JobHandle:
        """Return the job that is importing a model, or begin one."""
        for job in self._workspace.jobs.list((JobStatus.QUEUED, JobStatus.RUNNING)):
            if job.display_name == import_title(reference):
                return self._workspace.jobs.get(job.name)
        return self.import_(reference)

    def show(self, asset: Asset, artifact: str) -> None:
        """Show a model's files as blobs, where its address over Azure's wire says that they are."""
        self._workspace.blobs.publish(_container_of(asset), model_path(asset), artifact)

    def register(
        self,
        source: JobHandle | str | Path,
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
        if isinstance(source, Path) or (isinstance(source, str) and Path(source).is_dir()):
            artifact, properties, found = self._put_folder(Path(source), output)
        elif isinstance(source, str) and isinstance(path := parse_reference(source), StoredPath):
            artifact, properties, found = self._take_blobs(path)
        else:
            artifact, properties, found = self._take_output(_output_of(source, output))
        if folder_type is FolderType.MLFLOW_MODEL and found is not folder_type:
            raise InvalidParameter(f"Model {name} is to be an mlflow_model, but {source} has no file MLmodel.")
        asset = Asset(
            key=AssetKey(WORKSPACE_SCOPE, AssetType.MODEL, name, version or self._next_version(name)),
            folder_type=folder_type or found,
            artifact=artifact,
            description=description,
            tags=dict(tags or {}),
            properties=properties,
            created_by=self._workspace.user,
            created_at=datetime.now(UTC),
        )
        self._workspace.records.add_asset(asset)
        return asset

    def register_from(self, asked: ModelRequest, name: str, version: str) -> Asset:
        """Register what Azure's wire asks for; an archived or changed version that exists is updated.

        Raises `Conflict` for other files under the name of a version that exists.
        """
        known = {
            asset.version: asset
            for asset in self._workspace.records.list_assets(
                scope=WORKSPACE_SCOPE, type=AssetType.MODEL, name=name, with_archived=True
            )
        }
        if version in known:
            if asked.path not in (known[version].properties.get("path"), model_uri(known[version])):
                raise taken(known[version])
            changed = dataclasses.replace(
                known[version],
                description=asked.description,
                tags=asked.tags,
                properties={**known[version].properties, USER_PROPERTIES: asked.properties, SAID: asked.said},
                is_archived=asked.is_archived,
            )
            self._workspace.records.update_asset(changed)
            return changed
        made = self.register(
            asked.path,
            name=name,
            version=version,
            folder_type=asked.folder_type,
            description=asked.description,
            tags=asked.tags,
        )
        facts = {"path": asked.path, USER_PROPERTIES: asked.properties, SAID: asked.said}
        kept = dataclasses.replace(made, properties={**made.properties, **facts})
        self._workspace.records.update_asset(kept)
        return kept

    def download(self, reference: str, to: str | Path) -> Path:
        """Write a registered model, or one on offer, as plain files under `to`; return the folder."""
        folder = Path(to)
        if folder.exists() and any(folder.iterdir()):
            raise Conflict(f"{folder} isn't empty. Name a new folder.")
        is_hub = "/" in reference and not reference.startswith("azureml:")
        asset = None if is_hub else self.get(reference)
        artifact = asset.artifact if asset else None
        if artifact is None:
            job = self.import_(reference).wait()
            artifact = job.output_artifact("model")
        self._workspace.artifacts.checkout(artifact, folder, is_writable=True)
        return folder

    def mirror(self, repository: str, folder: str | Path) -> Asset:
        """Name the folder where the hub's `org/name` is found from now on."""
        return set_mirror(self._workspace, AssetType.MODEL, repository, Path(folder))

    def archive(self, reference: str, is_archived: bool = True) -> Asset:
        """Hide a registered version from lists, or show it again."""
        asset = dataclasses.replace(self._own(reference), is_archived=is_archived)
        self._workspace.records.update_asset(asset)
        return asset

    def delete(self, reference: str) -> int:
        """Delete a registered version and free the bytes that nothing else holds (`holders` says what does); return how many.

        Raises `Conflict` when a deployment serves it.
        """
        asset = self._own(reference)
        served = [d for d in self._workspace.records.list_deployments() if d.model == str(asset.key)]
        if served:
            where = ", ".join(f"{d.endpoint}/{d.name}" for d in served)
            raise Conflict(f"Model {asset.key} is served by {where}. Delete the endpoint first.")
        self._workspace.records.delete_asset(asset.key)
        shown = self._workspace.blobs.withdraw(_container_of(asset), model_path(asset))
        return free(self._workspace, named_artifacts(asset) | shown, asset.created_at)

    def made_by(self, job: str) -> tuple[Asset, ...]:
        """Return the registered models, archived ones too, that came from a job."""
        models = self._workspace.records.list_assets(scope=WORKSPACE_SCOPE, type=AssetType.MODEL, with_archived=True)
        return tuple(asset for asset in models if asset.properties.get("job") == job)

    def holders(self, artifact: str) -> Holders:
        """Return which jobs and registered models name the bytes of an artifact, so that they stay on the disk."""
        records = self._workspace.records
        jobs = [
            job.name
            for job in records.list_jobs()
            if artifact in named_artifacts(job).union(*map(named_artifacts, records.list_steps(job.name)))
        ]
        models = records.list_assets(type=AssetType.MODEL, with_archived=True)
        return Holders(tuple(jobs), tuple(str(m.key) for m in models if artifact in named_artifacts(m)))

    def _own(self, reference: str) -> Asset:
        asset = self.get(reference)
        if asset.artifact is None:
            raise Conflict(f"{asset.key} belongs to the catalogue; only registered models can be changed.")
        return asset

    def _registered(self, wanted: AssetReference) -> Asset | None:
        records, scope = self._workspace.records, scope_of(wanted)
        versions = records.list_assets(
            scope=scope, type=AssetType.MODEL, name=wanted.name, with_archived=wanted.version is not None
        )
        if not versions:
            return None
        if wanted.version is None:
            return records.latest_asset(scope, AssetType.MODEL, wanted.name)
        for asset in versions:
            if asset.version == wanted.version:
                return asset
        known = ", ".join(asset.version for asset in versions)
        raise NotFound(f"Model {wanted.name} has no version {wanted.version}. There are: {known}.")

    def _next_version(self, name: str) -> str:
        versions = self._workspace.records.list_assets(
            scope=WORKSPACE_SCOPE, type=AssetType.MODEL, name=name, with_archived=True
        )
        return next_version(asset.version for asset in versions)

    def _put_folder(self, folder: Path, output: str | None) -> tuple[str, dict[str, Any], FolderType]:
        """Store a folder; return its hash, where it was, and whether it is an MLflow model."""
        if output is not None:
            raise InvalidParameter(
                f"output is {output}, but {folder} is a folder, and only a job has outputs. Leave output out."
            )
        artifact = self._workspace.artifacts.put(folder)
        return artifact, {"folder": str(folder.absolute())}, self._kind_of(artifact)

    def _take_blobs(self, path: StoredPath) -> tuple[str, dict[str, Any], FolderType]:
        """Return the hash of what was uploaded to a datastore's path, where it was, and whether it is an MLflow model."""
        if path.datastore != DATASTORE:
            raise NotFound(f"The model lies in the datastore '{path.datastore}'. There is '{DATASTORE}'.")
        artifact = self._workspace.blobs.artifact(CONTAINER, path.path)
        return artifact, {"uploaded": path.path}, self._kind_of(artifact)

    def _take_output(self, wanted: JobOutputReference) -> tuple[str, dict[str, Any], FolderType]:
        """Return the hash of a completed job's or step's output, its lineage, and whether it is an MLflow model."""
        from mafunzo.workspace.lineage import facts_of_job

        handle, step = self._workspace.jobs.find(wanted.job)
        job = handle.job
        if not (step.status.is_done if step else job.status is JobStatus.COMPLETED):
            raise Conflict(
                f"Job {wanted.job} is {(step or job).status}; only a completed job's output can be registered. "
                f"`mafunzo job show {job.name}` says how it stands."
            )
        artifact = handle.output_artifact(wanted.output, wanted.path, step.name if step else None)
        made_by = step or handle.best_trial
        return artifact, facts_of_job(self._workspace, job, wanted.output, made_by), self._kind_of(artifact)

    def _kind_of(self, artifact: str) -> FolderType:
        is_mlflow = any(file.path == "MLmodel" for file in self._workspace.artifacts.manifest(artifact))
        return FolderType.MLFLOW_MODEL if is_mlflow else FolderType.CUSTOM_MODEL

    def _source_registered(self, asset: Asset, artifact: str) -> ModelSource:
        inputs = {"mlflow_model_path": ArtifactInput(artifact, str(asset.key))}
        base = asset.properties.get("base_artifact")
        if base and asset.properties.get("is_adapter"):
            inputs["base_model_path"] = ArtifactInput(base, f"base of {asset.key}")
        return ModelSource(str(asset.key), inputs)

    def _source_card(self, card: ModelCard) -> ModelSource:
        repository = card.source.repo if card.source.kind == "hub" else None
        mirror = find_mirror(self._workspace, AssetType.MODEL, repository) if repository else None
        name = f"{card.name}:{card.version}"
        inputs = {"mlflow_model_path": Upload(name, lambda: self._put_card(card, mirror))}
        return ModelSource(name, inputs, card.defaults, card.ranges)

    def _source_hub(self, repository: str) -> ModelSource:
        for card in catalog.model_cards():
            if card.source.kind == "hub" and card.source.repo == repository:
                return self._source_card(card)
        mirror = find_mirror(self._workspace, AssetType.MODEL, repository)
        inputs = {"huggingface_id": repository} | ({"mirror": str(mirror)} if mirror else {})
        return ModelSource(repository, inputs)

    def _source_folder(self, folder: Path) -> ModelSource:
        if not folder.is_dir():
            raise InvalidFile(f"{folder} isn't a folder. Name a model, or a folder with config.json and safetensors.")
        upload = Upload(folder.name, lambda: self._workspace.artifacts.put(folder))
        if (folder / "MLmodel").exists():
            return ModelSource(folder.name, {"mlflow_model_path": upload})
        if not any((folder / name).exists() for name in ("config.json", "adapter_config.json")):
            raise InvalidFile(f"{folder} has neither config.json nor MLmodel: it isn't a model. Name its root folder.")
        return ModelSource(folder.name, {"pytorch_model_path": upload})

    def _put_card(self, card: ModelCard, mirror: Path | None) -> str:
        """Store a model by reference: its card, and where to look for it. The mirror's fingerprint makes a changed one new."""
        with tempfile.TemporaryDirectory(prefix="mafunzo-card-") as scratch:
            folder = Path(scratch) / "card"
            folder.mkdir()
            body = card.model_dump(mode="json", exclude_none=True)
            (folder / "card.yml").write_text(yaml.safe_dump(body, sort_keys=True, allow_unicode=True), encoding="utf-8")
            if mirror is not None:
                (folder / "mirror.txt").write_text(f"{mirror}\n", encoding="utf-8")
                (folder / "mirror_fingerprint.txt").write_text(_fingerprint(mirror), encoding="utf-8")
            return self._workspace.artifacts.put(folder)


def import_title(reference: str) -> str:
    """Return what a job is called that imports a model."""
    return f"import {reference}"


def named_artifacts(entity: Asset | Job | Step) -> set[str]:
    """Return every artifact hash that stands anywhere in an entity."""
    return set(ARTIFACT_HASH.findall(json.dumps(encode(entity))))


def free(workspace: Workspace, artifacts: Iterable[str], named_until: datetime | None) -> int:
    """Delete what only deleted records named, at once; return the bytes freed, with those of a collection.

    `artifacts` are the hashes that the deleted records named, the last of them at `named_until`. One that was put again
    since then may be about to be named by a new record: the grace of `Artifacts.collect` protects it.
    """
    unused = {found for found in artifacts if workspace.artifacts.exists(found)}
    unused -= workspace.records.referenced_artifacts()
    freed = 0
    for artifact in unused:
        put_at = workspace.artifacts.manifest_path(artifact).stat().st_mtime
        if named_until is not None and put_at <= named_until.timestamp():
            freed += workspace.artifacts.delete(artifact)
    return freed + workspace.collect()


def set_mirror(workspace: Workspace, kind: AssetType, repository: str, folder: Path) -> Asset:
    """Remember where the hub's `org/name` is found; raises `InvalidFile` when the folder isn't there."""
    if not folder.is_dir():
        raise InvalidFile(f"{folder} isn't a folder. Name the folder that holds the files of {repository}.")
    if "/" not in repository:
        raise InvalidParameter(f"'{repository}' isn't the name of a repository, expected org/name.")
    asset = Asset(
        key=AssetKey(MIRROR_SCOPE, kind, repository, "1"),
        folder_type=FolderType.URI_FOLDER,
        properties={"folder": str(folder.absolute())},
        created_by=workspace.user,
        created_at=datetime.now(UTC),
    )
    if workspace.records.list_assets(scope=MIRROR_SCOPE, type=kind, name=repository):
        workspace.records.update_asset(asset)
    else:
        workspace.records.add_asset(asset)
    return asset


def find_mirror(workspace: Workspace, kind: AssetType, repository: str) -> Path | None:
    """Return the folder that was named for `org/name`, or None."""
    found = workspace.records.list_assets(scope=MIRROR_SCOPE, type=kind, name=repository)
    return Path(found[0].properties["folder"]) if found else None


def _offered(card: ModelCard) -> Asset:
    body = card.model_dump(mode="json", exclude_none=True)
    return Asset(
        key=AssetKey(REGISTRY_SCOPE, AssetType.MODEL, card.name, card.version),
        folder_type=FolderType.MLFLOW_MODEL,
        description=card.description,
        tags={"licence": card.licence, "context_length": str(card.context_length)},
        properties={"card": body},
        created_by="catalogue",
    )


def _container_of(asset: Asset) -> str:
    return REGISTRY_CONTAINER if asset.key.scope == REGISTRY_SCOPE else CONTAINER


def _output_of(source: JobHandle | str | Path, output: str | None) -> JobOutputReference:
    if isinstance(source, str):
        parsed = parse_reference(source)
        if not isinstance(parsed, JobOutputReference):
            return JobOutputReference(source, output or MLFLOW_OUTPUT)
        if output not in (None, parsed.output):
            raise InvalidParameter(f"{source} names the output {parsed.output}, but output is {output}. Keep one.")
        return parsed
    assert not isinstance(source, Path)
    return JobOutputReference(source.name, output or MLFLOW_OUTPUT)


def _fingerprint(folder: Path) -> str:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return "".join(f"{f.relative_to(folder)} {f.stat().st_size} {f.stat().st_mtime_ns}\n" for f in files)
