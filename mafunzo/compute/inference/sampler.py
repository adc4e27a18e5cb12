"""Sampling: from a row of logits to a token, by temperature, top-k, top-p (nucleus) and seed; and log-probabilities.

A request draws from its own generator, one number a token, so its tokens don't depend on the rest of the batch.
Shapes: V the vocabulary.
"""

import secrets
from dataclasses import dataclass

import torch
from torch import Tensor

NUCLEUS_CANDIDATES = 512


@dataclass(frozen=True)
class Sampling:
    """Sampling parameters.

    temperature: 0 is greedy decoding. top_p: the least probability mass to sample from, in (0, 1].
    top_k: how many tokens to sample from, 0 for all. seed: None draws a fresh one.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None


@dataclass(frozen=True)
class TokenLogprob:
    """A token with the network's own log-probability (before temperature), and the most likely ones in its place."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


class Sampler:
    """Samples the tokens of one request; holds its random state."""

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = sampling
        self._generator = torch.Generator()
        seed = secrets.randbits(63) if sampling.seed is None else sampling.seed % 2**63
        self._generator.manual_seed(seed)

    def choose(self, logits_V: Tensor) -> int:
        """Return the next token's id."""
        if self.sampling.temperature == 0:
            return int(logits_V.argmax())
        draw = float(torch.rand((), generator=self._generator, dtype=torch.float64))
        return draw_token(logits_V, self.sampling, draw)


def draw_token(logits_V: Tensor, sampling: Sampling, draw: float) -> int:
    """Return the token at the quantile `draw`, uniform in [0, 1), of the tempered and truncated distribution.

    The order is that of `transformers`: temperature, then top-k, then top-p over what is left.
    """
    logits_V = logits_V.float().cpu() / sampling.temperature
    if 0 < sampling.top_k < len(logits_V):
        top_logits, ids = logits_V.topk(sampling.top_k)
        probs = top_logits.softmax(-1)
    elif sampling.top_p < 1:
        probs, ids = _nucleus_candidates(logits_V, sampling.top_p)
    else:
        probs, ids = logits_V.softmax(-1), None
    if sampling.top_p < 1:
        probs = _keep_nucleus(probs, sampling.top_p)
    cumulative = probs.double().cumsum(-1)
    index = int(torch.searchsorted(cumulative, draw * float(cumulative[-1]), right=True))
    index = min(index, len(cumulative) - 1)
    return index if ids is None else int(ids[index])


def _nucleus_candidates(logits_V: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    """Return the largest probabilities, sorted, with their ids: few where they hold `top_p`, since a full sort is slow."""
    log_total = logits_V.logsumexp(-1)
    logits, ids = logits_V.topk(min(NUCLEUS_CANDIDATES, len(logits_V)))
    probs = (logits - log_total).exp()
    if float(probs.sum()) >= top_p:
        return probs, ids
    logits, ids = logits_V.sort(descending=True)
    return (logits - log_total).exp(), ids


def _keep_nucleus(sorted_probs: Tensor, top_p: float) -> Tensor:
    """Keep the shortest prefix whose mass reaches `top_p`, at least one token."""
    before = sorted_probs.cumsum(-1) - sorted_probs
    before[0] = -1.0
    return sorted_probs * (before < top_p)


def logprob(logits_V: Tensor, token_id: int, top: int = 0) -> TokenLogprob:
    """Return the log-probability of `token_id`, and of the `top` most likely tokens."""
    logprobs_V = logits_V.float().log_softmax(-1)
    best: tuple[tuple[int, float], ...] = ()
    if top:
        values, ids = logprobs_V.topk(min(top, len(logprobs_V)))
        best = tuple(zip(ids.tolist(), values.tolist(), strict=True))
    return TokenLogprob(token_id, float(logprobs_V[token_id]), best)
