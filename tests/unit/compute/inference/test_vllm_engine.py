"""vLLM as an engine: what comes of its answers is what torch gives for the same request, and nothing is left running."""

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from mafunzo.compute.inference.engine import GREEDY, Engine
from mafunzo.compute.inference.http.app import make_app
from mafunzo.compute.inference.http.service import Service
from mafunzo.compute.inference.loading import LoadedModel, load_adapter
from mafunzo.compute.inference.request import Delta, Event, Failed, Finished, FinishReason, GenerationRequest
from mafunzo.compute.inference.sampler import Sampling
from mafunzo.compute.inference.structure import CallForm, grammar, text_and_calls
from mafunzo.compute.inference.vllm_engine import VllmEngine
from mafunzo.compute.inference.vllm_loading import load_by_vllm
from mafunzo.compute.inference.vllm_request import ending_with
from mafunzo.compute.model.folder import TOKENIZER_FILES, copy_files
from mafunzo.compute.model.loading import load_network
from mafunzo.compute.model.lora import AdapterConfig, adapters, add_adapter, save_adapter
from mafunzo.errors import (
    Conflict,
    ContextLengthExceeded,
    FailedError,
    InvalidParameter,
    NotFound,
    NotSupported,
    WorkerFailed,
)
from tests.support.vllm_bench import ThreadServer
from tests.support.vllm_stand_in import StandIn
from tests.support.waiting import until

PROMPT = (5, 6, 7, 8)


@pytest.fixture(scope="module")
def server() -> Iterator[ThreadServer]:
    started = ThreadServer()
    yield started
    started.end()


@pytest.fixture(scope="module")
def loaded(server: ThreadServer, tiny_llama: Path) -> Iterator[LoadedModel]:
    model = load_by_vllm(server, tiny_llama, max_batch=4)  # type: ignore[arg-type]
    yield model
    model.engine.close()


@pytest.fixture
def engine(loaded: LoadedModel) -> VllmEngine:
    assert isinstance(loaded.engine, VllmEngine)
    return loaded.engine


@pytest.fixture
def stand_in(server: ThreadServer, loaded: LoadedModel) -> StandIn:
    return server.stand_in


@pytest.fixture
def plain(stand_in: StandIn) -> Engine:
    """The torch engine that the stand-in computes with."""
    assert isinstance(stand_in.model.engine, Engine)
    return stand_in.model.engine


def test_vllm_is_told_all_that_decides_what_it_computes(
    server: ThreadServer, loaded: LoadedModel, tiny_llama: Path
) -> None:
    [model] = server.models
    argv = model.argv(Path("/s"))
    assert argv[:4] == ["serve", str(tiny_llama), "--uds", "/s"]
    told = dict(zip(argv[2::2], argv[3::2], strict=False))
    assert told["--dtype"] == "float32", "vLLM's own choice for such weights is float16"
    assert told["--max-model-len"] == str(loaded.engine.max_model_len)
    assert (told["--generation-config"], told["--max-num-seqs"]) == ("vllm", "4")
    assert "--enable-lora" in argv
    assert loaded.parameters == sum(p.numel() for p in load_network(tiny_llama).parameters())
    assert str(loaded.choice) == "vllm"


def lasting(length: int, **more: Any) -> GenerationRequest:
    return GenerationRequest(PROMPT, length, GREEDY, ignore_eos=True, **more)


def stopping(plain: Engine) -> GenerationRequest:
    """A request whose fifth token ends it."""
    fifth = plain.submit(lasting(5)).reply().token_ids[4]
    return GenerationRequest(PROMPT, 12, GREEDY, stop_token_ids=frozenset({fifth}), logprobs=0)


def test_replies_are_those_of_torch(engine: VllmEngine, plain: Engine, loaded: LoadedModel) -> None:
    text = plain.submit(lasting(12)).reply().text
    requests = [
        lasting(12),
        lasting(12, logprobs=2),
        lasting(12, stop=(text[3:6],)),
        GenerationRequest(PROMPT, 12, Sampling(0.9, 0.9, 20, 7, 0.01, 0.5, 0.5, 1.1, {9: 3.0}), cache_salt="salt"),
        GenerationRequest(PROMPT, 4, GREEDY, logprobs=1, prompt_logprobs=1, ignore_eos=True),
        stopping(plain),
    ]
    for request in requests:
        expected, reply = plain.submit(request).reply(), engine.submit(request).reply()
        assert (reply.text, reply.token_ids) == (expected.text, expected.token_ids)
        assert [one.token_id for one in reply.logprobs] == [one.token_id for one in expected.logprobs]
        assert [one.top for one in reply.logprobs] == [one.top for one in expected.logprobs]
        assert reply.prompt_logprobs == expected.prompt_logprobs
        assert reply.finished and expected.finished
        assert (reply.finished.reason, reply.finished.completion_tokens) == (
            expected.finished.reason,
            expected.finished.completion_tokens,
        )


def test_only_the_prompt_is_read_where_nothing_is_to_be_generated(engine: VllmEngine, plain: Engine) -> None:
    request = GenerationRequest(PROMPT, 0, GREEDY, prompt_logprobs=0)
    reply = engine.submit(request).reply()
    assert reply.prompt_logprobs == plain.submit(request).reply().prompt_logprobs
    assert (reply.token_ids, reply.finished) == ([], Finished(FinishReason.LENGTH, 4, 0))


def test_what_a_prefix_cache_had_is_counted(engine: VllmEngine) -> None:
    request = GenerationRequest((*PROMPT * 10,), 2, GREEDY, ignore_eos=True, cache_salt="counted")
    ends = [engine.submit(request).reply().finished for _ in range(2)]
    assert [end and end.cached_tokens for end in ends] == [0, 32]


def test_a_structure_is_given_to_vllm_and_followed(engine: VllmEngine, loaded: LoadedModel, stand_in: StandIn) -> None:
    schema = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}
    held = loaded.grammars.compile(grammar(schema, [], CallForm(), False), "response_format")
    reply = engine.submit(GenerationRequest(PROMPT, 40, GREEDY, grammar=held)).reply()
    assert json.loads(reply.text)["a"] in (1, 2)
    assert stand_in.bodies[-1]["structured_outputs"] == {"grammar": ending_with(held.text, [401])}
    assert reply.finished and reply.finished.reason is FinishReason.STOP


def test_a_structured_reply_may_end_with_any_stop_token(engine: VllmEngine, loaded: LoadedModel) -> None:
    """vLLM itself would take none but the tokenizer's EOS, as the stand-in does."""
    stop = loaded.tokenizer.convert_tokens_to_ids("<|end_of_text|>")
    assert loaded.stop_token_ids == {stop, loaded.tokenizer.eos_token_id}
    tools = [{"function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}]
    for form in (CallForm(), CallForm('"<call>"', '"</call>"')):
        free_ids = loaded.grammars.free_token_ids("<call>")
        held = loaded.grammars.compile(text_and_calls(tools, form, True, free_ids), "tools")
        sampling = Sampling(0, logit_bias={stop: 100.0})
        reply = engine.submit(GenerationRequest(PROMPT, 20, sampling, grammar=held)).reply()
        assert reply.finished == Finished(FinishReason.STOP, len(PROMPT), 1)


def test_a_reply_that_leaves_its_structure_fails(
    engine: VllmEngine, loaded: LoadedModel, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = loaded.grammars.compile(grammar({"type": "integer"}, [], CallForm(), False), "response_format")
    free = loaded.grammars.compile('%llguidance {}\nstart: "oops"', "response_format")
    monkeypatch.setattr(stand_in.grammars, "compile", lambda text, param: free)
    with pytest.raises(FailedError, match="The reply left its structure"):
        engine.submit(GenerationRequest(PROMPT, 40, GREEDY, grammar=held)).reply()


@pytest.mark.parametrize(
    ("request_", "error", "words"),
    [
        (GenerationRequest((), 4), InvalidParameter, "The prompt has no tokens"),
        (GenerationRequest((10**6,), 4), InvalidParameter, "isn't in the vocabulary"),
        (GenerationRequest((5,) * 2048, 0), ContextLengthExceeded, "1 were asked for"),
        (GenerationRequest((5,), 4, adapter="no"), InvalidParameter, "There is no adapter 'no': there are none"),
        (GenerationRequest((5,), 4, Sampling(0.005)), InvalidParameter, "temperature is 0.005, expected 0"),
    ],
)
def test_what_vllm_can_not_honour_is_refused_by_name(
    engine: VllmEngine, request_: GenerationRequest, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        engine.submit(request_)


def test_cancelling_closes_the_request_to_vllm(engine: VllmEngine, stand_in: StandIn, plain: Engine) -> None:
    before, has_begun = stand_in.aborted, threading.Event()
    events: list[Event] = []

    def take(event: Event) -> None:
        events.append(event)
        if isinstance(event, Delta):
            has_begun.set()

    stream = engine.submit(lasting(1900), take)
    assert has_begun.wait(60)
    assert engine.load() == (1, 0)
    stream.cancel()
    until(lambda: stand_in.aborted > before)
    until(lambda: plain.load() == (0, 0))
    last = events[-1]
    assert isinstance(last, Finished) and last.reason is FinishReason.CANCELED
    stream.cancel()  # once more changes nothing
    assert engine.load() == (0, 0)


def test_a_stop_string_ends_the_request_to_vllm(engine: VllmEngine, stand_in: StandIn, plain: Engine) -> None:
    before, text = stand_in.aborted, plain.submit(lasting(12)).reply().text
    reply = engine.submit(lasting(1900, stop=(text[4:7],))).reply()
    assert reply.text == text[: text.index(text[4:7])]
    until(lambda: stand_in.aborted > before)


def test_errors_of_vllm_are_told(engine: VllmEngine, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stand_in, "served", "another")
    with pytest.raises(NotFound, match="vLLM doesn't know the model or adapter: The model `base` does not exist"):
        engine.submit(lasting(2)).reply()
    monkeypatch.undo()
    monkeypatch.setattr(stand_in, "failure", {"message": "no memory", "code": 500})
    with pytest.raises(WorkerFailed, match="vLLM failed: no memory"):
        engine.submit(lasting(200)).reply()
    monkeypatch.undo()
    monkeypatch.setattr(stand_in, "key", "another key")
    with pytest.raises(InvalidParameter, match="vLLM refuses the request: Unauthorized"):
        engine.submit(lasting(2)).reply()


def save(base: Path, folder: Path, seed: int, r: int = 4) -> Path:
    network = load_network(base)
    torch.manual_seed(seed)
    add_adapter(network, config := AdapterConfig(r=r, alpha=8))
    for _, layer in adapters(network):
        torch.nn.init.normal_(layer.lora_B, std=0.3)
    save_adapter(network, config, folder)
    copy_files(base, TOKENIZER_FILES, folder)
    return folder


def test_adapters_come_and_go(
    engine: VllmEngine, loaded: LoadedModel, plain: Engine, tiny_llama: Path, tmp_path: Path
) -> None:
    folder = save(tiny_llama, tmp_path / "red", 1)
    alone = engine.submit(lasting(8)).reply().token_ids
    model = load_adapter(loaded, folder, "chat:red#1")
    assert model.adapter == "chat:red#1"
    tuned = engine.submit(lasting(8, adapter="chat:red#1")).reply().token_ids
    assert tuned == plain.submit(lasting(8, adapter="chat:red#1")).reply().token_ids != alone
    assert engine.submit(lasting(8)).reply().token_ids == alone
    with pytest.raises(Conflict, match="There is an adapter 'chat:red#1' already"):
        engine.load_adapter("chat:red#1", folder)
    engine.unload_adapter("chat:red#1")
    with pytest.raises(InvalidParameter, match="There is no adapter 'chat:red#1'"):
        engine.submit(lasting(8, adapter="chat:red#1"))


def test_an_adapter_goes_when_the_last_request_that_names_it_has_ended(
    engine: VllmEngine, stand_in: StandIn, plain: Engine, tiny_llama: Path, tmp_path: Path
) -> None:
    engine.load_adapter("red#2", save(tiny_llama, tmp_path / "red", 1))
    request = lasting(1500, adapter="red#2")
    has_begun, has_ended = threading.Event(), threading.Event()
    events: list[Event] = []

    def take(event: Event) -> None:
        events.append(event)
        has_begun.set()
        if isinstance(event, Finished | Failed):
            has_ended.set()

    stream = engine.submit(request, take)
    assert has_begun.wait(60)
    engine.unload_adapter("red#2")
    assert "red#2" in stand_in.adapters and not has_ended.is_set()
    with pytest.raises(InvalidParameter, match="There is no adapter 'red#2'"):
        engine.submit(request)
    stream.cancel()
    assert has_ended.wait(60)
    assert isinstance(events[-1], Finished)
    until(lambda: stand_in.adapters == {})
    engine.unload_adapter("red#2")  # vLLM doesn't know it any more, which is what was wanted
    until(lambda: not plain.load()[0])


def test_an_adapter_that_vllm_can_not_serve_is_refused_with_the_reason(
    engine: VllmEngine, stand_in: StandIn, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save(tiny_llama, tmp_path / "blue", 2)
    monkeypatch.setattr(stand_in, "max_lora_rank", 2)
    with pytest.raises(NotSupported, match="'blue' can't be loaded: vLLM failed: LoRA rank 4 is greater"):
        engine.load_adapter("blue", folder)
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"r": 65}))
    with pytest.raises(NotSupported, match=r"adapters up to rank 64 here, and this one has 65\. Deploy it with"):
        engine.load_adapter("blue", folder)
    assert engine.adapter_names == set()


def test_a_model_that_is_an_adapter_answers_as_one_and_ends_with_its_vllm(tiny_llama: Path, tmp_path: Path) -> None:
    folder, server = save(tiny_llama, tmp_path / "own", 3), ThreadServer()
    model = load_by_vllm(server, folder, tiny_llama, 4)  # type: ignore[arg-type]
    engine, plain = model.engine, server.stand_in.model.engine
    assert engine.submit(lasting(8)).reply().token_ids == plain.submit(lasting(8, adapter="own")).reply().token_ids
    ended = threading.Event()
    failures: list[Event] = []

    def take(event: Event) -> None:
        if isinstance(event, Failed):
            failures.append(event)
            ended.set()
        elif isinstance(event, Delta) and not failures:
            server.server.should_exit = server.server.force_exit = True

    engine.submit(lasting(1900), take)
    assert ended.wait(60)
    [failure] = failures
    assert isinstance(failure, Failed) and isinstance(failure.error, WorkerFailed)
    with pytest.raises(WorkerFailed, match="vLLM ended, or its connection did"):
        engine.submit(lasting(2)).reply()
    engine.close()
    engine.close()
    with pytest.raises(WorkerFailed, match="The engine is closed"):
        engine.submit(lasting(2)).reply()
    with pytest.raises(WorkerFailed, match="The engine is closed"):
        engine.unload_adapter("own")
    server.end()


def test_an_architecture_that_has_no_adapters_in_vllm_is_served_without(tiny_llama: Path, tmp_path: Path) -> None:
    server = ThreadServer(failures=1)
    model = load_by_vllm(server, tiny_llama)  # type: ignore[arg-type]
    assert [one.lora_rank for one in server.models] == [64, 0]
    assert "--enable-lora" not in server.models[1].argv(Path("/s"))
    with pytest.raises(NotSupported, match="vLLM computes this model without adapters only"):
        model.engine.load_adapter("red", save(tiny_llama, tmp_path / "red", 1))
    model.engine.close()
    server.end()


def test_a_worker_answers_as_one_of_torch_does(loaded: LoadedModel, stand_in: StandIn) -> None:
    async def ask(model: LoadedModel) -> tuple[dict[str, Any], dict[str, Any]]:
        transport = httpx.ASGITransport(make_app(Service("chat", model)))
        async with httpx.AsyncClient(transport=transport, base_url="http://worker") as client:
            body = {
                "messages": [{"role": "user", "content": "How are you?"}],
                "max_tokens": 12,
                "temperature": 0,
                "n": 2,
                "logprobs": True,
                "top_logprobs": 2,
                "stop": ["zz"],
                "tools": [{"type": "function", "function": {"name": "look"}}],
            }
            answer = (await client.post("/v1/chat/completions", json=body)).json()
            return answer, (await client.get("/info")).json()

    (by_vllm, facts), (by_torch, _) = asyncio.run(ask(loaded)), asyncio.run(ask(stand_in.model))
    assert by_vllm["choices"] == by_torch["choices"]
    counts = ("prompt_tokens", "completion_tokens")
    assert [by_vllm["usage"][name] for name in counts] == [by_torch["usage"][name] for name in counts]
    assert (facts["engine"], facts["dtype"], facts["max_batch"]) == ("vllm", "float32", 4)
