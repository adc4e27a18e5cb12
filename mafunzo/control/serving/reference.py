"""What evaluation wrote down for serving: `serving_reference.json` in a model's folder, and what else the folder tells."""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, model_validator

from mafunzo.control.store.manifest import StoredFile
from mafunzo.entities.validation import validated
from mafunzo.errors import InvalidFile

REFERENCE_FILE = "serving_reference.json"
FACTS_FILE = "mafunzo_model.json"
SHOWN_FAULTS = 12

Weights = Literal["adapter", "merge", "weights"]
ADAPTER_PLACES = ("data/adapter/", "adapter/", "")
"""Where a package may have an adapter."""
"""How the tuned weights are stored, which is what a difference in log-probabilities is named after."""


class ReferenceRow(BaseModel):
    """One held-out conversation. `prompt_token_ids` is it without its last answer, ready to be answered.

    logprobs: of each token given those before it, by the tuned network; base_logprobs: by its base. greedy_ids: the likeliest
    token in place of each token of the last answer, None before it; None: the reference was made without.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None = None
    token_ids: list[int]
    prompt_token_ids: list[int]
    logprobs: list[float | None]
    base_logprobs: list[float | None] | None = None
    greedy_ids: list[int | None] | None = None

    @model_validator(mode="after")
    def _has_greedy_id_per_token(self) -> "ReferenceRow":
        count, tokens = len(self.token_ids if self.greedy_ids is None else self.greedy_ids), len(self.token_ids)
        if count != tokens:
            raise ValueError(f"greedy_ids has {count} entries, expected one for each of {tokens} tokens")
        return self


class Reference(BaseModel):
    """What evaluation wrote down.

    tolerance, mean_tolerance: the largest, and the mean, difference of a log-probability that counts as equal.
    lower_precision_tolerances: both for workers that compute in a lower precision than evaluation did, by its name.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    tolerance: float
    mean_tolerance: float | None = None
    lower_precision_tolerances: Mapping[str, tuple[float, float]] = {}
    dtype: str = ""
    stop_token_ids: list[int]
    rows: list[ReferenceRow]

    def held_to(self, dtype: str) -> "Reference":
        """Return the reference with the tolerances that hold for a worker which computes in `dtype`."""
        if dtype not in self.lower_precision_tolerances:
            return self
        largest, mean = self.lower_precision_tolerances[dtype]
        return self.model_copy(update={"tolerance": largest, "mean_tolerance": mean})


def read_reference(folder: Path) -> Reference | None:
    """Return the reference of a model's folder, or None where there is none: a model that wasn't tuned here."""
    path = folder / REFERENCE_FILE
    if not path.exists():
        return None
    reference = validated(
        f"{path} isn't a serving reference.", lambda: Reference.model_validate_json(path.read_bytes()), SHOWN_FAULTS
    )
    if not reference.rows:
        raise InvalidFile(f"{path} has no rows: there is nothing to compare with. Run the evaluation again.")
    return reference


def how_stored(folder: Path) -> Weights:
    """Return how the weights of a model's folder are stored."""
    if adapter_folder(folder) is not None:
        return "adapter"
    return "merge" if _facts(folder).get("kind") == "merged" else "weights"


def adapter_folder(folder: Path) -> Path | None:
    """Return where a package keeps its adapter, or None for one that has whole weights."""
    places = (folder / "data" / "adapter", folder)
    return next((place for place in places if (place / "adapter_config.json").exists()), None)


def holds_chat_model(files: Collection[str]) -> bool:
    """Return whether a worker finds a model among the files of a folder, given by their paths."""
    places = ("", "data/model/", "data/adapter/", "model/", "adapter/")
    return any(f"{place}{name}" in files for place in places for name in ("config.json", "adapter_config.json"))


def is_adapter(files: Collection[str]) -> bool:
    """Return whether a package is an adapter, which needs its base beside it, by the paths of its files."""
    return any(f"{place}adapter_config.json" in files for place in ADAPTER_PLACES)


def wrong_base(folder: Path, base: Sequence[StoredFile]) -> tuple[str, ...]:
    """Return a fault if the weights among the files of `base` aren't those that the folder's adapter was trained on."""
    if adapter_folder(folder) is None:
        return ()
    fault = wrong_base_weights(_facts(folder).get("base") or {}, base)
    return (fault,) if fault else ()


def wrong_base_weights(trained_on: Mapping[str, Any], base: Sequence[StoredFile]) -> str:
    """Return a fault if the weights among the files of `base` aren't those of the base that an adapter's package names."""
    expected, actual = trained_on.get("weights_sha256"), _weights_sha256(base)
    if not expected or expected == actual:
        return ""
    return (
        f"adapter: it was trained on {trained_on.get('name', 'a base')} with weights {expected[:12]}, "
        f"and would stand on another base, with weights {actual[:12]}."
    )


def _facts(folder: Path) -> dict[str, Any]:
    """Return what the package's step wrote down of a model's folder; nothing where there is no such file."""
    path = folder / FACTS_FILE
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def _weights_sha256(files: Sequence[StoredFile]) -> str:
    """Return what `sha256sum *.safetensors | sha256sum` prints in the folder where the weights lie."""
    weights = sorted((PurePosixPath(file.path), file.sha256) for file in files if file.path.endswith(".safetensors"))
    for parent in (PurePosixPath("."), PurePosixPath("data/model")):
        lines = [f"{sha256}  {path.name}\n" for path, sha256 in weights if path.parent == parent]
        if lines:
            return hashlib.sha256("".join(lines).encode()).hexdigest()
    return ""


def missing_files(folder: Path) -> tuple[str, ...]:
    """Return a fault for each file without which the folder can't be served as it was tuned."""
    adapter = adapter_folder(folder)
    if adapter is not None and not (adapter / "adapter_model.safetensors").exists():
        return (f"adapter: {adapter.relative_to(folder) / 'adapter_model.safetensors'} is missing from the package.",)
    return ()
