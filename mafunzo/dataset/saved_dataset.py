"""Folders that `save_to_disk` of Hugging Face's `datasets` wrote: Arrow files, and JSON files that say which and of what split.

A `Dataset` is a folder with `state.json`; a `DatasetDict` has one such folder for each split, and `dataset_dict.json`.
"""

import json
from pathlib import Path
from typing import Any

from mafunzo.errors import InvalidFile, NotSupported

_INFO, _STATE, _SPLITS = "dataset_info.json", "state.json", "dataset_dict.json"
_ABOUT = {_INFO, _SPLITS, "dataset_infos.json"}


def saved_splits(folder: Path) -> dict[str, tuple[Path, ...]]:
    """Return the files of each split of a saved data set; nothing for another folder. A lone `Dataset` is called `train`.

    Raises `InvalidFile` for a folder that isn't whole, `NotSupported` for rows that were selected by an index.
    """
    if (folder / _SPLITS).is_file():
        names = _json(folder / _SPLITS).get("splits")
        if not isinstance(names, list):
            raise InvalidFile(f"{folder / _SPLITS} names no splits. Save the data set again.")
        return {str(name): _files(folder / str(name)) for name in names}
    if (folder / _STATE).is_file() and (folder / _INFO).is_file():
        return {str(_json(folder / _STATE).get("_split") or "train"): _files(folder)}
    return {}


def is_about_data(file: Path) -> bool:
    """Return whether a file only tells of the data beside it, or is what `datasets` cached of a computation."""
    name = file.name
    is_state = name == _STATE and (file.parent / _INFO).exists()
    return name in _ABOUT or is_state or (name.startswith("cache-") and file.suffix == ".arrow")


def _files(folder: Path) -> tuple[Path, ...]:
    state = _json(folder / _STATE)
    if state.get("_indices_data_files"):
        raise NotSupported(
            f"{folder} holds rows that are selected by an index. Save it again: load_from_disk(...).flatten_indices()."
            "save_to_disk(...)"
        )
    files = tuple(folder / entry["filename"] for entry in state.get("_data_files") or ())
    missing = [file.name for file in files if not file.exists()]
    if missing or not files:
        raise InvalidFile(f"{folder} isn't whole: {', '.join(missing) or 'any data file'} is missing. Save it again.")
    return files


def _json(file: Path) -> dict[str, Any]:
    try:
        body = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidFile(f"{file} can't be read: {error}. Save the data set again.") from error
    if not isinstance(body, dict):
        raise InvalidFile(f"{file} isn't a JSON object. Save the data set again.")
    return body
