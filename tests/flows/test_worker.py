"""A real worker process, asked by the OpenAI SDK."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch

from mafunzo.compute.chat.template import render_ids
from mafunzo.compute.chat.tokenizer import load_tokenizer
from mafunzo.compute.components.tiny_model import make
from mafunzo.compute.model.loading import load_network
from mafunzo.compute.model.lora import AdapterConfig, adapters, add_adapter, save_adapter
from mafunzo.entities.conversation import Conversation, Message
from tests.support.waiting import LIMIT_S, http, until

ASK = [{"role": "user", "content": "What do you want to learn about?"}]


@dataclass
class Worker:
    """A process, its address, and what it wrote."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path

    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0)

    def get(self, path: str) -> httpx.Response:
        return http.get(self.url + path)

    def post(self, path: str, body: Any) -> httpx.Response:
        return http.post(self.url + path, json=body)

    def metric(self, name: str) -> float:
        lines = self.get("/metrics").text.splitlines()
        return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(name + " ")), 0.0)

    def wait_until(self, path: str, status: int) -> None:
        until(lambda: self.process.poll() is not None or self.get(path).status_code == status, self.log.read_text)
        assert self.process.poll() is None, self.log.read_text()

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(LIMIT_S)


def start(folder: Path, model: Path, *more: str) -> Worker:
    folder.mkdir(parents=True, exist_ok=True)
    port_file, log = folder / "port", folder / "log.txt"
    argv = [sys.executable, "-m", "mafunzo.compute.inference.worker", "--model", str(model), "--name", "chat"]
    argv += ["--port-file", str(port_file), "--threads", "1", *more]
    with log.open("wb") as out:
        process = subprocess.Popen(
            argv, stdout=out, stderr=subprocess.STDOUT, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
    until(lambda: port_file.exists() or process.poll() is not None, log.read_text)
    assert port_file.exists(), log.read_text()
    return Worker(process, f"http://127.0.0.1:{int(port_file.read_text())}", log)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    make("tiny-llama", 1, folder)
    return folder


@pytest.fixture(scope="module")
def worker(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    worker = start(tmp_path_factory.mktemp("worker"), model)
    worker.wait_until("/health", 200)
    yield worker
    assert worker.end() == 0, worker.log.read_text()


@pytest.fixture(scope="module")
def client(worker: Worker) -> openai.OpenAI:
    return worker.client()


@pytest.fixture(scope="module")
def greedy(model: Path) -> list[int]:
    """The plain greedy reply to `ASK`, of 24 tokens."""
    return plain_reply(model, 24)


def prompt_ids(model: Path) -> list[int]:
    return render_ids(load_tokenizer(model), Conversation((Message("user", ASK[0]["content"]),)), True)


def plain_reply(model: Path, steps: int) -> list[int]:
    ids = torch.tensor([prompt_ids(model)])
    mask = torch.ones_like(ids)
    output = load_network(model).generate(
        ids, attention_mask=mask, max_new_tokens=steps, do_sample=False, eos_token_id=None
    )
    return output[0, ids.shape[1] :].tolist()


def decode(model: Path, ids: list[int]) -> str:
    return str(load_tokenizer(model).decode(ids, skip_special_tokens=True))


def test_a_chat_completion_is_the_plain_greedy_reply(client: openai.OpenAI, model: Path, greedy: list[int]) -> None:
    found = client.chat.completions.create(model="chat", messages=ASK, temperature=0, max_tokens=24)
    assert found.choices[0].message.content == decode(model, greedy)
    assert found.choices[0].finish_reason == "length"
    assert found.model == "chat"
    assert found.usage is not None
    assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (len(prompt_ids(model)), 24)


def test_a_stream_adds_up_to_the_whole_reply(client: openai.OpenAI, model: Path, greedy: list[int]) -> None:
    stream = client.chat.completions.create(
        model="chat",
        messages=ASK,
        temperature=0,
        max_tokens=24,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == decode(model, greedy)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length"
    assert chunks[-1].choices == [] and chunks[-1].usage is not None and chunks[-1].usage.completion_tokens == 24
    assert len({c.id for c in chunks}) == 1
    assert len(chunks) > 10, "the text must come in pieces"


def test_log_probabilities_come_with_each_token(client: openai.OpenAI, model: Path, greedy: list[int]) -> None:
    found = client.chat.completions.create(
        model="chat", messages=ASK, temperature=0, max_tokens=5, logprobs=True, top_logprobs=2
    )
    assert found.choices[0].logprobs is not None
    content = found.choices[0].logprobs.content
    assert content is not None and len(content) == 5
    assert b"".join(bytes(token.bytes or []) for token in content) == decode_bytes(model, greedy[:5])
    ids = torch.tensor([prompt_ids(model) + greedy[:5]])
    with torch.no_grad():
        logprobs = load_network(model)(ids).logits[0].float().log_softmax(-1)
    for i, token in enumerate(content):
        at = ids.shape[1] - 6 + i
        assert token.logprob == pytest.approx(float(logprobs[at, greedy[i]]), abs=1e-4)
        assert [top.logprob for top in token.top_logprobs] == pytest.approx(
            logprobs[at].topk(2).values.tolist(), abs=1e-4
        )


def decode_bytes(model: Path, ids: list[int]) -> bytes:
    """Return what ids stand for in a byte-level vocabulary, by its own table."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    table = {character: byte for byte, character in bytes_to_unicode().items()}
    return b"".join(
        bytes(table[c] for c in token) if all(c in table for c in token) else token.encode()
        for token in load_tokenizer(model).convert_ids_to_tokens(ids)
    )


def test_streamed_log_probabilities_are_those_of_the_whole_reply(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {"model": "chat", "messages": ASK, "temperature": 0, "max_tokens": 12, "logprobs": True}
    whole = client.chat.completions.create(**options).choices[0].logprobs
    chunks = client.chat.completions.create(**options, stream=True)
    pieces = [c.choices[0].logprobs for c in chunks if c.choices and c.choices[0].logprobs]
    assert whole is not None
    assert [token.token for piece in pieces for token in piece.content or []] == [t.token for t in whole.content or []]


def test_a_stop_string_ends_the_reply(client: openai.OpenAI, model: Path, greedy: list[int]) -> None:
    whole = decode(model, greedy)
    stop = whole[8:11]
    for is_stream in (False, True):
        found = client.chat.completions.create(
            model="chat", messages=ASK, temperature=0, max_tokens=24, stop=[stop], stream=is_stream
        )
        text = (
            "".join(c.choices[0].delta.content or "" for c in found) if is_stream else found.choices[0].message.content
        )
        assert text == whole[: whole.index(stop)]


def test_a_seed_repeats_a_reply_and_no_seed_does_not(client: openai.OpenAI) -> None:
    def ask(**more: Any) -> str | None:
        return (
            client.chat.completions.create(model="chat", messages=ASK, max_tokens=24, **more).choices[0].message.content
        )

    assert ask(seed=1) == ask(seed=1)
    assert ask(seed=1) != ask(seed=2)
    assert ask() != ask()
    assert ask(temperature=1.9, extra_body={"top_k": 1}) == ask(temperature=0)


def test_a_prompt_of_token_ids_is_scored(client: openai.OpenAI, model: Path) -> None:
    ids = prompt_ids(model)
    found = client.completions.create(model="chat", prompt=ids, max_tokens=0, echo=True, logprobs=1, temperature=0)
    logprobs = found.choices[0].logprobs
    assert logprobs is not None and logprobs.token_logprobs is not None
    with torch.no_grad():
        plain = load_network(model)(torch.tensor([ids])).logits[0].float().log_softmax(-1)
    assert logprobs.token_logprobs[0] is None
    expected = [float(plain[i - 1, ids[i]]) for i in range(1, len(ids))]
    assert logprobs.token_logprobs[1:] == pytest.approx(expected, abs=1e-4)
    assert logprobs.token_ids == ids  # type: ignore[attr-defined]
    assert "".join(logprobs.tokens or []) == load_tokenizer(model).decode(ids)


def test_text_is_continued_with_the_prompt_in_front_where_asked(client: openai.OpenAI) -> None:
    alone = client.completions.create(model="chat", prompt="Once there was", max_tokens=8, temperature=0)
    both = client.completions.create(
        model="chat", prompt=["Once there was", "My name"], max_tokens=8, temperature=0, echo=True, logprobs=0
    )
    assert both.choices[0].text.endswith("Once there was" + alone.choices[0].text)
    assert len(both.choices) == 2 and both.choices[1].index == 1
    logprobs = both.choices[0].logprobs
    assert logprobs is not None and len(logprobs.tokens or []) == len(logprobs.token_logprobs or [])
    stream = client.completions.create(model="chat", prompt="Once there was", max_tokens=8, temperature=0, stream=True)
    assert "".join(c.choices[0].text for c in stream if c.choices) == alone.choices[0].text


def test_a_rendered_conversation_has_the_ids_of_training(worker: Worker, model: Path) -> None:
    messages = [*ASK, {"role": "assistant", "content": "The sea."}]
    plain = load_tokenizer(model).apply_chat_template(messages, tokenize=True, return_dict=False)
    found = worker.post("/tokenize", {"messages": messages, "add_generation_prompt": False}).json()
    assert found["tokens"] == plain and found["count"] == len(plain)
    assert worker.post("/tokenize", {"messages": ASK, "add_generation_prompt": True}).json()["tokens"] == prompt_ids(
        model
    )


def test_the_worker_says_what_it_is(worker: Worker, client: openai.OpenAI, model: Path) -> None:
    info = worker.get("/info").json()
    vocabulary = load_tokenizer(model).get_vocab()
    assert info["stop_token_ids"] == sorted([vocabulary["<|eot_id|>"], vocabulary["<|end_of_text|>"]])
    assert (info["dtype"], info["max_model_len"]) == ("float32", 2048)
    assert info["parameters"] > 0 and info["rss_mb"] > 0
    assert [found.id for found in client.models.list()] == ["chat"]


@pytest.mark.parametrize(
    ("given", "param", "code", "text"),
    [
        pytest.param({"n": 0}, "n", "invalid_parameter", "expected 1 to 128", id="n"),
        pytest.param({"temperature": 5}, "temperature", "invalid_parameter", "expected 0 to 2", id="temperature"),
        pytest.param({"logit_bias": {"4": 200}}, "logit_bias", "invalid_parameter", "-100 to 100", id="logit_bias"),
        pytest.param(
            {"response_format": {"type": "xml"}}, "response_format", "invalid_parameter", "'json_schema'", id="format"
        ),
        pytest.param({"extra_body": {"wat": 1}}, "wat", "invalid_parameter", "Unrecognized", id="unknown field"),
        pytest.param({"messages": []}, "messages", "invalid_parameter", "at least one", id="no messages"),
        pytest.param(
            {"messages": [{"role": "user", "content": "Hello there. " * 2000}]},
            "messages",
            "context_length_exceeded",
            "maximum context length is 2048 tokens",
            id="too long",
        ),
        pytest.param({"max_tokens": 2048}, "messages", "context_length_exceeded", "2048", id="asks for too much"),
    ],
)
def test_errors_are_in_openai_s_shape(
    client: openai.OpenAI, given: dict[str, Any], param: str, code: str, text: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**({"model": "chat", "messages": ASK} | given))
    assert caught.value.param == param
    assert caught.value.code == code
    assert caught.value.type == "invalid_request_error"
    assert text in caught.value.message


def test_a_body_that_is_not_json_is_refused(worker: Worker) -> None:
    answer = http.post(f"{worker.url}/v1/chat/completions", content=b"{no")
    assert answer.status_code == 400
    assert "isn't JSON" in answer.json()["error"]["message"]


def test_token_ids_outside_the_vocabulary_are_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="isn't in the vocabulary") as caught:
        client.completions.create(model="chat", prompt=[5, 10**6], max_tokens=1)
    assert caught.value.param == "prompt"


def test_an_unknown_path_is_told_in_the_same_shape(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="POST /v1/embeddings"):
        client.embeddings.create(model="chat", input="x")


def test_a_worker_that_loads_says_so(model: Path, tmp_path: Path) -> None:
    fifo = tmp_path / "model" / "config.json"
    shutil.copytree(model, tmp_path / "model")
    fifo.unlink()
    os.mkfifo(fifo)  # loading waits for whoever writes to it
    worker = start(tmp_path / "worker", tmp_path / "model")
    try:
        assert worker.get("/health").status_code == 503
        answer = worker.post("/v1/chat/completions", {"messages": ASK})
        assert answer.status_code == 503
        assert "'chat' is loading" in answer.json()["error"]["message"]
    finally:
        assert worker.end() == 0


@pytest.mark.parametrize("is_stream", [True, False], ids=["streamed", "whole"])
def test_a_client_that_goes_away_cancels_its_request(worker: Worker, is_stream: bool) -> None:
    cancelled = 'mafunzo_requests_total{outcome="canceled"}'
    before = worker.metric(cancelled)
    body = {"messages": ASK, "stream": is_stream, "ignore_eos": True}
    address = (worker.url.removeprefix("http://").split(":")[0], int(worker.url.rpartition(":")[2]))
    content = json.dumps(body).encode()
    with socket.create_connection(address) as connection:
        connection.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s"
            % (len(content), content)
        )
        until(lambda: worker.metric("mafunzo_sequences_running") == 1)
    until(lambda: worker.metric(cancelled) == before + 1)
    until(lambda: worker.metric("mafunzo_sequences_running") == 0)


def test_many_clients_get_the_same_greedy_reply(worker: Worker, model: Path, greedy: list[int]) -> None:
    import asyncio

    async def ask_all() -> list[str | None]:
        async with openai.AsyncOpenAI(base_url=f"{worker.url}/v1", api_key="none", max_retries=0) as client:
            asked = [
                client.chat.completions.create(model="chat", messages=ASK, temperature=0, max_tokens=24)
                for _ in range(20)
            ]
            return [found.choices[0].message.content for found in await asyncio.gather(*asked)]

    assert set(asyncio.run(ask_all())) == {decode(model, greedy)}


def test_metrics_count_requests_tokens_and_the_time_to_the_first(worker: Worker, client: openai.OpenAI) -> None:
    names = (
        "mafunzo_generated_tokens_total",
        "mafunzo_time_to_first_token_seconds_count",
        'mafunzo_requests_total{outcome="length"}',
    )
    before = [worker.metric(name) for name in names]
    client.chat.completions.create(model="chat", messages=ASK, max_tokens=3, extra_body={"ignore_eos": True})
    assert [worker.metric(name) - was for name, was in zip(names, before, strict=True)] == [3, 1, 1]


def test_an_mlflow_folder_with_an_adapter_is_served_on_its_base(model: Path, tmp_path: Path) -> None:
    network = load_network(model)
    config = AdapterConfig(r=4, alpha=32)
    add_adapter(network, config)
    torch.manual_seed(0)
    for _, layer in adapters(network):
        torch.nn.init.normal_(layer.lora_B, std=0.2)
    package = tmp_path / "package"
    save_adapter(network, config, package / "data" / "adapter")
    load_tokenizer(model).save_pretrained(package / "data" / "adapter")
    (package / "MLmodel").write_text("flavors: {}\n")
    ids = prompt_ids(model)
    with torch.no_grad():
        plain = network(torch.tensor([ids])).logits[0].float().log_softmax(-1)
    worker = start(tmp_path / "worker", package, "--base", str(model))
    try:
        worker.wait_until("/health", 200)
        body = {"prompt": ids, "max_tokens": 0, "echo": True, "logprobs": 0}
        found = worker.post("/v1/completions", body).json()["choices"][0]["logprobs"]["token_logprobs"]
        assert found[1:] == pytest.approx([float(plain[i - 1, ids[i]]) for i in range(1, len(ids))], abs=1e-4)
    finally:
        assert worker.end() == 0


def test_a_model_that_cannot_be_loaded_ends_the_worker_with_the_reason(model: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (broken / name).write_bytes((model / name).read_bytes())
    (broken / "pytorch_model.bin").write_bytes(b"pickle")
    worker = start(tmp_path / "worker", broken)
    assert worker.process.wait(LIMIT_S) == 3
    assert "not in safetensors" in worker.log.read_text()


@pytest.mark.slow
def test_an_adapter_without_its_base_ends_the_worker_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    worker = start(tmp_path / "worker", tmp_path / "adapter")
    assert worker.process.wait(LIMIT_S) == 2
    assert "with --base" in worker.log.read_text()


def test_sigterm_ends_a_worker_that_is_answering(model: Path, tmp_path: Path) -> None:
    worker = start(tmp_path / "worker", model)
    worker.wait_until("/health", 200)
    stream = worker.client().chat.completions.create(
        model="chat", messages=ASK, stream=True, extra_body={"ignore_eos": True}
    )
    next(iter(stream))
    assert worker.end() == 0
