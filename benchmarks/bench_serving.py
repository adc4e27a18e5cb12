"""Our engine against transformers' own generate, on the same weights, prompts, threads and minutes; and its prefix cache.

    python benchmarks/bench_serving.py [--model FOLDER] [--rounds 3] [--only speed|prefix]

*Speed* (results/serving.json). Each round measures both, one after the other, so that what else runs on the machine hits both;
the result is the median of the rounds' ratios. A batch of N is N prompts of 200 tokens with 64 new tokens each; output tokens a
second, prefill included. `generate` gets all prompts at once as a static batch, its best case: equal lengths, and none arrives
late.

*Prefix* (results/serving_prefix.json). Prompts of 233 tokens share their first 200. The time to the first token with these in
the cache, against without (another `cache_salt`); the bar is 0.2. What no cache can save is what the other 33 tokens take
alone, a whole read of the weights among it: measured, too. In turns, the fastest of each round, by each executor.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from record import cached_model, machine, write
from transformers import PreTrainedModel

from mafunzo import settings
from mafunzo.compute.chat.tokenizer import load_tokenizer
from mafunzo.compute.inference.conversion import converted_dtype, load_converted
from mafunzo.compute.inference.engine import GREEDY, Engine
from mafunzo.compute.inference.executor_openvino import OpenVinoExecutor
from mafunzo.compute.inference.executor_torch import TorchExecutor
from mafunzo.compute.inference.loading import serving_dtype
from mafunzo.compute.inference.request import Delta, Finished, GenerationRequest
from mafunzo.compute.model.loading import load_network
from mafunzo.errors import NotSupported

PROMPT_TOKENS, NEW_TOKENS = 200, 64
BATCHES = (1, 8, 16)
SHARED_TOKENS, OWN_TOKENS = 200, 33
PREFIX_PROMPTS = 8
"""How many of them a round asks."""


def main() -> None:
    """Measure, print each round, and write the results files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=None, help="a Hugging Face folder; default: the cached SmolLM2")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=PARTS, default=None, help="measure one part; default: each")
    arguments = parser.parse_args()
    model = arguments.model or cached_model()
    torch.set_num_threads(machine()["threads"])
    for name in PARTS if arguments.only is None else (arguments.only,):
        PARTS[name](model, arguments.rounds)


def measure_speed(model: Path, count: int) -> None:
    """Measure our engine and transformers in `count` rounds, and write the results file."""
    facts = machine()
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
        for _ in range(count):
            rounds.append(measure(engine, plain, prompts))
            print(json.dumps(rounds[-1]), flush=True)
    write("serving", summarize(rounds) | facts | {"model": model.name, "dtype": str(executor.dtype)})


def measure_prefix(model: Path, count: int) -> None:
    """Measure the time to the first token with a prefix in the cache and without, by each executor; write the results file."""
    facts = machine()
    tokenizer = load_tokenizer(model)
    body: dict[str, Any] = {}
    for name, executor in executors(model):
        with Engine(executor, tokenizer) as engine:
            first_token_ms(engine, make_prefixed(tokenizer, 1)[0], "warm-up", 0)
            rounds = [
                measure_shared(engine, make_prefixed(tokenizer, PREFIX_PROMPTS), f"{name} {i}") for i in range(count)
            ]
        body |= {
            f"{name}, first token, ms": summarize([{"": one} for one in rounds])[""] | {"dtype": str(executor.dtype)}
        }
    sizes = {"shared_tokens": SHARED_TOKENS, "prompt_tokens": SHARED_TOKENS + OWN_TOKENS}
    write("serving_prefix", body | sizes | facts | {"model": model.name})


PARTS = {"speed": measure_speed, "prefix": measure_prefix}


def executors(model: Path) -> Iterator[tuple[str, TorchExecutor | OpenVinoExecutor]]:
    """Yield the executors that can serve a model on this machine, each in what a worker would compute in, by name."""
    network = load_network(model, dtype=serving_dtype(model, "cpu"))
    yield "torch", TorchExecutor(network, pack_weights=True)
    try:
        yield "openvino", load_converted(model, settings.load().cache, converted_dtype(model)).executor
    except NotSupported as error:
        print(f"openvino isn't measured: {error}", flush=True)


def measure_shared(engine: Engine, prompts: list[list[int]], salt: str) -> dict[str, float]:
    """Return the fastest times of one round. ratio: of cached to uncached; of_own: of cached to the other tokens alone."""
    first_token_ms(engine, prompts[0], salt, 0)
    times = [
        (
            first_token_ms(engine, prompt, f"{salt}, whole {i}", 0),
            first_token_ms(engine, prompt, salt, SHARED_TOKENS),
            first_token_ms(engine, prompt[SHARED_TOKENS:], f"{salt}, own {i}", 0),
        )
        for i, prompt in enumerate(prompts[1:])
    ]
    uncached, cached, own = (min(column) for column in zip(*times, strict=True))
    found = {"uncached": uncached, "cached": cached, "own": own, "ratio": cached / uncached, "of_own": cached / own}
    print(salt, json.dumps(found), flush=True)
    return found


def first_token_ms(engine: Engine, prompt: list[int], salt: str, cached_tokens: int) -> float:
    """Return the milliseconds until the first token of one reply, of whose prompt so many tokens are in the cache."""
    started = time.perf_counter()
    stream = engine.submit(GenerationRequest(tuple(prompt), 1, GREEDY, ignore_eos=True, cache_salt=salt))
    events = iter(stream)
    next(event for event in events if isinstance(event, Delta))
    passed = time.perf_counter() - started
    [end] = [event for event in events if isinstance(event, Finished)]
    assert end.cached_tokens == cached_tokens, f"{end.cached_tokens} tokens were in the cache, expected {cached_tokens}"
    return passed * 1e3


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


def make_prefixed(tokenizer: Any, count: int) -> list[list[int]]:
    """Return one more than `count` prompts whose first tokens, and no more, are the same."""
    ids = make_prompts(tokenizer, 1)[0]
    return [[*ids[:SHARED_TOKENS], 100 + i, *ids[: OWN_TOKENS - 1]] for i in range(1 + count)]


def summarize(rounds: list[dict[str, dict[str, float]]]) -> dict[str, Any]:
    """Return the medians of all rounds, and the ratios one by one."""
    return {
        name: {key: round(statistics.median(one[name][key] for one in rounds), 3) for key in rounds[0][name]}
        | {"ratios": [round(one[name]["ratio"], 3) for one in rounds]}
        for name in rounds[0]
    }


if __name__ == "__main__":
    main()
