"""MLflow's model registry, answered from the workspace's models: one registered either way is the same Model.

MLflow keeps prompts in its registry too. A prompt, and any name that isn't one of our models, is left to MLflow itself.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from mafunzo.control.workspace import Workspace
from mafunzo.entities.asset import Asset, AssetType, RegisteredModel
from mafunzo.entities.reference import AssetReference
from mafunzo.entities.scan import Scan
from mafunzo.entrypoints.http.listing import shown
from mafunzo.entrypoints.mlflow import registered_model as wire
from mafunzo.entrypoints.mlflow.filter import named_in, parse_filter, position_in, scrolled, select
from mafunzo.errors import InvalidParameter, MafunzoError, NotFound, NotSupported
from mafunzo.tracking.run import job_run_id

Arguments = Mapping[str, Any]
Answer = dict[str, Any]
TagChange = Callable[[Mapping[str, str], Arguments], dict[str, str]]


class Registry:
    """MLflow's registry over one workspace. `artifacts` is the folder of what MLflow's runs have logged."""

    def __init__(self, workspace: Workspace, artifacts: Path) -> None:
        self._workspace = workspace
        self._names = workspace.registered_models
        self._versions = workspace.versions[AssetType.MODEL]
        self._artifacts = artifacts
        self._verbs: Mapping[tuple[str, str], Callable[[Arguments], Answer]] = {
            ("POST", "registered-models/create"): self._create_model,
            ("GET", "registered-models/get"): self._get_model,
            ("GET", "registered-models/search"): self._search_models,
            ("PATCH", "registered-models/update"): self._update_model,
            ("POST", "registered-models/rename"): self._rename_model,
            ("DELETE", "registered-models/delete"): self._delete_model,
            ("GET", "registered-models/get-latest-versions"): self._latest_versions,
            ("POST", "registered-models/get-latest-versions"): self._latest_versions,
            ("POST", "registered-models/set-tag"): partial(self._tag_model, change=_with_tag),
            ("DELETE", "registered-models/delete-tag"): partial(self._tag_model, change=_without_tag),
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
            ("POST", "model-versions/set-tag"): partial(self._tag_version, change=_with_tag),
            ("DELETE", "model-versions/delete-tag"): partial(self._tag_version, change=_without_tag),
        }

    def acting_as(self, user: str) -> "Registry":
        """Return this registry as it is for `user`: what it makes carries their name."""
        return Registry(self._workspace.acting_as(user), self._artifacts)

    def answer(self, method: str, operation: str, arguments: Arguments) -> tuple[int, Answer] | None:
        """Return the status and body of an answer; None for what is MLflow's own to answer."""
        verb = self._verbs.get((method, operation))
        if verb is None or self._is_mlflows(operation, arguments):
            return None
        try:
            return 200, verb(arguments)
        except MafunzoError as error:
            return wire.error_body(error, is_creation=operation.endswith("/create"))

    def list_files(self, path: str) -> Answer:
        """List what is directly in a folder of a version's files; `path` is below `registered-models/`."""
        asset, inner = self._locate(path)
        prefix = f"{inner}/" if inner else ""
        entries: dict[str, Answer] = {}
        for file in self._workspace.artifacts.manifest(_artifact_of(asset)):
            if file.path.startswith(prefix):
                name, is_folder, _ = file.path.removeprefix(prefix).partition("/")
                size = {} if is_folder else {"file_size": file.size}
                entries[name] = {"path": name, "is_dir": bool(is_folder), **size}
        return {"files": list(entries.values())}

    def open_file(self, path: str) -> Path:
        """Return a file of a version, to be read only; raises `NotFound`."""
        asset, inner = self._locate(path)
        return self._workspace.artifacts.open_file(_artifact_of(asset), inner)

    def _is_mlflows(self, operation: str, arguments: Arguments) -> bool:
        if operation == "registered-models/create":
            return wire.tags_of(arguments).get(wire.PROMPT_TAG, "").lower() == "true"
        if operation.endswith("/search"):
            return self._searches_prompts(str(arguments.get("filter") or ""))
        return not self._names.has(_text(arguments, "name"))

    def _searches_prompts(self, text: str) -> bool:
        try:
            clauses = parse_filter(text, wire.VERSION_KEYS)
        except InvalidParameter:  # told where the search is made
            return False
        values = {clause.key: clause.values[0] for clause in clauses if clause.operator == "="}
        if values.get(f"tags.{wire.PROMPT_TAG}", "").lower() == "true":
            return True
        return "name" in values and not self._names.has(values["name"])

    # Registered models

    def _create_model(self, arguments: Arguments) -> Answer:
        name, description = _text(arguments, "name"), str(arguments.get("description") or "")
        return _model_answer(self._names.create(name, description, wire.tags_of(arguments)))

    def _get_model(self, arguments: Arguments) -> Answer:
        return _model_answer(self._names.get(_text(arguments, "name")))

    def _search_models(self, arguments: Arguments) -> Answer:
        position = position_in(arguments)
        if position is None:
            models, token = select(self._names.list(), wire.model_facts, wire.MODEL_KEYS, arguments)
        else:
            named = self._named(named_in(arguments, wire.MODEL_KEYS), position)
            models, token = scrolled(named, wire.model_facts, lambda model: model.name, wire.MODEL_KEYS, arguments)
        return {"registered_models": list(shown(models, wire.registered_model_body)), "next_page_token": token}

    def _update_model(self, arguments: Arguments) -> Answer:
        return _model_answer(self._names.update(_text(arguments, "name"), str(arguments.get("description") or "")))

    def _rename_model(self, arguments: Arguments) -> Answer:
        raise NotSupported(
            f"Model '{arguments.get('name')}' can't be renamed: endpoints and lineage name its versions. Register it anew."
        )

    def _delete_model(self, arguments: Arguments) -> Answer:
        self._names.delete(_text(arguments, "name"))
        return {}

    def _latest_versions(self, arguments: Arguments) -> Answer:
        model = self._names.get(_text(arguments, "name"))
        stages = arguments.get("stages") or [wire.UNSTAGED]
        names = [stages] if isinstance(stages, str) else stages
        newest: dict[str, Answer] = {}
        for version in reversed(model.versions):
            body = wire.model_version_body(version, model.labels)
            newest[body["current_stage"]] = body
        return {"model_versions": [newest[stage] for stage in names if stage in newest]}

    def _tag_model(self, arguments: Arguments, change: TagChange) -> Answer:
        model = self._names.get(_text(arguments, "name"))
        self._names.update(model.name, tags=change(model.tags, arguments))
        return {}

    # Aliases, which are labels

    def _set_alias(self, arguments: Arguments) -> Answer:
        self._names.set_label(self._version(arguments), _text(arguments, "alias"))
        return {}

    def _get_by_alias(self, arguments: Arguments) -> Answer:
        return self._version_answer(
            self._versions.get(AssetReference(_text(arguments, "name"), label=_text(arguments, "alias")))
        )

    def _delete_alias(self, arguments: Arguments) -> Answer:
        self._names.delete_label(_text(arguments, "name"), _text(arguments, "alias"))
        return {}

    # Versions

    def _create_version(self, arguments: Arguments) -> Answer:
        source = _text(arguments, "source")
        parsed = wire.parse_source(source)
        if isinstance(parsed, AssetReference):
            return self._version_answer(self._copy_version(parsed, arguments))
        folder = self._folder(parsed.pattern, source)
        run, logged_model = str(arguments.get("run_id") or ""), str(arguments.get("model_id") or "")
        echo = {"source": source, "run_id": run, "model_id": logged_model}
        version = self._workspace.models.register(
            folder,
            name=_text(arguments, "name"),
            description=str(arguments.get("description") or ""),
            tags=wire.tags_of(arguments),
        )
        return self._version_answer(
            self._versions.change(version, properties=self._job_facts(run), echoes={wire.ECHO: echo})
        )

    def _copy_version(self, source: AssetReference, arguments: Arguments) -> Asset:
        """Register the bytes and the lineage of another version once more."""
        description = str(arguments.get("description") or "")
        return self._names.copy_version(
            self._versions.get(source), _text(arguments, "name"), description, wire.tags_of(arguments)
        )

    def _get_version(self, arguments: Arguments) -> Answer:
        return self._version_answer(self._version(arguments))

    def _search_versions(self, arguments: Arguments) -> Answer:
        labels: dict[str, Mapping[str, str]] = {}

        def versions_of(models: Iterable[RegisteredModel]) -> Iterator[Asset]:
            for model in models:
                labels[model.name] = model.labels
                yield from model.versions

        position, keys = position_in(arguments), wire.VERSION_KEYS
        if position is None:
            versions, token = select(list(versions_of(self._names.list())), wire.version_facts, keys, arguments)
        else:
            name, _, last = position.partition(":")
            later = versions_of(self._named(named_in(arguments, keys), name))
            begun = self._names.find(name) if last else None
            rest = _after(list(versions_of([begun])), last) if begun is not None else ()
            things = chain(rest, later)
            versions, token = scrolled(things, wire.version_facts, lambda one: str(one.key), keys, arguments)
        bodies = shown(versions, lambda version: wire.model_version_body(version, labels[version.name]))
        return {"model_versions": list(bodies), "next_page_token": token}

    def _named(self, name: str | None, after: str) -> Iterator[RegisteredModel]:
        """Yield the registered models after a name, all or the one that is named, read as they are needed."""
        if name is None:
            return self._names.scan(after)
        model = self._names.find(name) if name > after else None
        return iter(() if model is None else (model,))

    def _download_uri(self, arguments: Arguments) -> Answer:
        return {"artifact_uri": wire.download_uri(self._version(arguments))}

    def _update_version(self, arguments: Arguments) -> Answer:
        description = str(arguments.get("description") or "")
        return self._version_answer(self._versions.change(self._version(arguments), description=description))

    def _change_stage(self, arguments: Arguments) -> Answer:
        stage = _text(arguments, "stage")
        if stage not in (wire.ARCHIVED, wire.UNSTAGED):
            raise NotSupported(
                f"The stage is '{stage}', expected {wire.ARCHIVED} or {wire.UNSTAGED}. Set an alias instead."
            )
        return self._version_answer(self._versions.change(self._version(arguments), is_archived=stage == wire.ARCHIVED))

    def _delete_version(self, arguments: Arguments) -> Answer:
        self._workspace.models.delete(str(self._version(arguments).key))
        return {}

    def _tag_version(self, arguments: Arguments, change: TagChange) -> Answer:
        asset = self._version(arguments)
        self._versions.change(asset, tags=change(asset.tags, arguments))
        return {}

    def _version(self, arguments: Arguments) -> Asset:
        return self._versions.get(AssetReference(_text(arguments, "name"), _text(arguments, "version")))

    def _version_answer(self, asset: Asset) -> Answer:
        labels = self._names.labels(asset.name)
        return {"model_version": wire.model_version_body(asset, labels)}

    def _folder(self, pattern: str, source: str) -> Path:
        """Return the folder of what was logged; raises `NotFound`."""
        folders = [path for path in self._artifacts.glob(pattern) if path.is_dir()]
        if len(folders) != 1:
            raise NotFound(f"No model was logged at '{source}'. A run's artifacts are listed by its page in MLflow.")
        return folders[0]

    def _job_facts(self, run: str) -> dict[str, str]:
        """Return the lineage of what a job's own run has logged."""
        if not run:
            return {}
        if job_run_id(run) == run and self._workspace.jobs.has(run):
            return {"job": run}
        names = (job.name for _, job in self._workspace.jobs.scan(Scan()) if job_run_id(job.name) == run)
        return {"job": job} if (job := next(names, None)) else {}

    def _locate(self, path: str) -> tuple[Asset, str]:
        name, _, rest = path.partition("/")
        version, _, inner = rest.partition("/")
        return self._version({"name": name, "version": version}), inner.rstrip("/")


def _artifact_of(asset: Asset) -> str:
    if asset.artifact is None:
        raise NotFound(f"Model {asset.key} has no files.")
    return asset.artifact


def _model_answer(model: RegisteredModel) -> Answer:
    return {"registered_model": wire.registered_model_body(model)}


def _text(arguments: Arguments, name: str) -> str:
    value = arguments.get(name)
    if not isinstance(value, str) or not value:
        raise InvalidParameter(f"{name} is {value!r}, expected a text.", param=name)
    return value


def _after(versions: Sequence[Asset], last: str) -> Sequence[Asset]:
    """Return the versions of a name after the version `last`: all where that was deleted, since none may be left out."""
    names = [one.version for one in versions]
    return versions[names.index(last) + 1 :] if last in names else versions


def _with_tag(tags: Mapping[str, str], arguments: Arguments) -> dict[str, str]:
    return {**tags, _text(arguments, "key"): str(arguments.get("value") or "")}


def _without_tag(tags: Mapping[str, str], arguments: Arguments) -> dict[str, str]:
    key = _text(arguments, "key")
    return {name: value for name, value in tags.items() if name != key}
