"""Data files: fetched, checked row by row, split, and looked at with the loss mask."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mafunzo.control.workspace.jobs import Jobs
from mafunzo.control.workspace.mirror import find_mirror, set_mirror
from mafunzo.control.workspace.resolver import artifact_of, resolve
from mafunzo.control.workspace.services import Services
from mafunzo.control.workspace.versions import Versions
from mafunzo.dataset.check import Report, Row, check_source, read_conversations, refuse
from mafunzo.dataset.download import Access, DataCard, HubSource, cards, find_card, get_dataset
from mafunzo.dataset.files import open_source
from mafunzo.dataset.repeats import SplitsReport, by_split
from mafunzo.dataset.split import SPLITS, split
from mafunzo.entities.asset import Asset, AssetType, home_path
from mafunzo.entities.asset_request import DataRequest
from mafunzo.entities.blob import HOME_DATASTORE
from mafunzo.entities.reference import PathInput, Reference, StoredPath, WebAddress, source_from_facts
from mafunzo.errors import Conflict


@dataclass(frozen=True)
class Preview:
    """Rows as the network will see them: pieces of text, each with whether it is learned; and the whole report."""

    rows: tuple[Mapping[str, Any], ...]
    report: Mapping[str, Any]


class DataSets:
    """The verbs on data."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._versions = Versions(services, AssetType.DATA)
        self._jobs = Jobs(services)

    def list(self) -> list[DataCard]:
        """Return the data sets on offer."""
        return [*cards().values()]

    def create(self, name: str, version: str, request: DataRequest) -> Asset:
        """Register files; of a version that exists, what may change is changed.

        Raises `VersionTaken` for other files under the name of a version that exists, `NotFound` for files that aren't there,
        and `InvalidFile` for one of the web that can't be fetched.
        """
        known = self._versions.find(name, version)
        if known and request.source not in _places(known):
            known = None
        artifact = known.artifact if known and _keeps_its_bytes(known) else None
        if artifact is None:
            path = PathInput(request.source, request.folder_type, str(request.source))
            artifact = artifact_of(resolve(self._services, f"Data '{name}'", path))
        facts = known.properties if known else {"source": asdict(request.source)}
        return self._versions.put(name, version, request, facts, artifact, request.folder_type, is_replaced=True)

    def get(self, name: str, *, to: str | Path, percent: float = 100.0, overwrite: bool = False) -> dict[str, Path]:
        """Write the first `percent` of each split of a data set as jsonl files under `to`; return them by split.

        `name` is one of the catalogue, or `org/name` of the hub or of a mirror. Raises `Conflict` for files that are there
        already, and `Unreachable` where neither the network nor a mirror has it.
        """
        folder = Path(to)
        if not overwrite and folder.exists() and any(folder.glob("*.jsonl")):
            raise Conflict(f"{folder} holds jsonl files already. Name a new folder, or pass --overwrite.")
        source = find_card(name).source
        mirror = find_mirror(self._services, AssetType.DATA, source.repo) if isinstance(source, HubSource) else None
        access = Access(self._services.cache, self._services.is_offline, mirror)
        return get_dataset(name, folder, access, percent)

    def check(self, file: str | Path) -> Report:
        """Read every row; return how many there are, in which format, and all that is wrong."""
        return check_source(open_source(Path(file).expanduser()))

    def check_splits(
        self,
        train: str | Path,
        validation: str | Path | None = None,
        test: str | Path | None = None,
        split_seed: int | None = None,
    ) -> SplitsReport:
        """Read every row of the files of a job; return what is wrong in each, and what repeats within and between them.

        Without `validation` or `test` those rows are cut from the training file, by `split_seed` if given, as a job does it.
        """
        files = {"train": train, "validation": validation, "test": test}
        return by_split({name: self.check(file) for name, file in files.items() if file is not None}, split_seed)

    def preview(
        self,
        model: str | Path,
        file: str | Path,
        rows: int = 3,
        max_seq_length: int = -1,
        train_on: str = "assistant",
        long_rows: str = "truncate",
    ) -> Preview:
        """Render rows with the model's chat template, and mark what is learned, by `train_on` and `long_rows` as in a job."""
        values = {"rows": rows, "max_seq_length": max_seq_length, "train_on": train_on, "long_rows": long_rows}
        job = self._jobs.preview(model, file, **values).wait()
        artifact = job.output_artifact("preview")
        open_file = self._services.artifacts.open_file
        sample = json.loads(open_file(artifact, "preview.json").read_text(encoding="utf-8"))
        report = json.loads(open_file(artifact, "report.json").read_text(encoding="utf-8"))
        return Preview(tuple(sample), report)

    def split(self, file: str | Path, to: str | Path, seed: int | None = None) -> dict[str, tuple[Path, int]]:
        """Write train, validation and test files (80, 10 and 10 percent, by `seed` if given); return each with its row count.

        Raises `InvalidData` when a row can't be used, and `Conflict` for files that are there already.
        """
        source = open_source(Path(file).expanduser())
        folder = Path(to)
        files = {name: folder / f"{name}.jsonl" for name in SPLITS}
        if existing := [str(path) for path in files.values() if path.exists()]:
            raise Conflict(f"{', '.join(existing)} exists already. Name a new folder.")
        refuse(check_source(source).bad)
        folder.mkdir(parents=True, exist_ok=True)
        written = {}
        for name, share in split(source.count(), False, False, seed).items():
            with files[name].open("w", encoding="utf-8") as out:
                for row in read_conversations(source, share.chosen()):
                    assert isinstance(row, Row), "bad rows were refused above"
                    out.write(json.dumps(row.conversation.as_dict(), ensure_ascii=False) + "\n")
            written[name] = (files[name], len(share))
        return written

    def mirror(self, repository: str, folder: str | Path) -> Asset:
        """Name the folder where the hub's data set `org/name` is found from now on."""
        return set_mirror(self._services, AssetType.DATA, repository, Path(folder))


def _places(asset: Asset) -> list[Reference]:
    """Return where data came from, or is shown."""
    if path := home_path(asset):
        return [StoredPath(HOME_DATASTORE, path)]
    return [source_from_facts(asset.properties["source"])]


def _keeps_its_bytes(known: Asset) -> bool:
    """Return whether a version's bytes are what they were, whatever is at its address now: the web's, or shown by us."""
    return bool(home_path(known)) or any(isinstance(place, WebAddress) for place in _places(known))
