"""The proof that serving equals training: a worker is compared, over HTTP, with what plain transformers gave in evaluation.

`serving_reference.json` in the model's folder holds held-out conversations of the job, their token ids and the log-probability
of each token under the tuned network. The worker must render the same ids, stop at the same tokens, and give the same
log-probabilities within the stated tolerance. Each fault begins with what differs: template, BOS, EOS, adapter, merge, weights.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import httpx
from pydantic import BaseModel, ConfigDict, ValidationError

from mafunzo.errors import InvalidFile
from mafunzo.serving.placement import Verdict

REFERENCE_FILE = "serving_reference.json"
REQUEST_TIMEOUT_S = 300.0
MAX_FAULTS = 12
SHOWN_TOKENS = 5

Weights = Literal["adapter", "merge", "weights"]
"""How the tuned weights are stored, which is what a difference in log-probabilities is named after."""


class ReferenceRow(BaseModel):
    """One held-out conversation. `prompt_token_ids` is it without its last answer, ready to be answered."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None = None
    token_ids: list[int]
    prompt_token_ids: list[int]
    logprobs: list[float | None]


class Reference(BaseModel):
    """What evaluation wrote down. `tolerance` is the largest difference of a log-probability that counts as equal."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    tolerance: float
    dtype: str = ""
    stop_token_ids: list[int]
    rows: list[ReferenceRow]


@dataclass(frozen=True)
class Difference:
    """The largest difference of a log-probability, and where."""

    size: float
    row: int
    position: int
    expected: float
    given: float | None


def read_reference(folder: Path) -> Reference | None:
    """Return the reference of a model's folder, or None where there is none: a model that wasn't tuned here."""
    path = folder / REFERENCE_FILE
    if not path.exists():
        return None
    try:
        reference = Reference.model_validate_json(path.read_bytes())
    except ValidationError as error:
        faults = [f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}" for fault in error.errors()]
        raise InvalidFile(f"{path} isn't a serving reference.", faults[:MAX_FAULTS]) from error
    if not reference.rows:
        raise InvalidFile(f"{path} has no rows: there is nothing to compare with. Run the evaluation again.")
    return reference


def how_stored(folder: Path) -> Weights:
    """Return how the weights of a model's folder are stored."""
    if adapter_folder(folder) is not None:
        return "adapter"
    facts_file = folder / "mafunzo_model.json"
    facts = json.loads(facts_file.read_text(encoding="utf-8")) if facts_file.exists() else {}
    return "merge" if facts.get("merge_lora_weights") or facts.get("merged") else "weights"


def adapter_folder(folder: Path) -> Path | None:
    """Return where a package keeps its adapter, or None for one that has whole weights."""
    for candidate in (folder / "data" / "adapter", folder):
        if (candidate / "adapter_config.json").exists():
            return candidate
    return None


def missing_files(folder: Path) -> tuple[str, ...]:
    """Return a fault for each file without which the folder can't be served as it was tuned."""
    adapter = adapter_folder(folder)
    if adapter is not None and not (adapter / "adapter_model.safetensors").exists():
        return (f"adapter: {adapter.relative_to(folder) / 'adapter_model.safetensors'} is missing from the package.",)
    return ()


def verify(url: str, reference: Reference, stored: Weights, client: httpx.Client | None = None) -> Verdict:
    """Compare the worker at `url` with `reference`, and return all that differs. Blocks for as long as that takes."""
    with client or httpx.Client(timeout=REQUEST_TIMEOUT_S, trust_env=False) as http:
        worker = _Worker(http, url)
        try:
            faults = [*_compare_stops(worker, reference), *_compare_tokens(worker, reference)]
            weight_faults, worst = _compare_weights(worker, reference, stored)
        except httpx.TransportError as error:
            return Verdict(broke=f"{type(error).__name__}: {error}")
    faults += weight_faults
    record = _record(reference, worst) | {"result": "refused" if faults else "verified", "faults": faults}
    return Verdict(tuple(faults), record)


def unverified(reason: str) -> Verdict:
    """Return the verdict on a model that there is nothing to compare with: it goes live, and its record says so."""
    return Verdict((), {"result": "unverified", "reason": reason})


class _Refusal(Exception):
    """The worker answered a request of the comparison with an error."""


@dataclass(frozen=True)
class _Worker:
    http: httpx.Client
    url: str

    def stop_token_ids(self) -> list[int]:
        return _ids(self._answer(self.http.get(f"{self.url}/info")), "stop_token_ids")

    def tokenize(self, row: ReferenceRow, is_prompt: bool) -> list[int]:
        body: dict[str, Any] = {
            "messages": row.messages[:-1] if is_prompt else row.messages,
            "add_generation_prompt": is_prompt,
        }
        if row.tools:
            body["tools"] = row.tools
        return _ids(self._answer(self.http.post(f"{self.url}/tokenize", json=body)), "tokens")

    def logprobs(self, token_ids: Sequence[int]) -> tuple[list[float | None], list[str]]:
        """Return the log-probability of each token given those before it, and its text."""
        body = {"prompt": list(token_ids), "max_tokens": 0, "echo": True, "logprobs": 1, "temperature": 0}
        answer = self._answer(self.http.post(f"{self.url}/v1/completions", json=body))
        try:
            found = answer["choices"][0]["logprobs"]
            return list(found["token_logprobs"]), [str(text) for text in found.get("tokens") or []]
        except (LookupError, TypeError) as error:
            raise _Refusal("the worker's answer has no choices[0].logprobs.token_logprobs") from error

    def text(self, token_ids: Sequence[int]) -> str:
        """Return tokens as text, for people."""
        shown = list(token_ids[:SHOWN_TOKENS])
        if not shown:
            return "the end"
        try:
            return f"{''.join(self.logprobs(shown)[1])!r} (ids {shown})"
        except _Refusal:
            return f"ids {shown}"

    def _answer(self, response: httpx.Response) -> dict[str, Any]:
        if response.is_error:
            raise _Refusal(
                f"the worker answers {response.request.url.path} with {response.status_code}: {_why(response)}"
            )
        answer: dict[str, Any] = response.json()
        return answer


def _ids(answer: Mapping[str, Any], name: str) -> list[int]:
    found = answer.get(name)
    if not isinstance(found, list):
        raise _Refusal(f"the worker's answer has no list '{name}'")
    return [int(token) for token in found]


def _compare_stops(worker: _Worker, reference: Reference) -> Iterator[str]:
    try:
        given = worker.stop_token_ids()
    except _Refusal as refusal:
        yield f"EOS: {refusal}."
        return
    missing = [token for token in reference.stop_token_ids if token not in given]
    if missing:
        yield (
            f"EOS: the worker stops at the tokens {given}; in evaluation {worker.text(missing)} ended a turn too. "
            "Look at eos_token_id in generation_config.json and config.json, and eos_token in tokenizer_config.json."
        )


def _compare_tokens(worker: _Worker, reference: Reference) -> Iterator[str]:
    """Yield a fault for the first row of each kind of difference, with how many rows have it."""
    first: dict[str, str] = {}
    counts: dict[str, int] = {}
    for number, row in enumerate(reference.rows):
        for what, is_prompt, expected in (
            ("conversation", False, row.token_ids),
            ("prompt", True, row.prompt_token_ids),
        ):
            try:
                given = worker.tokenize(row, is_prompt)
            except _Refusal as refusal:
                kind, text = "template", f"{refusal}"
            else:
                if given == expected:
                    continue
                kind, text = _explain(worker, expected, given, reference.stop_token_ids)
            key = f"{kind} of a {what}"
            first.setdefault(key, f"{kind}: row {number}, {what}: {text}.")
            counts[key] = counts.get(key, 0) + 1
    for key, text in first.items():
        yield f"{text} Rows that differ so: {counts[key]} of {len(reference.rows)}."


def _explain(worker: _Worker, expected: Sequence[int], given: Sequence[int], stops: Sequence[int]) -> tuple[str, str]:
    """Say which part of the rendering differs, from its token ids."""
    if given == expected[1:]:
        return "BOS", f"the worker leaves out the first token, {worker.text(expected[:1])}"
    if given[1:] == expected:
        return "BOS", f"the worker puts {worker.text(given[:1])} before the first token"
    if given[1:] == expected[1:]:
        return "BOS", f"the first token is {worker.text(given[:1])}, in evaluation it was {worker.text(expected[:1])}"
    at = next(
        (i for i, (a, b) in enumerate(zip(expected, given, strict=False)) if a != b), min(len(expected), len(given))
    )
    if _differs_only_at_stops(expected, given, stops):
        return "EOS", (
            f"a turn ends with {worker.text(given[at : at + 1])} at position {at}, "
            f"in evaluation with {worker.text(expected[at : at + 1])}"
        )
    return "template", (
        f"the token ids differ from position {at} on: the worker has {worker.text(given[at:])}, "
        f"evaluation had {worker.text(expected[at:])}, after {worker.text(expected[max(0, at - SHOWN_TOKENS) : at])}"
    )


def _differs_only_at_stops(expected: Sequence[int], given: Sequence[int], stops: Sequence[int]) -> bool:
    if len(expected) == len(given):
        return all(a in stops for a, b in zip(expected, given, strict=True) if a != b)
    kept = [token for token in expected if token not in stops]
    return kept == [token for token in given if token not in stops]


def _compare_weights(worker: _Worker, reference: Reference, stored: Weights) -> tuple[list[str], Difference | None]:
    """Give every row's ids to the worker as they are, whatever its template; return the faults and the largest difference."""
    worst: Difference | None = None
    for number, row in enumerate(reference.rows):
        try:
            given, _ = worker.logprobs(row.token_ids)
        except _Refusal as refusal:
            return [f"{stored}: row {number}: {refusal}."], worst
        if len(given) != len(row.logprobs):
            return [
                f"{stored}: row {number}: the worker gave {len(given)} log-probabilities for {len(row.logprobs)} tokens."
            ], worst
        for position, (was, now) in enumerate(zip(row.logprobs, given, strict=True)):
            if was is None:
                continue
            size = abs(was - now) if now is not None and math.isfinite(now) else math.inf
            if worst is None or size > worst.size:
                worst = Difference(size, number, position, was, now)
    if worst is None or worst.size <= reference.tolerance:
        return [], worst
    return [_tell_weights(worker, reference, stored, worst)], worst


def _tell_weights(worker: _Worker, reference: Reference, stored: Weights, worst: Difference) -> str:
    token = reference.rows[worst.row].token_ids[worst.position]
    given = "none" if worst.given is None else f"{worst.given:.4f}"
    meaning = {
        "adapter": "the adapter isn't the one that was evaluated, isn't applied, or stands on another base",
        "merge": "the adapter wasn't merged into the weights as it was evaluated",
        "weights": "the weights aren't those that were evaluated",
    }[stored]
    return (
        f"{stored}: row {worst.row}, position {worst.position}, token {worker.text([token])}: "
        f"log-probability {given}, in evaluation {worst.expected:.4f}; "
        f"they differ by {worst.size:.4f}, more than {reference.tolerance:g}: {meaning}."
    )


def _record(reference: Reference, worst: Difference | None) -> dict[str, Any]:
    return {
        "rows": len(reference.rows),
        "tokens": sum(len(row.token_ids) for row in reference.rows),
        "tolerance": reference.tolerance,
        "dtype": reference.dtype,
        "worst_difference": None if worst is None or not math.isfinite(worst.size) else worst.size,
        "worst_row": None if worst is None else worst.row,
        "worst_position": None if worst is None else worst.position,
    }


def _why(response: httpx.Response) -> str:
    try:
        body = response.json()
    except ValueError:
        return response.text[:200]
    error = body.get("error", body) if isinstance(body, dict) else body
    return str(error.get("message", error) if isinstance(error, dict) else error)[:200]
