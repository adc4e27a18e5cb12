"""The proof that serving equals training: a worker is compared, over HTTP, with what plain transformers gave in evaluation.

`serving_reference.json` in the model's folder holds held-out conversations of the job, their token ids and the log-probability
of each token under the tuned network. The worker must render the same ids, stop at the same tokens, and give the same
log-probabilities within the stated tolerance. Each fault begins with what differs: template, BOS, EOS, adapter, merge, weights.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from mafunzo.control.serving.decide import Verdict
from mafunzo.control.serving.logprob import Difference, Distance, measure
from mafunzo.control.serving.reference import Reference, ReferenceRow, Weights

REQUEST_TIMEOUT_S = 300.0
SHOWN_TOKENS = 5


def verify(
    url: str,
    reference: Reference,
    stored: Weights,
    client: httpx.Client | None = None,
    headers: Mapping[str, str] | None = None,
    model: str | None = None,
) -> Verdict:
    """Compare the worker at `url` with `reference`, and return all that differs. Blocks for as long as that takes.

    headers: those by which the worker lets a request in. model: which of its models, an adapter; None: the one that it serves.
    """
    with client or httpx.Client(timeout=REQUEST_TIMEOUT_S, trust_env=False, headers=headers) as http:
        worker = _Worker(http, url, {} if model is None else {"model": model})
        try:
            faults = [*_compare_stops(worker, reference), *_compare_tokens(worker, reference)]
            weight_faults, distance = _compare_weights(worker, reference, stored)
        except httpx.TransportError as error:
            return Verdict(broke=f"{type(error).__name__}: {error}")
    faults += weight_faults
    record = _record(reference, distance) | {"result": "refused" if faults else "verified", "faults": faults}
    return Verdict(tuple(faults), record)


class _Refusal(Exception):
    """The worker answered a request of the comparison with an error."""


@dataclass(frozen=True)
class _Worker:
    http: httpx.Client
    url: str
    named: Mapping[str, str]

    def stop_token_ids(self) -> list[int]:
        return _ids(self._answer(self.http.get(f"{self.url}/info", params=self.named)), "stop_token_ids")

    def tokenize(self, row: ReferenceRow, is_prompt: bool) -> list[int]:
        body: dict[str, Any] = {
            "messages": row.messages[:-1] if is_prompt else row.messages,
            "add_generation_prompt": is_prompt,
            **self.named,
        }
        if row.tools:
            body["tools"] = row.tools
        return _ids(self._answer(self.http.post(f"{self.url}/tokenize", json=body)), "tokens")

    def logprobs(self, token_ids: Sequence[int]) -> tuple[list[float | None], list[str]]:
        """Return the log-probability of each token given those before it, and its text."""
        body: dict[str, Any] = {
            "prompt": list(token_ids),
            "max_tokens": 0,
            "echo": True,
            "logprobs": 1,
            "temperature": 0,
        }
        body |= self.named
        answer = self._answer(self.http.post(f"{self.url}/v1/completions", json=body))
        try:
            logprobs = answer["choices"][0]["logprobs"]
            return list(logprobs["token_logprobs"]), [str(text) for text in logprobs.get("tokens") or []]
        except (LookupError, TypeError) as error:
            raise _Refusal("the worker's answer has no choices[0].logprobs.token_logprobs") from error

    def text(self, token_ids: Sequence[int]) -> str:
        """Return tokens as text, for people."""
        first_ids = list(token_ids[:SHOWN_TOKENS])
        if not first_ids:
            return "the end"
        try:
            return f"{''.join(self.logprobs(first_ids)[1])!r} (ids {first_ids})"
        except _Refusal:
            return f"ids {first_ids}"

    def _answer(self, response: httpx.Response) -> dict[str, Any]:
        if response.is_error:
            raise _Refusal(
                f"the worker answers {response.request.url.path} with {response.status_code}: {why(response)}"
            )
        return dict(response.json())


def _ids(answer: Mapping[str, Any], name: str) -> list[int]:
    tokens = answer.get(name)
    if not isinstance(tokens, list):
        raise _Refusal(f"the worker's answer has no list '{name}'")
    return [int(token) for token in tokens]


def _compare_stops(worker: _Worker, reference: Reference) -> Iterator[str]:
    try:
        worker_stops = worker.stop_token_ids()
    except _Refusal as refusal:
        yield f"EOS: {refusal}."
        return
    missing = [token for token in reference.stop_token_ids if token not in worker_stops]
    if missing:
        yield (
            f"EOS: the worker stops at the tokens {worker_stops}; in evaluation {worker.text(missing)} ended a turn too. "
            "Look at eos_token_id in generation_config.json and config.json, and eos_token in tokenizer_config.json."
        )
    cut = sorted((set(worker_stops) - set(reference.stop_token_ids)) & _answer_tokens(reference))
    if cut:
        yield f"EOS: the worker stops at {worker.text(cut)} as well, which stands inside of answers and would cut them off."


def _answer_tokens(reference: Reference) -> set[int]:
    """Return the tokens of the last answers."""
    return {
        token
        for row in reference.rows
        if row.token_ids[: len(row.prompt_token_ids)] == row.prompt_token_ids
        for token in row.token_ids[len(row.prompt_token_ids) :]
    }


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
                token_ids = worker.tokenize(row, is_prompt)
            except _Refusal as refusal:
                kind, text = "template", f"{refusal}"
            else:
                if token_ids == expected:
                    continue
                kind, text = _explain(worker, expected, token_ids, reference.stop_token_ids)
            key = f"{kind} of a {what}"
            first.setdefault(key, f"{kind}: row {number}, {what}: {text}.")
            counts[key] = counts.get(key, 0) + 1
    for key, text in first.items():
        yield f"{text} Rows that differ so: {counts[key]} of {len(reference.rows)}."


def _explain(worker: _Worker, expected: Sequence[int], actual: Sequence[int], stops: Sequence[int]) -> tuple[str, str]:
    """Say which part of the rendering differs, from its token ids."""
    if actual == expected[1:]:
        return "BOS", f"the worker leaves out the first token, {worker.text(expected[:1])}"
    if actual[1:] == expected:
        return "BOS", f"the worker puts {worker.text(actual[:1])} before the first token"
    if actual[1:] == expected[1:]:
        return "BOS", f"the first token is {worker.text(actual[:1])}, in evaluation it was {worker.text(expected[:1])}"
    at = next(
        (i for i, (a, b) in enumerate(zip(expected, actual, strict=False)) if a != b), min(len(expected), len(actual))
    )
    if _differs_only_at_stops(expected, actual, stops):
        return "EOS", (
            f"a turn ends with {worker.text(actual[at : at + 1])} at position {at}, "
            f"in evaluation with {worker.text(expected[at : at + 1])}"
        )
    return "template", (
        f"the token ids differ from position {at} on: the worker has {worker.text(actual[at:])}, "
        f"evaluation had {worker.text(expected[at:])}, after {worker.text(expected[max(0, at - SHOWN_TOKENS) : at])}"
    )


def _differs_only_at_stops(expected: Sequence[int], actual: Sequence[int], stops: Sequence[int]) -> bool:
    if len(expected) == len(actual):
        return all(a in stops for a, b in zip(expected, actual, strict=True) if a != b)
    expected_content = [token for token in expected if token not in stops]
    return expected_content == [token for token in actual if token not in stops]


def _compare_weights(worker: _Worker, reference: Reference, stored: Weights) -> tuple[list[str], Distance | None]:
    """Give every row's ids to the worker as they are, whatever its template; return the faults and the distance."""
    worker_logprobs = []
    for number, row in enumerate(reference.rows):
        try:
            logprobs, _ = worker.logprobs(row.token_ids)
        except _Refusal as refusal:
            return [f"{stored}: row {number}: {refusal}."], None
        if len(logprobs) != len(row.logprobs):
            counts = f"{len(logprobs)} log-probabilities for {len(row.logprobs)} tokens"
            return [f"{stored}: row {number}: the worker gave {counts}."], None
        worker_logprobs.append(logprobs)
    distance = measure(reference, worker_logprobs)
    return list(_weight_faults(worker, reference, stored, distance)), distance


def _weight_faults(worker: _Worker, reference: Reference, stored: Weights, distance: Distance) -> Iterator[str]:
    meaning = {
        "adapter": "the adapter isn't the one that was evaluated, isn't applied as it was, or stands on another base",
        "merge": "the adapter wasn't merged into the weights as it was evaluated",
        "weights": "the weights aren't those that were evaluated",
    }[stored]
    if distance.largest.size > reference.tolerance:
        where = _where(worker, reference, distance.largest)
        yield f"{stored}: {where}; they may differ by {reference.tolerance:g}: {meaning}."
    if reference.mean_tolerance is not None and distance.mean > reference.mean_tolerance:
        yield (
            f"{stored}: the log-probabilities differ by {distance.mean:.4f} on average, and may by "
            f"{reference.mean_tolerance:g}: {meaning}."
        )
    if distance.is_base:
        yield f"{stored}: the worker answers as the base, not as the tuned model (it shows {distance.share:.0%} of the tuning)."
    if distance.is_overdone:
        yield f"{stored}: the worker shows {distance.share:.0%} of the tuning: it is applied more than once, or scaled up."


def _where(worker: _Worker, reference: Reference, difference: Difference) -> str:
    token = reference.rows[difference.row].token_ids[difference.position]
    actual = "none" if difference.actual is None else f"{difference.actual:.4f}"
    return (
        f"row {difference.row}, position {difference.position}, token {worker.text([token])}: log-probability {actual}, "
        f"in evaluation {difference.expected:.4f}, which is {difference.size:.4f} apart"
    )


def _record(reference: Reference, distance: Distance | None) -> dict[str, Any]:
    compared: dict[str, Any] = {
        "rows": len(reference.rows),
        "tokens": sum(len(row.token_ids) for row in reference.rows),
        "tolerance": reference.tolerance,
        "mean_tolerance": reference.mean_tolerance,
        "dtype": reference.dtype,
    }
    if distance is None:
        return compared
    return compared | {
        "largest_difference": _finite(distance.largest.size),
        "largest_at": {"row": distance.largest.row, "position": distance.largest.position},
        "mean_difference": _finite(distance.mean),
        "tuning_share": distance.share,
        "is_told_from_base": distance.is_told_from_base,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def why(response: httpx.Response) -> str:
    """Return what a worker's answer says is wrong."""
    try:
        body = response.json()
    except ValueError:
        return response.text[:200]
    error = body.get("error", body) if isinstance(body, dict) else body
    return str(error.get("message", error) if isinstance(error, dict) else error)[:200]
