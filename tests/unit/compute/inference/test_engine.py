"""The engine over a tiny network: many threads, faults, cancellation, a full cache."""

import copy
import json
import logging
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mafunzo.compute.chat.tokenizer import load_tokenizer
from mafunzo.compute.inference.batcher import Limits
from mafunzo.compute.inference.block_pool import BLOCK_TOKENS, SHARE_TOKENS
from mafunzo.compute.inference.engine import GREEDY, Engine
from mafunzo.compute.inference.executor import Row
from mafunzo.compute.inference.executor_torch import TorchExecutor
from mafunzo.compute.inference.grammar import GrammarCompiler
from mafunzo.compute.inference.request import Delta, Finished, FinishReason, GenerationRequest
from mafunzo.compute.inference.sampler import Sampling
from mafunzo.compute.inference.structure import CallForm, grammar
from mafunzo.compute.model.loading import load_network
from mafunzo.compute.model.lora import AdapterConfig, adapters, add_adapter, save_adapter
from mafunzo.errors import ContextLengthExceeded, FailedError, InvalidParameter, OutOfMemory, WorkerFailed

TEXTS = [
    "Hello!",
    "How are you today, and what did you do this morning?",
    "Once there was a bird",
    "x",
    "Thank you very much",
]
SENT_BACK = "back to the queue: the cache is full"


@pytest.fixture(scope="module")
def network(tiny_llama: Path) -> Any:
    return load_network(tiny_llama)


@pytest.fixture(scope="module")
def tokenizer(tiny_llama: Path) -> Any:
    return load_tokenizer(tiny_llama)


@pytest.fixture
def engine(network: Any, tokenizer: Any) -> Iterator[Engine]:
    with Engine(TorchExecutor(network), tokenizer, max_batch=4) as engine:
        yield engine


@pytest.fixture
def prompts(tokenizer: Any) -> list[list[int]]:
    return [tokenizer(text)["input_ids"] for text in TEXTS]


def plain(network: Any, prompt: list[int], steps: int) -> list[int]:
    ids = torch.tensor([prompt])
    mask = torch.ones_like(ids)
    with torch.no_grad():
        whole = network.generate(ids, attention_mask=mask, max_new_tokens=steps, do_sample=False, eos_token_id=None)
    return whole[0, len(prompt) :].tolist()


def prompt_logprobs(engine: Engine, ids: list[int]) -> list[float | None]:
    """Each token's log-probability given those before it; the first has none."""
    reply = engine.submit(GenerationRequest(tuple(ids), max_tokens=0, prompt_logprobs=0)).reply()
    return [None if entry is None else entry.logprob for entry in reply.prompt_logprobs]


def test_replies_in_a_batch_are_those_of_plain_generate(engine: Engine, network: Any, prompts: list[list[int]]) -> None:
    replies = engine.generate(prompts, max_tokens=20)
    assert [reply.token_ids for reply in replies] == [plain(network, prompt, 20) for prompt in prompts]
    assert all(reply.text == engine.tokenizer.decode(reply.token_ids, skip_special_tokens=True) for reply in replies)
    assert replies[0].finished == Finished(FinishReason.LENGTH, len(prompts[0]), 20)


def test_a_stop_token_ends_a_reply_and_is_counted_but_not_part_of_it(
    network: Any, tokenizer: Any, prompts: list[list[int]]
) -> None:
    expected = plain(network, prompts[0], 20)
    stop = expected[7]
    with Engine(TorchExecutor(network), tokenizer, {stop}) as engine:
        reply = engine.generate([prompts[0]], 20)[0]
        assert reply.token_ids == expected[: expected.index(stop)]
        assert reply.finished is not None
        assert reply.finished.reason is FinishReason.STOP
        assert reply.finished.completion_tokens == len(reply.token_ids) + 1
        endless = engine.submit(GenerationRequest(tuple(prompts[0]), 20, GREEDY, ignore_eos=True)).reply()
        assert endless.token_ids == expected


def test_a_stop_string_ends_a_reply_before_it(engine: Engine, prompts: list[list[int]]) -> None:
    whole = engine.generate([prompts[1]], 30)[0].text
    stop = whole[10:13]
    reply = engine.generate([prompts[1]], 30, stop=[stop])[0]
    assert reply.text == whole[: whole.index(stop)]
    assert reply.finished is not None and reply.finished.reason is FinishReason.STOP


def test_grammars_hold_their_own_replies_of_a_batch(engine: Engine, network: Any, prompts: list[list[int]]) -> None:
    grammars = GrammarCompiler(engine.tokenizer, engine.executor.vocab_size, engine.stop_token_ids)
    schemas = ({"enum": ["red", "green"]}, None, {"type": "integer", "minimum": 10, "maximum": 99}, None)
    streams = []
    for prompt, schema in zip(prompts, schemas, strict=False):
        text = None if schema is None else grammar(schema, (), CallForm(), True)
        compiled = None if text is None else grammars.compile(text, "response_format")
        request = GenerationRequest(tuple(prompt), 20, GREEDY, logprobs=0, ignore_eos=True, grammar=compiled)
        streams.append(engine.submit(request))
    replies = [stream.reply() for stream in streams]
    assert replies[0].text in ('"red"', '"green"') and 10 <= int(replies[2].text) <= 99
    for i in (0, 2):
        assert replies[i].finished is not None and replies[i].finished.reason is FinishReason.STOP
        expected = prompt_logprobs(engine, [*prompts[i], *replies[i].token_ids])[len(prompts[i]) :]
        assert [entry.logprob for entry in replies[i].logprobs] == pytest.approx(expected, abs=1e-4)
    assert [replies[i].token_ids for i in (1, 3)] == [plain(network, prompts[i], 20) for i in (1, 3)]


def test_a_grammar_goes_on_after_its_sequence_was_sent_back(
    network: Any, tokenizer: Any, prompts: list[list[int]], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    limits = Limits(max_batch=4, prefill_tokens=16, cache_tokens=128, headroom_tokens=0)
    executor = TorchExecutor(network, max_model_len=128)
    schema = {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 9}, "minItems": 20, "maxItems": 20}
    with Engine(executor, tokenizer, limits=limits) as engine:
        compiled = GrammarCompiler(tokenizer, executor.vocab_size, ()).compile(
            grammar(schema, (), CallForm(), True), "x"
        )
        requests = [GenerationRequest(tuple(prompt), 100, GREEDY, grammar=compiled) for prompt in prompts]
        texts = [stream.reply().text for stream in [engine.submit(request) for request in requests]]
    assert SENT_BACK in caplog.text
    assert all(len(json.loads(text)) == 20 for text in texts)


def test_log_probabilities_are_those_of_a_plain_forward(engine: Engine, network: Any, prompts: list[list[int]]) -> None:
    ids = prompts[1]
    with torch.no_grad():
        logprobs = network(torch.tensor([ids])).logits[0].log_softmax(-1)
    expected = [float(logprobs[i - 1, ids[i]]) for i in range(1, len(ids))]
    engine_logprobs = prompt_logprobs(engine, ids)
    assert engine_logprobs[0] is None
    assert engine_logprobs[1:] == pytest.approx(expected, abs=1e-4)


def test_log_probabilities_of_a_prompt_in_chunks_are_the_same(
    network: Any, tokenizer: Any, prompts: list[list[int]]
) -> None:
    with (
        Engine(TorchExecutor(network), tokenizer) as whole,
        Engine(TorchExecutor(network), tokenizer, limits=Limits(prefill_tokens=7)) as chunk_engine,
    ):
        assert prompt_logprobs(chunk_engine, prompts[1])[1:] == pytest.approx(
            prompt_logprobs(whole, prompts[1])[1:], abs=1e-4
        )


def test_a_reply_tells_its_tokens_log_probabilities(engine: Engine, prompts: list[list[int]]) -> None:
    reply = engine.submit(GenerationRequest(tuple(prompts[0]), 6, GREEDY, logprobs=3)).reply()
    logprobs = prompt_logprobs(engine, [*prompts[0], *reply.token_ids])[len(prompts[0]) :]
    assert [entry.token_id for entry in reply.logprobs] == reply.token_ids
    assert [entry.logprob for entry in reply.logprobs] == pytest.approx(logprobs, abs=1e-4)
    assert all(len(entry.top) == 3 and entry.top[0][0] == entry.token_id for entry in reply.logprobs)


def test_a_seed_gives_the_same_reply_alone_and_in_company(engine: Engine, prompts: list[list[int]]) -> None:
    request = GenerationRequest(tuple(prompts[1]), 20, Sampling(temperature=1.0, seed=42))
    alone = engine.submit(request).reply()
    streams = [engine.submit(GenerationRequest(tuple(prompt), 25, Sampling())) for prompt in prompts]
    assert engine.submit(request).reply().token_ids == alone.token_ids
    assert len({tuple(stream.reply().token_ids) for stream in streams}) == len(streams)


def test_many_threads_get_their_own_replies(engine: Engine, network: Any, prompts: list[list[int]]) -> None:
    expected = [plain(network, prompt, 12) for prompt in prompts]
    token_ids: dict[int, list[int]] = {}

    def ask(i: int) -> None:
        token_ids[i] = engine.generate([prompts[i % len(prompts)]], 12)[0].token_ids

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(15)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [token_ids[i] for i in range(15)] == [expected[i % len(prompts)] for i in range(15)]


def test_a_cache_that_fills_up_changes_no_reply(
    network: Any, tokenizer: Any, prompts: list[list[int]], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    limits = Limits(max_batch=4, prefill_tokens=16, cache_tokens=112, headroom_tokens=0)
    executor = TorchExecutor(network, max_model_len=112)
    with Engine(executor, tokenizer, limits=limits) as engine:
        replies = engine.generate(prompts, 40)
        samples = [engine.submit(GenerationRequest(tuple(p), 40, Sampling(seed=3))) for p in prompts]
        sampled_ids = [stream.reply().token_ids for stream in samples]
    assert SENT_BACK in caplog.text
    assert [reply.token_ids for reply in replies] == [plain(network, prompt, 40) for prompt in prompts]
    with Engine(TorchExecutor(network), tokenizer) as roomy:
        streams = [roomy.submit(GenerationRequest(tuple(p), 40, Sampling(seed=3))) for p in prompts]
        assert [stream.reply().token_ids for stream in streams] == sampled_ids


@pytest.fixture
def long_prompt(prompts: list[list[int]]) -> list[int]:
    return [*prompts[1], *prompts[4], *prompts[2]] * 2


def test_a_prompt_that_begins_like_an_earlier_one_is_read_from_there_on(
    network: Any, tokenizer: Any, long_prompt: list[int]
) -> None:
    executor = CountingExecutor(network)
    with Engine(executor, tokenizer) as engine:
        first = engine.generate([long_prompt], 12)[0]
        cached = (len(long_prompt) - 1) // SHARE_TOKENS * SHARE_TOKENS
        assert cached >= 64 and first.finished is not None and first.finished.cached_tokens == 0
        tokens = executor.tokens
        again = engine.generate([long_prompt], 12)[0]
        assert executor.tokens - tokens == len(long_prompt) - cached + 11
        assert again.token_ids == first.token_ids == plain(network, long_prompt, 12)
        assert again.finished == Finished(FinishReason.LENGTH, len(long_prompt), 12, cached)
        other = [*long_prompt[:40], 9, 8, 7]
        reply = engine.generate([other], 12)[0]
        assert reply.token_ids == plain(network, other, 12)
        assert reply.finished is not None and reply.finished.cached_tokens == 40


def test_prompts_that_go_on_like_one_that_is_being_answered_write_to_blocks_of_their_own(
    engine: Engine, network: Any, long_prompt: list[int]
) -> None:
    """Each shares some of a block with another that goes on to write to it."""
    asked = [[*long_prompt[: len(long_prompt) - 9 * i], 9, i] for i in range(4)]
    events = iter(engine.submit(GenerationRequest(tuple(long_prompt), 60, GREEDY)))
    beginning = next(events)
    assert isinstance(beginning, Delta)
    replies = engine.generate(asked, 40)
    assert [reply.token_ids for reply in replies] == [plain(network, prompt, 40) for prompt in asked]
    counts = [reply.finished.cached_tokens for reply in replies if reply.finished]
    assert counts == [(len(long_prompt) - 9 * i) // SHARE_TOKENS * SHARE_TOKENS for i in range(4)]
    text = beginning.text + "".join(event.text for event in events if isinstance(event, Delta))
    assert text == engine.tokenizer.decode(plain(network, long_prompt, 60), skip_special_tokens=True)


def test_a_copy_that_fails_fails_those_that_begin_with_it_and_no_other(
    network: Any, tokenizer: Any, long_prompt: list[int], prompts: list[list[int]]
) -> None:
    class Full(TorchExecutor):
        def copy_blocks(self, copies: Sequence[tuple[int, int]]) -> None:
            raise RuntimeError("std::bad_alloc")

    with Engine(Full(network), tokenizer) as engine:
        engine.generate([long_prompt], 4)
        other = engine.submit(GenerationRequest(tuple(prompts[0]), 30, GREEDY))
        again = engine.submit(GenerationRequest(tuple(long_prompt), 4, GREEDY))
        with pytest.raises(OutOfMemory, match=r"No memory left for the reply\. Lower --max-batch"):
            again.reply()
        assert other.reply().token_ids == plain(network, prompts[0], 30)
        assert engine.load() == (0, 0) and engine._pool.available == engine._pool.size
        whole = [*long_prompt[: 2 * BLOCK_TOKENS], 9]
        assert engine.generate([whole], 4)[0].token_ids == plain(network, whole, 4), "it has nothing to copy"


def test_the_next_turn_of_a_talk_finds_the_reply_before_it_in_the_cache(
    engine: Engine, network: Any, long_prompt: list[int]
) -> None:
    reply = engine.generate([long_prompt], 40)[0].token_ids
    turn = [*long_prompt, *reply, 5, 6, 7, 8]
    answer = engine.generate([turn], 10)[0]
    assert answer.token_ids == plain(network, turn, 10)
    assert answer.finished is not None
    assert answer.finished.cached_tokens >= len(long_prompt) + 40 - BLOCK_TOKENS


def test_prompts_that_share_a_beginning_are_answered_together_as_alone(
    engine: Engine, network: Any, long_prompt: list[int], prompts: list[list[int]]
) -> None:
    engine.generate([long_prompt], 1)
    asked = [[*long_prompt, *prompt] for prompt in prompts]
    replies = engine.generate(asked, 30)
    assert [reply.token_ids for reply in replies] == [plain(network, prompt, 30) for prompt in asked]
    assert all(reply.finished and reply.finished.cached_tokens >= 64 for reply in replies)


def test_log_probabilities_of_a_prompt_are_computed_although_it_is_in_the_cache(
    engine: Engine, network: Any, long_prompt: list[int]
) -> None:
    engine.generate([long_prompt], 4)
    with torch.no_grad():
        logprobs = network(torch.tensor([long_prompt])).logits[0].log_softmax(-1)
    expected = [float(logprobs[i - 1, long_prompt[i]]) for i in range(1, len(long_prompt))]
    assert prompt_logprobs(engine, long_prompt)[1:] == pytest.approx(expected, abs=1e-4)


def test_requests_of_several_adapters_share_a_batch_and_no_blocks(
    network: Any, tokenizer: Any, long_prompt: list[int], tmp_path: Path
) -> None:
    """All have one prompt: what an adapter has computed of it is another's no more than the base's."""
    config, expected = AdapterConfig(r=4, alpha=8), {None: plain(network, long_prompt, 20)}
    executor = TorchExecutor(copy.deepcopy(network))
    for seed, name in enumerate(("red", "blue")):
        tuned = copy.deepcopy(network)
        torch.manual_seed(seed)
        add_adapter(tuned, config)
        for _, layer in adapters(tuned):
            torch.nn.init.normal_(layer.lora_B, std=0.2)
        save_adapter(tuned, config, tmp_path / name)
        executor.load_adapter(name, tmp_path / name)
        expected[name] = plain(tuned, long_prompt, 20)
    assert len({tuple(reply) for reply in expected.values()}) == 3
    with Engine(executor, tokenizer, max_batch=4) as engine:
        for _ in range(2):
            names = [None, "red", "blue", "red", None]
            requests = [GenerationRequest(tuple(long_prompt), 20, GREEDY, adapter=name) for name in names]
            replies = [stream.reply() for stream in [engine.submit(request) for request in requests]]
            assert [reply.token_ids for reply in replies] == [expected[name] for name in names]
        assert all(reply.finished and reply.finished.cached_tokens >= 64 for reply in replies)
        with pytest.raises(InvalidParameter, match="There is no adapter 'green': expected blue, red, or none"):
            engine.submit(GenerationRequest((5,), adapter="green"))


def test_an_adapter_is_refused_where_there_are_none(engine: Engine) -> None:
    with pytest.raises(InvalidParameter, match="There is no adapter 'red': there are none"):
        engine.submit(GenerationRequest((5,), adapter="red"))


def test_an_engine_that_keeps_no_prefixes_holds_no_memory_when_it_is_idle(
    network: Any, tokenizer: Any, long_prompt: list[int]
) -> None:
    executor = TorchExecutor(network)
    with Engine(executor, tokenizer, keeps_prefixes=False) as engine:
        engine.generate([long_prompt], 4)
        reply = engine.generate([long_prompt], 4)[0]
        assert reply.finished is not None and reply.finished.cached_tokens == 0
        assert engine._pool.is_empty
    assert executor.cache.layers[0].keys is None


def test_a_cancelled_request_ends_and_leaves_its_place(engine: Engine, network: Any, prompts: list[list[int]]) -> None:
    stream = engine.submit(GenerationRequest(tuple(prompts[0]), 2000, GREEDY))
    events = iter(stream)
    assert isinstance(next(events), Delta)
    stream.cancel()
    last = list(events)[-1]
    assert isinstance(last, Finished) and last.reason is FinishReason.CANCELED and last.completion_tokens < 2000
    assert engine.generate([prompts[1]], 5)[0].token_ids == plain(network, prompts[1], 5)
    assert engine.load() == (0, 0)
    assert engine._pool.available == engine._pool.size


def test_one_that_waits_can_be_cancelled(network: Any, tokenizer: Any, prompts: list[list[int]]) -> None:
    with Engine(TorchExecutor(network), tokenizer, max_batch=1) as engine:
        first = engine.submit(GenerationRequest(tuple(prompts[0]), 30, GREEDY))
        second = engine.submit(GenerationRequest(tuple(prompts[1]), 30, GREEDY))
        second.cancel()
        assert second.reply().finished == Finished(FinishReason.CANCELED, len(prompts[1]), 0)
        assert len(first.reply().token_ids) == 30


def test_a_fault_in_one_request_leaves_the_others(network: Any, tokenizer: Any, prompts: list[list[int]]) -> None:
    executor = BreakingExecutor(network, breaks_at=prompts[2])
    with Engine(executor, tokenizer) as engine:
        streams = [engine.submit(GenerationRequest(tuple(prompt), 10, GREEDY)) for prompt in prompts]
        for i, stream in enumerate(streams):
            if i == 2:
                with pytest.raises(FailedError, match="RuntimeError: this prompt breaks"):
                    stream.reply()
            else:
                assert stream.reply().token_ids == plain(network, prompts[i], 10)


def test_a_reply_that_runs_out_of_memory_says_what_to_lower(
    network: Any, tokenizer: Any, prompts: list[list[int]]
) -> None:
    class Full(TorchExecutor):
        def forward(self, rows: Sequence[Row]) -> list[Tensor]:
            if any(list(row.token_ids) == prompts[2] for row in rows):
                raise RuntimeError("std::bad_alloc")
            return super().forward(rows)

    with (
        Engine(Full(network), tokenizer) as engine,
        pytest.raises(OutOfMemory, match=r"No memory left for the reply\. Lower --max-batch"),
    ):
        engine.submit(GenerationRequest(tuple(prompts[2]), 10, GREEDY)).reply()


def test_a_listener_that_breaks_harms_nobody(engine: Engine, prompts: list[list[int]]) -> None:
    def broken(event: object) -> None:
        raise RuntimeError("gone")

    engine.submit(GenerationRequest(tuple(prompts[0]), 5, GREEDY), on_event=broken)
    assert len(engine.generate([prompts[0]], 5)[0].token_ids) == 5


@pytest.mark.parametrize(
    ("request_", "error", "text"),
    [
        pytest.param(GenerationRequest(()), InvalidParameter, "has no tokens", id="empty"),
        pytest.param(
            GenerationRequest((5, 10**6)),
            InvalidParameter,
            "Token id 1000000 isn't in the vocabulary",
            id="unknown token",
        ),
        pytest.param(GenerationRequest((5, -1)), InvalidParameter, "Token id -1", id="negative token"),
        pytest.param(
            GenerationRequest((5,), sampling=Sampling(logit_bias={10**6: 1.0})),
            InvalidParameter,
            r"logit_bias\.1000000: that token id isn't in the vocabulary",
            id="a bias of an unknown token",
        ),
        pytest.param(
            GenerationRequest((5,) * 2048),
            ContextLengthExceeded,
            "maximum context length is 2048",
            id="no room to answer",
        ),
        pytest.param(
            GenerationRequest((5,) * 2000, 49), ContextLengthExceeded, "2049 in all", id="not enough room to answer"
        ),
    ],
)
def test_what_cannot_be_answered_is_refused(
    engine: Engine, request_: GenerationRequest, error: type, text: str
) -> None:
    with pytest.raises(error, match=text):
        engine.submit(request_)


def test_the_whole_context_can_be_used(engine: Engine) -> None:
    reply = engine.submit(GenerationRequest((5,) * 2040, None, GREEDY)).reply()
    assert len(reply.token_ids) == 8
    assert len(prompt_logprobs(engine, [5] * 2048)) == 2048


def test_closing_fails_what_is_under_way_and_refuses_what_comes(
    network: Any, tokenizer: Any, prompts: list[list[int]]
) -> None:
    engine = Engine(TorchExecutor(network), tokenizer)
    stream = engine.submit(GenerationRequest(tuple(prompts[0]), 2000, GREEDY))
    next(iter(stream))
    engine.close()
    with pytest.raises(WorkerFailed):
        stream.reply()
    with pytest.raises(WorkerFailed, match="closed"):
        engine.submit(GenerationRequest(tuple(prompts[0]))).reply()


class CountingExecutor(TorchExecutor):
    """Counts tokens that are run."""

    tokens = 0

    def forward(self, rows: Sequence[Row]) -> list[Tensor]:
        self.tokens += sum(len(row.token_ids) for row in rows)
        return super().forward(rows)


class BreakingExecutor(TorchExecutor):
    """Fails on one prompt."""

    def __init__(self, network: Any, breaks_at: list[int]) -> None:
        self.breaks_at = breaks_at
        super().__init__(network)

    def forward(self, rows: Sequence[Row]) -> list[Tensor]:
        if any(list(row.token_ids) == self.breaks_at for row in rows):
            raise RuntimeError("this prompt breaks")
        return super().forward(rows)
