"""Choosing tokens."""

import math
from typing import Any

import pytest
import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from mafunzo.compute.inference.sampler import Sampler, Sampling, draw_token, logprob


def some_logits(size: int = 3000, seed: int = 0, scale: float = 3.0) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed)) * scale


def test_greedy_takes_the_most_likely() -> None:
    logits = some_logits()
    assert Sampler(Sampling(temperature=0)).choose(logits) == int(logits.argmax())


@pytest.mark.parametrize(
    "sampling",
    [
        pytest.param(Sampling(), id="all"),
        pytest.param(Sampling(temperature=0.7), id="temperature"),
        pytest.param(Sampling(top_k=5), id="top_k"),
        pytest.param(Sampling(top_k=10**6), id="top_k beyond the vocabulary"),
        pytest.param(Sampling(top_p=0.8), id="top_p"),
        pytest.param(
            Sampling(temperature=3.0, top_p=0.99), id="a nucleus too large for the shortcut", marks=pytest.mark.slow
        ),
        pytest.param(Sampling(top_p=0.0), id="top_p 0 keeps one"),
        pytest.param(Sampling(temperature=1.5, top_k=40, top_p=0.6), id="all three"),
        pytest.param(Sampling(min_p=0.1), id="min_p"),
        pytest.param(Sampling(temperature=2.0, min_p=0.05, top_p=0.9), id="min_p of a nucleus", marks=pytest.mark.slow),
        pytest.param(Sampling(min_p=1.0), id="min_p 1 keeps the most likely"),
    ],
)
def test_the_distribution_is_that_of_transformers(sampling: Sampling) -> None:
    logits = some_logits()
    warpers = LogitsProcessorList([TemperatureLogitsWarper(sampling.temperature)])
    if sampling.top_k:
        warpers.append(TopKLogitsWarper(min(sampling.top_k, len(logits))))
    if sampling.top_p < 1:
        warpers.append(TopPLogitsWarper(sampling.top_p, min_tokens_to_keep=1))
    if sampling.min_p:
        warpers.append(MinPLogitsWarper(sampling.min_p))
    expected = warpers(torch.zeros(1, 1, dtype=torch.long), logits[None])[0].softmax(-1)
    draws = 4000
    counts = torch.zeros_like(logits)
    for i in range(draws):
        counts[draw_token(logits, sampling, (i + 0.5) / draws)] += 1
    assert (counts[expected == 0] == 0).all()
    # Evenly spaced quantiles: each token gets its share of them, to within one.
    assert (counts - expected * draws).abs().max() <= 1.01


def test_a_seed_gives_the_same_tokens_whatever_the_batch() -> None:
    rows = [some_logits(seed=s) for s in range(20)]
    alone = Sampler(Sampling(seed=11))
    expected = [alone.choose(row) for row in rows]
    sampler, neighbour, greedy = Sampler(Sampling(seed=11)), Sampler(Sampling(seed=5)), Sampler(Sampling(temperature=0))
    batches = [(neighbour.choose(row), sampler.choose(row), greedy.choose(row)) for row in rows]
    assert [tokens[1] for tokens in batches] == expected
    assert [tokens[2] for tokens in batches] == [int(row.argmax()) for row in rows]
    assert [tokens[0] for tokens in batches] != expected


def test_without_a_seed_two_requests_differ() -> None:
    rows = [some_logits(seed=s, scale=0.5) for s in range(20)]
    first, second = Sampler(Sampling()), Sampler(Sampling())
    assert [first.choose(row) for row in rows] != [second.choose(row) for row in rows]


@pytest.mark.parametrize("seed", [-1, 0, 2**63, 2**70])
def test_any_whole_number_is_a_seed(seed: int) -> None:
    Sampler(Sampling(seed=seed)).choose(some_logits())


def test_log_probabilities_are_of_the_network_and_in_order() -> None:
    logits = torch.tensor([0.0, math.log(2), math.log(5)])
    entry = logprob(logits, 1, top=2)
    assert entry.logprob == pytest.approx(math.log(2 / 8))
    assert [id for id, _ in entry.top] == [2, 1]
    assert entry.top[0][1] == pytest.approx(math.log(5 / 8))
    assert logprob(logits, 0).top == ()


@pytest.mark.parametrize("temperature", [0.0, 1e-30, 1e-300])
def test_a_temperature_too_small_to_divide_by_is_greedy(temperature: float) -> None:
    logits = some_logits()
    assert Sampler(Sampling(temperature=temperature)).choose(logits) == int(logits.argmax())


def greedy_ids(logits: torch.Tensor, count: int, prompt: tuple[int, ...] = (), **options: Any) -> list[int]:
    sampler = Sampler(Sampling(temperature=0, **options), prompt)
    return [sampler.choose(logits) for _ in range(count)]


def test_penalties_of_a_reply_grow_with_its_tokens() -> None:
    logits = torch.tensor([3.0, 2.5, 1.0])
    assert greedy_ids(logits, 3) == [0, 0, 0]
    assert greedy_ids(logits, 4, presence_penalty=1.0) == [0, 1, 0, 0]  # 3, then 2.5 of 2, then 2 of 1.5, once only
    assert greedy_ids(logits, 5, frequency_penalty=1.0) == [0, 1, 0, 1, 0]  # equal ones: the first
    assert greedy_ids(logits, 2, prompt=(0,), presence_penalty=1.0, frequency_penalty=1.0)[0] == 0
    assert torch.equal(logits, torch.tensor([3.0, 2.5, 1.0])), "the logits are others' too"


def test_the_repetition_penalty_is_that_of_transformers() -> None:
    logits, prompt = some_logits(50), (3, 7, 7, 20)
    reference = RepetitionPenaltyLogitsProcessor(1.8)
    ids = list(prompt)
    for token_id in greedy_ids(logits, 8, prompt, repetition_penalty=1.8):
        assert token_id == int(reference(torch.tensor([ids]), logits[None].clone())[0].argmax())
        ids.append(token_id)


def test_a_bias_forbids_or_forces_a_token() -> None:
    logits = torch.tensor([3.0, 2.5, 1.0])
    assert greedy_ids(logits, 1, logit_bias={0: -100.0}) == [1]
    assert greedy_ids(logits, 1, logit_bias={2: 100.0, 1: 50.0}) == [2]
    sampler = Sampler(Sampling(logit_bias={2: 100.0}))
    assert {sampler.choose(logits) for _ in range(50)} == {2}
