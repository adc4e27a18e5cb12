"""Our engine against transformers' own generate, on the same weights, prompts, threads and minutes.

    python benchmarks/bench_serving.py [--model FOLDER] [--rounds 3]

Each round measures both, one after the other, so that what else runs on the machine hits both; the result is the median of
the rounds' ratios. A batch of N is N prompts of 200 tokens with 64 new tokens each; output tokens a second, prefill included.
`generate` gets all prompts at once as a static batch, its best case: equal lengths, and none arrives late.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from record import cached_model, machine, write
from transformers import PreTrainedModel

from mafunzo.compute.chat.tokenizer import load_tokenizer
from mafunzo.compute.inference.engine import GREEDY, Engine
from mafunzo.compute.inference.executor_torch import TorchExecutor
from mafunzo.compute.inference.loading import serving_dtype
from mafunzo.compute.inference.request import Delta, GenerationRequest
from mafunzo.compute.model.loading import load_network

PROMPT_TOKENS, NEW_TOKENS = 200, 64
BATCHES = (1, 8, 16)


def main() -> None:
    """Measure, print a table, and write the results file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=None, help="a Hugging Face folder; default: the cached SmolLM2")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    model = arguments.model or cached_model()
    facts = machine()
    torch.set_num_threads(facts["threads"])
    tokenizer = load_tokenizer(model)
    prompts = make_prompts(tokenizer, max(BATCHES))
    dtype = serving_dtype(model, "cpu")  # what a worker computes in on this machine, and so both sides
    plain = load_network(model, dtype=dtype)
    executor = TorchExecutor(load_network(model, dtype=dtype), pack_weights=True)
    rounds: list[dict[str, dict[str, float]]] = []
    # Each round has the same prompts, which `generate` computes each time.
    with Engine(executor, tokenizer, max_batch=max(BATCHES), keeps_prefixes=False) as engine:
        ours_decode(engine, prompts[:2])
        plain_decode(plain, prompts[:1])
        for _ in range(arguments.rounds):
            rounds.append(measure(engine, plain, prompts))
            print(json.dumps(rounds[-1]), flush=True)
    write("serving", summarize(rounds) | facts | {"model": model.name, "dtype": str(executor.dtype)})


def measure(engine: Engine, plain: PreTrainedModel, prompts: list[list[int]]) -> dict[str, dict[str, float]]:
    """Return one round: a name to what both reached, and the ratio, above 1 where ours is better."""
    ours_s, plain_s = time_to_first(engine, prompts[0]), seconds(lambda: plain_generate(plain, prompts[:1], 1))
    found = {"first token, ms": {"ours": ours_s * 1e3, "generate": plain_s * 1e3, "ratio": plain_s / ours_s}}
    for size in BATCHES:
        tokens = size * NEW_TOKENS
        ours = tokens / seconds(lambda size=size: ours_decode(engine, prompts[:size]))  # type: ignore[misc]
        theirs = tokens / seconds(lambda size=size: plain_decode(plain, prompts[:size]))  # type: ignore[misc]
        found[f"batch {size}, tokens/s"] = {"ours": ours, "generate": theirs, "ratio": ours / theirs}
    return found


def ours_decode(engine: Engine, prompts: list[list[int]]) -> None:
    """Answer prompts through the engine."""
    streams = [
        engine.submit(GenerationRequest(tuple(prompt), NEW_TOKENS, GREEDY, ignore_eos=True)) for prompt in prompts
    ]
    assert all(len(stream.reply().token_ids) == NEW_TOKENS for stream in streams)


def plain_decode(network: PreTrainedModel, prompts: list[list[int]]) -> None:
    """Answer prompts by transformers."""
    plain_generate(network, prompts, NEW_TOKENS)


def plain_generate(network: PreTrainedModel, prompts: list[list[int]], new_tokens: int) -> None:
    """Run generate over one static batch."""
    ids = torch.tensor(prompts)
    with torch.inference_mode():
        output = network.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=new_tokens, do_sample=False, eos_token_id=None
        )
    assert output.shape[1] == PROMPT_TOKENS + new_tokens


def time_to_first(engine: Engine, prompt: list[int]) -> float:
    """Return the seconds until the first token of one reply."""
    started = time.perf_counter()
    stream = engine.submit(GenerationRequest(tuple(prompt), 1, GREEDY, ignore_eos=True))
    next(event for event in stream if isinstance(event, Delta))
    return time.perf_counter() - started


def seconds(work: Callable[[], None]) -> float:
    """Return how long `work` takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def make_prompts(tokenizer: Any, count: int) -> list[list[int]]:
    """Return different prompts of the same length."""
    text = "It was a quiet morning by the sea, and the people of the town were talking about the weather. " * 40
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return [ids[i : i + PROMPT_TOKENS] for i in range(count)]


def summarize(rounds: list[dict[str, dict[str, float]]]) -> dict[str, Any]:
    """Return the medians of all rounds, and the ratios one by one."""
    return {
        name: {key: round(statistics.median(one[name][key] for one in rounds), 2) for key in rounds[0][name]}
        | {"ratios": [round(one[name]["ratio"], 2) for one in rounds]}
        for name in rounds[0]
    }


if __name__ == "__main__":
    main()
