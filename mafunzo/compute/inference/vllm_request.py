"""A generation request in the words of vLLM's `/v1/completions`, and its answers' tokens in ours.

Prompt and reply cross as token ids (`prompt`, `return_token_ids`), never as text: what is served is what was trained. vLLM
isn't told of stop strings, which `ReplyWriter` finds as it does for every engine.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mafunzo.compute.inference.request import GenerationRequest
from mafunzo.compute.inference.sampler import COLDEST, Sampling, TokenLogprob
from mafunzo.errors import InvalidParameter, MafunzoError, NotFound, WorkerFailed
from mafunzo.protocol.completions import TOKEN_ID

LEAST_TEMPERATURE = 0.01
"""vLLM samples no colder than this: it would take a lower temperature for this one."""


def require_honoured(request: GenerationRequest) -> None:
    """Raise `InvalidParameter` for what vLLM would take and do otherwise."""
    temperature = request.sampling.temperature
    if COLDEST <= temperature < LEAST_TEMPERATURE:
        raise InvalidParameter(
            f"temperature is {temperature:g}, expected 0 (the most likely token), or {LEAST_TEMPERATURE:g} and more: vLLM, "
            "which computes this deployment, samples no colder.",
            param="temperature",
        )


def completion_body(
    request: GenerationRequest, model: str, max_tokens: int, stops: frozenset[int], eos_token_id: int | None
) -> dict[str, Any]:
    """Return the body that asks vLLM for it. Whole where the prompt's log-probabilities are asked for, else a stream.

    max_tokens: at most so many. stops: the tokens that end the reply; vLLM knows no others, so `ignore_eos` is always true.
    eos_token_id: that of the tokenizer which vLLM has.
    """
    body: dict[str, Any] = {
        "model": model,
        "prompt": list(request.prompt_token_ids),
        "max_tokens": max(1, max_tokens),  # vLLM generates one also where only the prompt is read
        "ignore_eos": True,
        "stop_token_ids": sorted(stops),
        "return_token_ids": True,
        **_sampling(request.sampling),
    }
    if request.logprobs is not None and max_tokens:
        body |= {"logprobs": request.logprobs, "return_tokens_as_token_ids": True}
    if request.grammar is not None:
        body["structured_outputs"] = {"grammar": ending_with(request.grammar.text, stops - {eos_token_id})}
    if request.cache_salt:
        body["cache_salt"] = request.cache_salt
    if request.prompt_logprobs is not None:
        return body | {"prompt_logprobs": request.prompt_logprobs}
    return body | {"stream": True, "stream_options": {"include_usage": True}}


def ending_with(grammar: str, token_ids: Collection[int]) -> str:
    """Return a grammar after which any of these tokens may stand: where a reply may end, vLLM allows none but its
    tokenizer's EOS, and most models end a turn with another one."""
    if not token_ids:
        return grammar
    ends = ",".join(map(str, sorted(token_ids)))
    return re.sub(r"^start:", f"start: reply <[{ends}]>?\nreply:", grammar, count=1, flags=re.MULTILINE)


def _sampling(sampling: Sampling) -> dict[str, Any]:
    """Return all that decides the choice of a token, so that no default of the server's does."""
    body: dict[str, Any] = {
        "temperature": 0 if sampling.is_greedy else sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "repetition_penalty": sampling.repetition_penalty,
    }
    if sampling.seed is not None:
        body["seed"] = sampling.seed % 2**63
    if sampling.logit_bias:
        body["logit_bias"] = {str(id): bias for id, bias in sampling.logit_bias.items()}
    return body


def tokens_of(choice: Mapping[str, Any], top: int | None) -> list[tuple[int, TokenLogprob | None]]:
    """Return the new tokens of an answer's choice, with their log-probabilities where `top` alternatives were asked for."""
    ids = [int(id) for id in choice.get("token_ids") or ()]
    if top is None:
        return [(id, None) for id in ids]
    logprobs = choice["logprobs"]
    values, tops = logprobs["token_logprobs"], logprobs["top_logprobs"]
    return [(id, _entry(id, value, _by_id(best), top)) for id, value, best in zip(ids, values, tops, strict=True)]


def prompt_logprobs_of(choice: Mapping[str, Any], ids: Sequence[int], top: int) -> tuple[TokenLogprob | None, ...]:
    """Return the log-probabilities of a prompt's tokens; the first has none."""
    entries = []
    for id, known in zip(ids, choice["prompt_logprobs"], strict=True):
        values = {int(other): float(one["logprob"]) for other, one in (known or {}).items()}
        entries.append(_entry(id, values[id], values, top) if values else None)
    return tuple(entries)


def _by_id(best: Mapping[str, float] | None) -> dict[int, float]:
    return {int(name.removeprefix(TOKEN_ID)): value for name, value in (best or {}).items()}


def _entry(id: int, value: float, best: Mapping[int, float], top: int) -> TokenLogprob:
    """vLLM lists the token itself among the most likely ones, whether it is one of them or not."""
    ranked = sorted(best.items(), key=lambda one: -one[1])[:top]
    return TokenLogprob(id, float(value), tuple((other, float(one)) for other, one in ranked))


def cached_tokens_of(usage: Mapping[str, Any] | None) -> int:
    """Return how many of the prompt's tokens were in the prefix cache."""
    details = (usage or {}).get("prompt_tokens_details") or {}
    return int(details.get("cached_tokens") or 0)


def error_of(body: Any, status: int) -> MafunzoError:
    """Return what an error of vLLM's means: its body, and the HTTP status that it came with."""
    error = body.get("error", body) if isinstance(body, dict) else body
    text = str(error.get("message", error) if isinstance(error, dict) else error)[:500]
    if status == 404:
        return NotFound(f"vLLM doesn't know the model or adapter: {text}")
    if 400 <= status < 500:
        param = error.get("param") if isinstance(error, dict) else None
        return InvalidParameter(f"vLLM refuses the request: {text}", param=str(param) if param else None)
    return WorkerFailed(f"vLLM failed: {text}")
