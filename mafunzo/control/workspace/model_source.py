"""Models as the base of a job: a registered version, one on offer, a repository of a hub or of its mirror, or a folder."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from mafunzo.control.store import catalog
from mafunzo.control.workspace.mirror import find_mirror
from mafunzo.control.workspace.model_files import Layers, folder_faults, layers_of, template_fault
from mafunzo.control.workspace.services import Services
from mafunzo.control.workspace.versions import Versions, scope_of
from mafunzo.entities.asset import REGISTRY_SCOPE, Asset, AssetKey, AssetType, FolderType
from mafunzo.entities.job import ArtifactInput, LiteralInput, StepSpec
from mafunzo.entities.model_card import ModelCard
from mafunzo.entities.reference import AssetReference, JobOutputReference, parse_reference
from mafunzo.errors import ArtifactCorrupt, InvalidFile, InvalidParameter, NotFound

IMPORT_STEP = "import_model"
MLFLOW_NETWORKS = ("data/model", "model", ".")
"""Where an MLflow model's folder has its Hugging Face folder."""


@dataclass(frozen=True)
class Upload:
    """A path input whose bytes go into the store only when the whole request is good. put: store them; their hash."""

    name: str
    put: Callable[[], str]


@dataclass(frozen=True)
class ModelSource:
    """A model as a job's inputs, and the defaults and ranges that its card brings.

    own_name: what it is called where its files don't say. layers: its linear layers, where they are known before it is there.
    faults: what is wrong with its files. template_fault: why it can't render conversations by itself.
    """

    name: str
    inputs: Mapping[str, Upload | ArtifactInput | str]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    own_name: str = ""
    layers: Layers | None = None
    faults: tuple[str, ...] = ()
    template_fault: str = ""


class ModelSources:
    """Looks models up. A reference is `name`, `name:version`, an address of a way in, `org/name` of a hub, or a folder."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._versions = Versions(services, AssetType.MODEL)

    def on_offer(self, name: str | None = None) -> list[Asset]:
        """Return the catalogue's models, or the versions of one, its default first."""
        cards = [card for card in catalog.model_cards() if name in (None, card.name)]
        return [_offered(card) for card in sorted(cards, key=lambda card: not card.is_default)]

    def get(self, reference: str | AssetReference) -> Asset:
        """Return one version of a model: registered, or on offer; raises `NotFound` with near names."""
        parsed = parse_reference(reference) if isinstance(reference, str) else reference
        if isinstance(parsed, JobOutputReference):
            raise InvalidParameter(f"{reference} is the output of a job: register it, then name the model.")
        if not isinstance(parsed, AssetReference):
            raise NotFound(f"No model is called '{reference}'. `mafunzo model list` shows all.")
        assets, scope = self._services.records.assets, scope_of(parsed)
        if parsed.version is None:
            newest = assets.list(scope, AssetType.MODEL, parsed.name, limit=1)
            return newest[0] if newest else _offered(catalog.model_card(parsed.name))
        match = assets.find(AssetKey(scope, AssetType.MODEL, parsed.name, parsed.version))
        if match is None and (versions := assets.versions(scope, AssetType.MODEL, parsed.name)):
            raise NotFound(f"Model {parsed.name} has no version {parsed.version}. There are: {', '.join(versions)}.")
        return match or _offered(catalog.model_card(parsed.name, parsed.version))

    def version(self, reference: AssetReference) -> Asset:
        """Return the version that a reference names: registered, or on offer; raises `NotFound` with near names."""
        is_own = reference.type is AssetType.MODEL and not reference.registry
        return self._versions.get(reference) if is_own else self.get(reference)

    def source(self, reference: str | Path | Asset | AssetReference) -> ModelSource:
        """Return how a job takes `reference` as its base model."""
        if isinstance(reference, Asset):
            reference = AssetReference(reference.name, reference.version)
        if not isinstance(reference, AssetReference):
            folder = Path(reference).expanduser()
            if isinstance(reference, Path) or folder.is_dir():
                return self._source_folder(folder)
            if is_repository(reference):
                return self._source_hub(reference)
        asset = self.get(reference)
        if asset.artifact is None:
            return self._source_card(catalog.model_card(asset.name, asset.version))
        return self._source_registered(asset, asset.artifact)

    def _source_registered(self, asset: Asset, artifact: str) -> ModelSource:
        inputs = {"mlflow_model_path": ArtifactInput(artifact, str(asset.key))}
        from mafunzo.control.serving.reference import is_adapter  # pydantic, and schemas made with it

        base = asset.properties.get("base_artifact")
        if base and is_adapter({file.path for file in self._services.artifacts.manifest(artifact)}):
            inputs["base_model_path"] = ArtifactInput(base, f"base of {asset.key}")
        network = inputs.get("base_model_path", inputs["mlflow_model_path"])
        layers = self.stored_layers(network.artifact)
        return ModelSource(str(asset.key), inputs, own_name=asset.name, layers=layers)

    def stored_layers(self, artifact: str) -> Layers | None:
        """Return the layers of the network in an artifact that is there, in whatever folder of it."""
        store = self._services.artifacts
        try:
            paths = [PurePosixPath(file.path) for file in store.manifest(artifact)]
        except (NotFound, ArtifactCorrupt):
            return None
        configs = sorted((path for path in paths if path.name == "config.json"), key=lambda path: len(path.parts))
        if not configs:
            return None
        weights = [path for path in paths if path.suffix == ".safetensors" and path.parent == configs[0].parent]
        files = [store.open_file(artifact, str(path)) for path in (configs[0], *weights)]
        return layers_of(files[0], files[1:])

    def _source_card(self, card: ModelCard) -> ModelSource:
        repository = card.source.repo if card.source.kind == "hub" else None
        mirror = find_mirror(self._services, AssetType.MODEL, repository) if repository else None
        name = f"{card.name}:{card.version}"
        inputs = {"mlflow_model_path": Upload(name, lambda: self._put_card(card, mirror))}
        layers = Layers(card.architecture, card.linear_modules) if card.linear_modules else None
        return ModelSource(name, inputs, card.defaults, card.ranges, layers=layers)

    def _source_hub(self, repository: str) -> ModelSource:
        for card in catalog.model_cards():
            if card.source.kind == "hub" and card.source.repo == repository:
                return self._source_card(card)
        mirror = find_mirror(self._services, AssetType.MODEL, repository)
        inputs = {"huggingface_id": repository} | ({"mirror": str(mirror)} if mirror else {})
        folders = _mirrored_folders(repository, mirror) if mirror else ()
        layers = next(filter(None, map(_folder_layers, folders)), None) or self._imported_layers(repository)
        return ModelSource(repository, inputs, layers=layers)

    def _imported_layers(self, repository: str) -> Layers | None:
        """Return the layers of a hub's model that was imported before, None where none was: nothing else is on this machine."""
        step = self._services.records.steps.last_with(IMPORT_STEP, "huggingface_id", repository)
        artifacts = step.outputs.values() if step is not None else ()
        return next(filter(None, map(self.stored_layers, artifacts)), None)

    def unfetched(self, importing: StepSpec) -> str:
        """Return what a model is called that an import step would have to fetch, as it is no file of this machine and wasn't
        imported before; an empty text where it needn't."""
        hub, card = importing.inputs.get("huggingface_id"), importing.inputs.get("mlflow_model_path")
        if isinstance(hub, LiteralInput):
            name = str(hub.value)
            is_here = "mirror" in importing.inputs or self._is_imported("huggingface_id", name, "value")
            return "" if is_here else name
        if isinstance(card, ArtifactInput) and self._has_to_be_fetched(card.name):
            return "" if self._is_imported("mlflow_model_path", card.name, "name") else card.name
        return ""

    def _has_to_be_fetched(self, name: str) -> bool:
        """Return whether a model is one of the catalogue's that lies elsewhere, and no mirror has it."""
        sources = {f"{card.name}:{card.version}": card.source for card in catalog.model_cards()}
        source = sources.get(name)
        if source is None or source.kind == "made":
            return False
        return source.kind != "hub" or find_mirror(self._services, AssetType.MODEL, source.repo) is None

    def _is_imported(self, name: str, value: str, part: str) -> bool:
        """Return whether an import of a model with that input was done, and what it gave is still there."""
        step = self._services.records.steps.last_with(IMPORT_STEP, name, value, part)
        return step is not None and all(map(self._services.artifacts.exists, step.outputs.values()))

    def _source_folder(self, folder: Path) -> ModelSource:
        if not folder.is_dir():
            raise InvalidFile(f"{folder} isn't a folder. Name a model, or a folder with config.json and safetensors.")
        name = folder.resolve().name
        upload = Upload(name, lambda: self._services.artifacts.put(folder))
        if (folder / "MLmodel").exists():
            layers = next(filter(None, (_folder_layers(folder / part) for part in MLFLOW_NETWORKS)), None)
            return ModelSource(name, {"mlflow_model_path": upload}, own_name=name, layers=layers)
        if not any((folder / name).exists() for name in ("config.json", "adapter_config.json")):
            raise InvalidFile(f"{folder} has neither config.json nor MLmodel: it isn't a model. Name its root folder.")
        return ModelSource(
            name,
            {"pytorch_model_path": upload},
            own_name=name,
            layers=_folder_layers(folder),
            faults=tuple(folder_faults(folder)),
            template_fault=template_fault(folder),
        )

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
            return self._services.artifacts.put(folder)


def _mirrored_folders(repository: str, mirror: Path) -> tuple[Path, ...]:
    """Return where a mirror may have a repository."""
    return (mirror / repository, mirror / repository.split("/")[-1], mirror)


def _folder_layers(folder: Path) -> Layers | None:
    return layers_of(folder / "config.json", sorted(folder.glob("*.safetensors")))


def import_title(reference: str) -> str:
    """Return what a job is called that imports a model."""
    return f"import {reference}"


def is_repository(reference: str) -> bool:
    """Return whether a reference is `org/name` of a hub, and no address, whose first part ends in a colon."""
    first, slash, _ = reference.partition("/")
    return bool(slash) and ":" not in first


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


def _fingerprint(folder: Path) -> str:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return "".join(f"{f.relative_to(folder)} {f.stat().st_size} {f.stat().st_mtime_ns}\n" for f in files)
