"""Greedy decoding of prompts (token ids), by the engine that serves."""

from collections.abc import Callable, Sequence
from typing import Any

from mafunzo.compute.inference.engine import GREEDY, Engine
from mafunzo.compute.inference.executor_torch import TorchExecutor
from mafunzo.compute.inference.request import GenerationRequest


def generate(
    executor: TorchExecutor,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    stop_token_ids: Sequence[int],
    batch_size: int,
    on_progress: Callable[[int], None],
) -> list[list[int]]:
    """Return each prompt's greedy continuation, up to and without the first stop token."""
    replies = []
    with Engine(executor, tokenizer, stop_token_ids, batch_size) as engine:
        streams = [engine.submit(GenerationRequest(tuple(ids), max_new_tokens, GREEDY)) for ids in prompts]
        for count, stream in enumerate(streams, start=1):
            replies.append(stream.reply().token_ids)
            on_progress(count)
    return replies
