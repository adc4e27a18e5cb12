"""MLflow's model registry, answered from the workspace's models: one registered either way is the same Model.

MLflow keeps prompts in its registry too. A prompt, and any name that isn't one of our models, is left to MLflow itself.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mafunzo.entities.asset import Asset
from mafunzo.entities.registered_model import RegisteredModel
from mafunzo.errors import InvalidParameter, MafunzoError, NotFound, NotSupported
from mafunzo.tracking.step_environment import job_run_id
from mafunzo.wire.mlflow import registry as wire
from mafunzo.wire.mlflow.filter import parse_filter, select
from mafunzo.workspace import Workspace
from mafunzo.workspace.registered_model import RegisteredModels

Given = Mapping[str, Any]
Answer = dict[str, Any]
MODEL_KEYS = ("name", "creation_timestamp", "last_updated_timestamp")
VERSION_KEYS = (*MODEL_KEYS, "version_number", "run_id", "source_path")


class Registry:
    """MLflow's registry over one workspace. `artifacts` is the folder of what MLflow's runs have logged."""

    def __init__(self, workspace: Workspace, artifacts: Path) -> None:
        self._workspace = workspace
        self._names = RegisteredModels(workspace.services)
        self._artifacts = artifacts
        self._verbs: Mapping[tuple[str, str], Callable[[Given], Answer]] = {
            ("POST", "registered-models/create"): self._create_model,
            ("GET", "registered-models/get"): self._get_model,
            ("GET", "registered-models/search"): self._search_models,
            ("PATCH", "registered-models/update"): self._update_model,
            ("POST", "registered-models/rename"): self._rename_model,
            ("DELETE", "registered-models/delete"): self._delete_model,
            ("GET", "registered-models/get-latest-versions"): self._latest_versions,
            ("POST", "registered-models/get-latest-versions"): self._latest_versions,
            ("POST", "registered-models/set-tag"): self._set_model_tag,
            ("DELETE", "registered-models/delete-tag"): self._delete_model_tag,
            ("POST", "registered-models/alias"): self._set_alias,
            ("GET", "registered-models/alias"): self._get_by_alias,
            ("DELETE", "registered-models/alias"): self._delete_alias,
            ("POST", "model-versions/create"): self._create_version,
            ("GET", "model-versions/get"): self._get_version,
            ("GET", "model-versions/search"): self._search_versions,
            ("GET", "model-versions/get-download-uri"): self._download_uri,
            ("PATCH", "model-versions/update"): self._update_version,
            ("POST", "model-versions/transition-stage"): self._change_stage,
            ("DELETE", "model-versions/delete"): self._delete_version,
            ("POST", "model-versions/set-tag"): self._set_version_tag,
            ("DELETE", "model-versions/delete-tag"): self._delete_version_tag,
        }

    def acting_as(self, user: str) -> "Registry":
        """Return this registry as it is for `user`: what it makes carries their name."""
        return Registry(self._workspace.acting_as(user), self._artifacts)

    def answer(self, method: str, operation: str, given: Given) -> tuple[int, Answer] | None:
        """Return the status and body of an answer; None for what is MLflow's own to answer."""
        verb = self._verbs.get((method, operation))
        if verb is None or self._is_mlflows(operation, given):
            return None
        try:
            return 200, verb(given)
        except MafunzoError as error:
            return wire.error_body(error, is_creation=operation.endswith("/create"))

    def list_files(self, path: str) -> Answer:
        """List what is directly in a folder of a version's files; `path` is below `registered-models/`."""
        asset, inner = self._locate(path)
        prefix = f"{inner}/" if inner else ""
        found: dict[str, Answer] = {}
        for file in self._workspace.artifacts.manifest(_artifact_of(asset)):
            if file.path.startswith(prefix):
                name, is_folder, _ = file.path.removeprefix(prefix).partition("/")
                found[name] = {"path": name, "is_dir": True} if is_folder else _file_body(name, file.size)
        return {"files": list(found.values())}

    def open_file(self, path: str) -> Path:
        """Return a file of a version, to be read only; raises `NotFound`."""
        asset, inner = self._locate(path)
        return self._workspace.artifacts.open_file(_artifact_of(asset), inner)

    def _is_mlflows(self, operation: str, given: Given) -> bool:
        if operation == "registered-models/create":
            return wire.tags_of(given).get(wire.PROMPT_TAG, "").lower() == "true"
        if operation.endswith("/search"):
            return self._searches_prompts(str(given.get("filter") or ""))
        return self._names.find(_text(given, "name")) is None

    def _searches_prompts(self, text: str) -> bool:
        try:
            clauses = parse_filter(text, VERSION_KEYS)
        except InvalidParameter:  # told where the search is made
            return False
        asked = {clause.key: clause.values[0] for clause in clauses if clause.operator == "="}
        if asked.get(f"tags.{wire.PROMPT_TAG}", "").lower() == "true":
            return True
        return "name" in asked and self._names.find(asked["name"]) is None

    # Registered models

    def _create_model(self, given: Given) -> Answer:
        name, description = _text(given, "name"), str(given.get("description") or "")
        return _model_answer(self._names.create(name, description, wire.tags_of(given)))

    def _get_model(self, given: Given) -> Answer:
        return _model_answer(self._names.get(_text(given, "name")))

    def _search_models(self, given: Given) -> Answer:
        found, token = select(self._names.list(), wire.model_facts, MODEL_KEYS, given)
        return {"registered_models": [wire.registered_model_body(model) for model in found], "next_page_token": token}

    def _update_model(self, given: Given) -> Answer:
        return _model_answer(self._names.update(_text(given, "name"), str(given.get("description") or "")))

    def _rename_model(self, given: Given) -> Answer:
        raise NotSupported(
            f"Model '{given.get('name')}' can't be renamed: endpoints and lineage name its versions. Register it anew."
        )

    def _delete_model(self, given: Given) -> Answer:
        self._names.delete(_text(given, "name"))
        return {}

    def _latest_versions(self, given: Given) -> Answer:
        model = self._names.get(_text(given, "name"))
        stages = given.get("stages") or [wire.UNSTAGED]
        asked = [stages] if isinstance(stages, str) else stages
        newest: dict[str, Answer] = {}
        for version in reversed(model.versions):
            body = wire.model_version_body(version, model.labels)
            newest[body["current_stage"]] = body
        return {"model_versions": [newest[stage] for stage in asked if stage in newest]}

    def _set_model_tag(self, given: Given) -> Answer:
        model = self._names.get(_text(given, "name"))
        self._names.update(model.name, tags={**model.tags, _text(given, "key"): str(given.get("value") or "")})
        return {}

    def _delete_model_tag(self, given: Given) -> Answer:
        model = self._names.get(_text(given, "name"))
        self._names.update(model.name, tags=_without(model.tags, _text(given, "key")))
        return {}

    # Aliases, which are labels

    def _set_alias(self, given: Given) -> Answer:
        self._names.set_label(self._version(given), _text(given, "alias"))
        return {}

    def _get_by_alias(self, given: Given) -> Answer:
        return self._version_answer(self._names.labelled(_text(given, "name"), _text(given, "alias")))

    def _delete_alias(self, given: Given) -> Answer:
        self._names.delete_label(_text(given, "name"), _text(given, "alias"))
        return {}

    # Versions

    def _create_version(self, given: Given) -> Answer:
        source = _text(given, "source")
        parsed = wire.parse_source(source)
        if isinstance(parsed, wire.VersionSource):
            return self._version_answer(self._copy_version(parsed, given))
        folder = self._folder(parsed.pattern, source)
        run, logged_model = str(given.get("run_id") or ""), str(given.get("model_id") or "")
        echo = {"source": source, "run_id": run, "model_id": logged_model}
        made = self._workspace.models.register(
            folder,
            name=_text(given, "name"),
            description=str(given.get("description") or ""),
            tags=wire.tags_of(given),
        )
        return self._version_answer(
            self._names.change_version(made, properties=self._job_facts(run), echoes={wire.ECHO: echo})
        )

    def _copy_version(self, source: wire.VersionSource, given: Given) -> Asset:
        """Register the bytes and the lineage of another version once more."""
        origin = (
            self._names.labelled(source.name, source.label)
            if source.label
            else self._version({"name": source.name, "version": source.version})
        )
        description = str(given.get("description") or "")
        return self._names.copy_version(origin, _text(given, "name"), description, wire.tags_of(given))

    def _get_version(self, given: Given) -> Answer:
        return self._version_answer(self._version(given))

    def _search_versions(self, given: Given) -> Answer:
        models = self._names.list()
        labels = {model.name: model.labels for model in models}
        versions = [version for model in models for version in model.versions]
        found, token = select(versions, wire.version_facts, VERSION_KEYS, given)
        bodies = [wire.model_version_body(version, labels[version.name]) for version in found]
        return {"model_versions": bodies, "next_page_token": token}

    def _download_uri(self, given: Given) -> Answer:
        return {"artifact_uri": wire.download_uri(self._version(given))}

    def _update_version(self, given: Given) -> Answer:
        changed = self._names.change_version(self._version(given), description=str(given.get("description") or ""))
        return self._version_answer(changed)

    def _change_stage(self, given: Given) -> Answer:
        stage = _text(given, "stage")
        if stage not in (wire.ARCHIVED, wire.UNSTAGED):
            raise NotSupported(
                f"The stage is '{stage}', expected {wire.ARCHIVED} or {wire.UNSTAGED}. Set an alias instead."
            )
        return self._version_answer(
            self._names.change_version(self._version(given), is_archived=stage == wire.ARCHIVED)
        )

    def _delete_version(self, given: Given) -> Answer:
        self._workspace.models.delete(str(self._version(given).key))
        return {}

    def _set_version_tag(self, given: Given) -> Answer:
        asset = self._version(given)
        self._names.change_version(asset, tags={**asset.tags, _text(given, "key"): str(given.get("value") or "")})
        return {}

    def _delete_version_tag(self, given: Given) -> Answer:
        asset = self._version(given)
        self._names.change_version(asset, tags=_without(asset.tags, _text(given, "key")))
        return {}

    def _version(self, given: Given) -> Asset:
        return self._names.version(_text(given, "name"), _text(given, "version"))

    def _version_answer(self, asset: Asset) -> Answer:
        labels = self._names.get(asset.name).labels
        return {"model_version": wire.model_version_body(asset, labels)}

    def _folder(self, pattern: str, source: str) -> Path:
        """Return the folder of what was logged; raises `NotFound`."""
        found = [path for path in self._artifacts.glob(pattern) if path.is_dir()]
        if len(found) != 1:
            raise NotFound(f"No model was logged at '{source}'. A run's artifacts are listed by its page in MLflow.")
        return found[0]

    def _job_facts(self, run: str) -> dict[str, str]:
        """Return the lineage of what a job's own run has logged."""
        names = (job.name for job in self._workspace.jobs.list() if job_run_id(job.name) == run)
        return {"job": job} if run and (job := next(names, None)) else {}

    def _locate(self, path: str) -> tuple[Asset, str]:
        name, _, rest = path.partition("/")
        version, _, inner = rest.partition("/")
        return self._version({"name": name, "version": version}), inner.rstrip("/")


def _artifact_of(asset: Asset) -> str:
    if asset.artifact is None:
        raise NotFound(f"Model {asset.key} has no files.")
    return asset.artifact


def _file_body(name: str, size: int) -> Answer:
    return {"path": name, "is_dir": False, "file_size": size}


def _model_answer(model: RegisteredModel) -> Answer:
    return {"registered_model": wire.registered_model_body(model)}


def _text(given: Given, name: str) -> str:
    value = given.get(name)
    if not isinstance(value, str) or not value:
        raise InvalidParameter(f"{name} is {value!r}, expected a text.", param=name)
    return value


def _without(tags: Mapping[str, str], key: str) -> dict[str, str]:
    return {name: value for name, value in tags.items() if name != key}
