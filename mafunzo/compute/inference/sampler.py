"""Sampling: from a row of logits to a token, by penalties, biases, temperature, top-k, top-p (nucleus), min-p and seed; and
log-probabilities.

A request draws from its own generator, one number a token, so its tokens don't depend on the rest of the batch.
Shapes: V the vocabulary.
"""

import secrets
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

NUCLEUS_CANDIDATES = 512
COLDEST = 1e-5
"""Below, a temperature means greedy decoding: dividing by it would overflow."""


@dataclass(frozen=True)
class Sampling:
    """Sampling parameters.

    temperature: 0 is greedy decoding. top_p: the least probability mass to sample from, in (0, 1].
    top_k: how many tokens to sample from, 0 for all. seed: None draws a fresh one. min_p: the least probability, as a share
    of the most likely token's. The presence penalty is subtracted from the logit of each token of the reply, the frequency
    penalty as often as it stands there; the repetition penalty divides a positive logit, and multiplies a negative one, of
    each token of prompt and reply. logit_bias: what is added, by token id.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)

    @property
    def is_greedy(self) -> bool:
        """Whether the most likely token is taken."""
        return self.temperature < COLDEST

    @property
    def changes_logits(self) -> bool:
        """Whether anything is done to the logits before they are scaled."""
        penalties = (self.presence_penalty, self.frequency_penalty, self.repetition_penalty - 1)
        return bool(self.logit_bias) or any(penalties)


@dataclass(frozen=True)
class TokenLogprob:
    """A token with the network's own log-probability (before temperature), and the most likely ones in its place."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


class Sampler:
    """Samples the tokens of one request; holds its random state, and what penalties need to know of prompt and reply."""

    def __init__(self, sampling: Sampling, prompt_ids: Iterable[int] = ()) -> None:
        self.sampling = sampling
        self._generator = torch.Generator()
        seed = secrets.randbits(63) if sampling.seed is None else sampling.seed % 2**63
        self._generator.manual_seed(seed)
        self._counts: Counter[int] = Counter()
        self._seen = set(prompt_ids) if sampling.repetition_penalty != 1 else set()

    def choose(self, logits_V: Tensor) -> int:
        """Return the next token's id."""
        if self.sampling.changes_logits:
            logits_V = self._penalized(logits_V)
        if self.sampling.is_greedy:
            token_id = int(logits_V.argmax())
        else:
            draw = float(torch.rand((), generator=self._generator, dtype=torch.float64))
            token_id = draw_token(logits_V, self.sampling, draw)
        self._counts[token_id] += 1
        return token_id

    def _penalized(self, logits_V: Tensor) -> Tensor:
        """Return a copy of the logits with repetition penalty, then the other penalties, then biases: vLLM's order."""
        sampling, logits_V = self.sampling, logits_V.float().cpu().clone()
        if sampling.repetition_penalty != 1:
            ids = torch.tensor(sorted(self._seen | set(self._counts)))
            values = logits_V[ids]
            factor = sampling.repetition_penalty
            logits_V[ids] = torch.where(values > 0, values / factor, values * factor)
        if self._counts and (sampling.presence_penalty or sampling.frequency_penalty):
            counts = torch.tensor(list(self._counts.values()), dtype=torch.float32)
            ids = torch.tensor(list(self._counts))
            logits_V[ids] -= sampling.presence_penalty + sampling.frequency_penalty * counts
        if sampling.logit_bias:
            logits_V[torch.tensor(list(sampling.logit_bias))] += torch.tensor(list(sampling.logit_bias.values()))
        return logits_V


def draw_token(logits_V: Tensor, sampling: Sampling, draw: float) -> int:
    """Return the token at the quantile `draw`, uniform in [0, 1), of the tempered and truncated distribution.

    The order is that of `transformers`: temperature, then top-k, then top-p over what is left, then min-p.
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
    if sampling.min_p > 0:
        probs = probs * (probs >= sampling.min_p * probs.max())
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
