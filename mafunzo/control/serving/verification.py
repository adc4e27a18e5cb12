"""The proof that serving equals training: a worker is compared, over HTTP, with what plain transformers gave in evaluation.

`serving_reference.json` in the model's folder holds held-out conversations of the job, their token ids and the log-probability
of each token under the tuned network. The worker must render the same ids, stop at the same tokens, and give the same
log-probabilities within the stated tolerance. Each fault begins with what differs: template, BOS, EOS, adapter, merge, weights.

A worker that computes in a lower precision than evaluation did is held to what that precision explains, and what it costs in
quality is written down: the perplexity of the same text, by the worker and by evaluation.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from mafunzo.control.serving.decide import Verdict
from mafunzo.control.serving.greedy import Agreement, Disagreement, Top, agreement
from mafunzo.control.serving.logprob import Difference, Distance, measure
from mafunzo.control.serving.reference import Reference, ReferenceRow, Weights, how_stored, read_reference
from mafunzo.entities.verification import ProofResult, is_lower_precision
from mafunzo.errors import InvalidParameter, MafunzoError
from mafunzo.protocol.completions import TOKEN_ID

REQUEST_TIMEOUT_S = 300.0
SHOWN_TOKENS = 5
LIKELIEST = 2
"""How many of the likeliest tokens are asked for: the second says by how much the first is ahead."""


def verify_folder(
    folder: Path,
    url: str,
    headers: Mapping[str, str],
    model: str | None = None,
    timeout_s: float = REQUEST_TIMEOUT_S,
) -> Verdict:
    """Compare the worker at `url` with the reference in a model's folder, as `verify` does; timeout_s: of each request.

    A model without a reference is `unverified`, and one whose reference can't be read is refused.
    """
    try:
        reference = read_reference(folder)
        client = httpx.Client(timeout=timeout_s, trust_env=False, headers=headers)
        if reference is None:
            return _unverified(url, how_stored(folder), client, model)
        return verify(url, reference, how_stored(folder), client, model=model)
    except MafunzoError as error:
        return refused(error.message, *error.faults)


def _unverified(url: str, stored: Weights, client: httpx.Client, model: str | None) -> Verdict:
    with client as http:
        try:
            facts, _ = _facts(_Worker.of(http, url, model))
        except httpx.TransportError as error:
            return Verdict(broke=f"{type(error).__name__}: {error}")
    reason = "The model wasn't tuned here: there is nothing to compare with."
    return Verdict(record={"result": ProofResult.UNVERIFIED.value, "reason": reason, "stored": stored, **facts.record})


def refused(*faults: str) -> Verdict:
    """Return the verdict on a model that couldn't be compared for faults of its own."""
    return Verdict(faults, {"result": ProofResult.REFUSED.value, "faults": list(faults)})


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
        worker = _Worker.of(http, url, model)
        try:
            facts, faults = _facts(worker)
            reference = reference.held_to(facts.dtype)
            faults += _compare_stops(worker, facts, reference)
            token_faults, exact_rows = _compare_tokens(worker, reference)
            weight_faults, distance, greedy = _compare_weights(worker, reference, stored)
        except httpx.TransportError as error:
            return Verdict(broke=f"{type(error).__name__}: {error}")
    faults += [*token_faults, *weight_faults]
    result = ProofResult.REFUSED if faults else ProofResult.VERIFIED
    compared = (
        _record(reference, stored, facts, exact_rows)
        | _distance_record(reference, facts, distance)
        | _greedy_record(greedy)
    )
    return Verdict(tuple(faults), compared | {"result": result.value, "faults": faults})


class _Refusal(Exception):
    """The worker answered a request of the comparison with an error."""


@dataclass(frozen=True)
class _Facts:
    """What a worker says of itself. dtype: what it computes in; empty where it doesn't say, as the engine. stop_token_ids: None
    where it doesn't say."""

    stop_token_ids: list[int] | None = None
    engine: str = ""
    dtype: str = ""

    @property
    def record(self) -> dict[str, str]:
        known = {"engine": self.engine, "worker_dtype": self.dtype}
        return {name: value for name, value in known.items() if value}


@dataclass(frozen=True)
class _Scores:
    """The log-probability of each token given those before it, and the likeliest tokens there; tops: None where untold."""

    logprobs: list[float | None]
    tops: list[Top | None] | None


@dataclass(frozen=True)
class _Worker:
    http: httpx.Client
    url: str
    named: Mapping[str, str]

    @staticmethod
    def of(http: httpx.Client, url: str, model: str | None) -> "_Worker":
        return _Worker(http, url, {} if model is None else {"model": model})

    def facts(self) -> _Facts:
        answer = self._answer(self.http.get(f"{self.url}/info", params=self.named))
        return _Facts(_ids(answer, "stop_token_ids"), str(answer.get("engine") or ""), str(answer.get("dtype") or ""))

    def tokenize(self, row: ReferenceRow, is_prompt: bool) -> list[int]:
        body: dict[str, Any] = {
            "messages": row.messages[:-1] if is_prompt else row.messages,
            "add_generation_prompt": is_prompt,
            **self.named,
        }
        if row.tools:
            body["tools"] = row.tools
        return _ids(self._answer(self.http.post(f"{self.url}/tokenize", json=body)), "tokens")

    def scores(self, token_ids: Sequence[int]) -> _Scores:
        scored = self._score(token_ids, logprobs=LIKELIEST, return_tokens_as_token_ids=True)
        if (
            scored.status_code == InvalidParameter.status
        ):  # an engine of another make, which knows tokens by their texts only
            scored = self._score(token_ids, logprobs=1)
        logprobs = self._logprobs(scored)
        values, tops = list(logprobs["token_logprobs"]), _tops(logprobs.get("top_logprobs"))
        return _Scores(values, tops if tops is not None and len(tops) == len(values) else None)

    def text(self, token_ids: Sequence[int]) -> str:
        """Return tokens as text, for people."""
        first_ids = list(token_ids[:SHOWN_TOKENS])
        if not first_ids:
            return "the end"
        try:
            texts = self._logprobs(self._score(first_ids, logprobs=1)).get("tokens") or []
            return f"{''.join(map(str, texts))!r} (ids {first_ids})"
        except _Refusal:
            return f"ids {first_ids}"

    def _score(self, token_ids: Sequence[int], **options: Any) -> httpx.Response:
        body = {"prompt": list(token_ids), "max_tokens": 0, "echo": True, "temperature": 0, **options, **self.named}
        return self.http.post(f"{self.url}/v1/completions", json=body)

    def _logprobs(self, response: httpx.Response) -> dict[str, Any]:
        answer = self._answer(response)
        try:
            logprobs = dict(answer["choices"][0]["logprobs"])
            list(logprobs["token_logprobs"])
        except (LookupError, TypeError, ValueError) as error:
            raise _Refusal("the worker's answer has no choices[0].logprobs.token_logprobs") from error
        return logprobs

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


def _tops(tops: Sequence[Mapping[str, float] | None] | None) -> list[Top | None] | None:
    """Return the likeliest tokens by their ids; None where an engine names them by their texts, which several may share."""
    if tops is None or not all(name.startswith(TOKEN_ID) for top in tops for name in top or ()):
        return None
    return [
        None if top is None else {int(name.removeprefix(TOKEN_ID)): float(value) for name, value in top.items()}
        for top in tops
    ]


def _facts(worker: _Worker) -> tuple[_Facts, list[str]]:
    try:
        return worker.facts(), []
    except _Refusal as refusal:
        return _Facts(), [f"EOS: {refusal}."]


def _compare_stops(worker: _Worker, facts: _Facts, reference: Reference) -> Iterator[str]:
    if facts.stop_token_ids is None:
        return
    missing = [token for token in reference.stop_token_ids if token not in facts.stop_token_ids]
    if missing:
        yield (
            f"EOS: the worker stops at the tokens {facts.stop_token_ids}; in evaluation {worker.text(missing)} ended a turn "
            "too. Look at eos_token_id in generation_config.json and config.json, and eos_token in tokenizer_config.json."
        )
    cut = sorted((set(facts.stop_token_ids) - set(reference.stop_token_ids)) & _answer_tokens(reference))
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


def _compare_tokens(worker: _Worker, reference: Reference) -> tuple[list[str], int]:
    """Return a fault for the first row of each kind of difference, with how many rows have it; and how many rows have none."""
    first: dict[str, str] = {}
    counts: dict[str, int] = {}
    differing: set[int] = set()
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
            differing.add(number)
            key = f"{kind} of a {what}"
            first.setdefault(key, f"{kind}: row {number}, {what}: {text}.")
            counts[key] = counts.get(key, 0) + 1
    rows = len(reference.rows)
    return [f"{text} Rows that differ so: {counts[key]} of {rows}." for key, text in first.items()], rows - len(
        differing
    )


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


def _compare_weights(
    worker: _Worker, reference: Reference, stored: Weights
) -> tuple[list[str], Distance | None, Agreement | None]:
    """Give every row's ids to the worker as they are, whatever its template; return the faults, the distance, and how far its
    likeliest tokens are evaluation's."""
    rows = []
    for number, row in enumerate(reference.rows):
        try:
            scores = worker.scores(row.token_ids)
        except _Refusal as refusal:
            return [f"{stored}: row {number}: {refusal}."], None, None
        if len(scores.logprobs) != len(row.logprobs):
            counts = f"{len(scores.logprobs)} log-probabilities for {len(row.logprobs)} tokens"
            return [f"{stored}: row {number}: the worker gave {counts}."], None, None
        rows.append(scores)
    distance = measure(reference, [scores.logprobs for scores in rows])
    greedy = agreement(reference, [scores.tops for scores in rows])
    faults = [*_weight_faults(worker, reference, stored, distance), *_greedy_faults(worker, reference, stored, greedy)]
    return faults, distance, greedy


_MEANING: Mapping[Weights, str] = {
    "adapter": "the adapter isn't the one that was evaluated, isn't applied as it was, or stands on another base",
    "merge": "the adapter wasn't merged into the weights as it was evaluated",
    "weights": "the weights aren't those that were evaluated",
}


def _weight_faults(worker: _Worker, reference: Reference, stored: Weights, distance: Distance) -> Iterator[str]:
    meaning = _MEANING[stored]
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


def _greedy_faults(worker: _Worker, reference: Reference, stored: Weights, greedy: Agreement | None) -> Iterator[str]:
    """Two log-probabilities that are right within the tolerance change places only where they are closer than twice of it."""
    widest = None if greedy is None else greedy.widest
    if widest is not None and widest.gap > 2 * reference.tolerance:
        yield f"{stored}: {_choices(worker, widest)}, which the tolerance doesn't explain: {_MEANING[stored]}."


def _choices(worker: _Worker, widest: Disagreement) -> str:
    return (
        f"row {widest.row}, position {widest.position}: the worker's likeliest token is {worker.text([widest.actual])}, in "
        f"evaluation {worker.text([widest.expected])}, and it is {widest.gap:.4f} ahead of that"
    )


def _where(worker: _Worker, reference: Reference, difference: Difference) -> str:
    token = reference.rows[difference.row].token_ids[difference.position]
    actual = "none" if difference.actual is None else f"{difference.actual:.4f}"
    return (
        f"row {difference.row}, position {difference.position}, token {worker.text([token])}: log-probability {actual}, "
        f"in evaluation {difference.expected:.4f}, which is {difference.size:.4f} apart"
    )


def _record(reference: Reference, stored: Weights, facts: _Facts, exact_rows: int) -> dict[str, Any]:
    return {
        "stored": stored,
        **facts.record,
        "dtype": reference.dtype,
        "rows": len(reference.rows),
        "exact_rows": exact_rows,
        "tokens": sum(len(row.token_ids) for row in reference.rows),
        "tolerance": reference.tolerance,
        "mean_tolerance": reference.mean_tolerance,
    }


def _distance_record(reference: Reference, facts: _Facts, distance: Distance | None) -> dict[str, Any]:
    if distance is None:
        return {}
    record = {
        "largest_difference": _finite(distance.largest.size),
        "largest_at": {"row": distance.largest.row, "position": distance.largest.position},
        "mean_difference": _finite(distance.mean),
        "signed_mean_difference": _finite(distance.signed_mean),
        "tuning_share": distance.share,
        "is_told_from_base": distance.is_told_from_base,
    }
    if is_lower_precision(facts.dtype, reference.dtype):
        record["perplexity_ratio"] = _finite(distance.perplexity_ratio)
    return record


def _greedy_record(greedy: Agreement | None) -> dict[str, Any]:
    return {} if greedy is None else {"greedy_positions": greedy.positions, "greedy_equal": greedy.equal}


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
