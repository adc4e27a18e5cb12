"""The comparison of two executors: what is equal passes, and each way to be wrong is told."""

import copy

import pytest
import torch
from transformers import PreTrainedModel

from mafunzo.compute.inference.executor_torch import TorchExecutor
from mafunzo.compute.inference.self_check import EXACT, ROUNDED, Tolerance, difference
from tests.support.tiny_network import make_network

WINDOW = 24


def without_window(network: PreTrainedModel) -> None:
    network.config.sliding_window = 250


def with_other_head(network: PreTrainedModel) -> None:
    with torch.no_grad():
        network.get_output_embeddings().weight[0] *= -1.5


def with_rounded_weights(network: PreTrainedModel) -> None:
    network.bfloat16().float()


@pytest.mark.parametrize(
    ("change", "tolerance", "words"),
    [
        pytest.param(lambda network: None, EXACT, None, id="the same network"),
        pytest.param(without_window, EXACT, "logits are", id="a window that is lost"),
        pytest.param(without_window, ROUNDED, "logits are", id="a window that is lost, in bfloat16"),
        pytest.param(with_other_head, EXACT, "after 5 tokens", id="other weights"),
        pytest.param(with_rounded_weights, EXACT, "logits are", id="rounding, where there is to be none"),
        pytest.param(with_rounded_weights, ROUNDED, None, id="rounding"),
    ],
)
def test_what_differs_is_told(change: object, tolerance: Tolerance, words: str | None) -> None:
    network = make_network("mistral")
    other = copy.deepcopy(network)
    change(other)  # type: ignore[operator]
    why = difference(TorchExecutor(other), TorchExecutor(network), WINDOW, tolerance)
    assert why is None if words is None else words in str(why)


def test_both_caches_are_empty_afterwards() -> None:
    executors = [TorchExecutor(make_network("llama", max_position_embeddings=40)) for _ in range(2)]
    assert difference(*executors, window=0, tolerance=EXACT) is None
    assert all(executor.cache.layers[0].keys is None for executor in executors)
