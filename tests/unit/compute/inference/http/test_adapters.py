"""Adapters that a worker loads and unloads while it answers: each answers as it would alone, under its own name."""

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from mafunzo.compute.inference.engine import GREEDY as GREEDY_SAMPLING
from mafunzo.compute.inference.http.app import make_app
from mafunzo.compute.inference.http.service import Service
from mafunzo.compute.inference.loading import load_model
from mafunzo.compute.inference.request import GenerationRequest
from mafunzo.compute.model.folder import TOKENIZER_FILES, copy_files, weights_sha256, write_facts
from mafunzo.compute.model.loading import load_network
from mafunzo.compute.model.lora import AdapterConfig, adapters, add_adapter, save_adapter
from mafunzo.entities.conversation import Conversation, Message
from mafunzo.errors import NotFound, WorkerFailed

LOAD, UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"
COMPLETE = "/v1/completions"
TALK = [{"role": "user", "content": "How are you today?"}]
GREEDY = {"temperature": 0, "max_tokens": 12, "ignore_eos": True}


def save(base: Path, folder: Path, seed: int) -> Path:
    network = load_network(base)
    torch.manual_seed(seed)
    add_adapter(network, config := AdapterConfig(r=4, alpha=8))
    for _, layer in adapters(network):
        torch.nn.init.normal_(layer.lora_B, std=0.3)
    save_adapter(network, config, folder)
    copy_files(base, TOKENIZER_FILES, folder)
    return folder


@pytest.fixture(scope="module")
def folders(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("adapters")
    return {f"chat:{name}": save(tiny_llama, root / name, seed) for seed, name in enumerate(("red", "blue"))}


@pytest.fixture(scope="module")
def running(tiny_llama: Path) -> Iterator[Service]:
    service = Service("chat")
    service.model = load_model(tiny_llama, max_batch=4, device="cpu")
    yield service
    service.model.engine.close()


@pytest.fixture
def service(running: Service) -> Iterator[Service]:
    """The worker, whose adapters are gone when the test ends."""
    yield running
    for name in list(running.adapters):
        running.unload_adapter(name)


@pytest.fixture(scope="module")
def alone(folders: dict[str, Path], tiny_llama: Path) -> dict[str, str]:
    """What workers answer that serve one adapter each, as their model."""
    return {name: solo(tiny_llama, folder) for name, folder in folders.items()}


def load(ask: Any, name: str, folder: Path) -> Any:
    return ask("POST", LOAD, json={"lora_name": name, "lora_path": str(folder)})


def solo(tiny_llama: Path, folder: Path) -> str:
    """What a worker answers that has loaded the adapter as its model."""
    service = Service("chat", load_model(folder, tiny_llama, device="cpu"))
    try:
        return answer(service)
    finally:
        service.loaded.engine.close()


def answer(service: Service) -> str:
    model = service.loaded
    ids = tuple(service.prompt_ids(Conversation((Message("user", TALK[0]["content"]),)), True))
    request = GenerationRequest(ids, 12, GREEDY_SAMPLING, ignore_eos=True, adapter=model.adapter)
    return model.engine.submit(request).reply().text


def chat(ask: Any, model: str) -> Any:
    return ask("POST", "/v1/chat/completions", json={"model": model, "messages": TALK, **GREEDY})


def said(answer: Any) -> str:
    return str(answer.json()["choices"][0]["message"]["content"])


def test_each_adapter_answers_under_its_name_as_alone_and_the_base_as_before(
    ask: Any, folders: dict[str, Path], alone: dict[str, str]
) -> None:
    before = said(chat(ask, "chat"))
    for name, folder in folders.items():
        assert load(ask, name, folder).status_code == 200
    texts = {name: said(chat(ask, name)) for name in ("chat", *folders)}
    assert texts == {"chat": before} | alone
    assert len(set(texts.values())) == 3
    assert chat(ask, "chat:red").json()["model"] == "chat:red"
    assert [one["id"] for one in ask("GET", "/v1/models").json()["data"]] == ["chat", "chat:red", "chat:blue"]


def test_streams_of_several_adapters_at_once_leak_nothing_into_one_another(
    service: Service, ask: Any, folders: dict[str, Path]
) -> None:
    for name, folder in folders.items():
        load(ask, name, folder)
    names = ["chat", *folders] * 3
    expected = {name: said(chat(ask, name)) for name in set(names)}

    async def stream(client: Any, name: str) -> str:
        body = {"model": name, "messages": TALK, "stream": True, **GREEDY}
        text = (await client.post("/v1/chat/completions", json=body)).text
        events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
        return "".join(event["choices"][0]["delta"].get("content") or "" for event in events)

    async def all_streams() -> list[str]:
        transport = httpx.ASGITransport(make_app(service))
        async with httpx.AsyncClient(transport=transport, base_url="http://worker") as client:
            return await asyncio.gather(*(stream(client, name) for name in names))

    assert asyncio.run(all_streams()) == [expected[name] for name in names]


def test_what_is_loaded_again_under_a_name_never_answers_from_what_was_kept_of_the_other(
    ask: Any, folders: dict[str, Path]
) -> None:
    load(ask, "chat:blue", folders["chat:blue"])
    blue = said(chat(ask, "chat:blue"))
    load(ask, "chat:one", folders["chat:red"])
    assert said(chat(ask, "chat:one")) != blue
    assert ask("POST", UNLOAD, json={"lora_name": "chat:one"}).status_code == 200
    load(ask, "chat:one", folders["chat:blue"])
    assert said(chat(ask, "chat:one")) == blue


def test_loading_twice_changes_nothing_and_a_name_that_is_taken_is_refused(
    ask: Any, service: Service, folders: dict[str, Path]
) -> None:
    red, blue = folders.values()
    assert load(ask, "chat:red", red).status_code == load(ask, "chat:red", red).status_code == 200
    assert len(service.loaded.engine.executor.adapter_names) == 1
    taken = load(ask, "chat:red", blue)
    assert (taken.status_code, "There is an adapter 'chat:red' already" in taken.text) == (409, True)


def test_adapters_share_the_model_s_tokenizer_where_their_files_are_equal(
    ask: Any, service: Service, folders: dict[str, Path], tiny_llama: Path, tmp_path: Path
) -> None:
    load(ask, "chat:red", folders["chat:red"])
    assert service.adapters["chat:red"].loaded.tokenizer is service.loaded.tokenizer
    own = [save(tiny_llama, tmp_path / name, 1) for name in ("one", "two")]
    for folder in own:
        file = folder / "chat_template.jinja"
        file.write_text(file.read_text() + "{# another #}!")
        load(ask, f"chat:{folder.name}", folder)
    one, two = (service.adapters[f"chat:{folder.name}"].loaded for folder in own)
    assert one.tokenizer is two.tokenizer is not service.loaded.tokenizer
    body = {"messages": TALK}
    plain, tuned = (ask("POST", "/tokenize", json=body | {"model": name}).json() for name in ("chat", "chat:one"))
    assert plain["tokens"] != tuned["tokens"], "each is rendered by its own chat template"
    assert ask("GET", "/info", params={"model": "chat:one"}).json()["name"] == "chat:one"


@pytest.mark.parametrize(
    ("path", "body", "status", "text"),
    [
        pytest.param(LOAD, {"lora_name": "chat:x"}, 400, "expected an object with the texts lora_name", id="no path"),
        pytest.param(
            LOAD, {"lora_name": "x", "lora_path": "/"}, 400, "expected 'chat:' and", id="no name of the model's"
        ),
        pytest.param(LOAD, {"lora_name": "chat:x", "lora_path": "/dev"}, 400, "holds no adapter", id="no adapter"),
        pytest.param(UNLOAD, {"lora_name": "chat:x"}, 404, "There is no adapter 'chat:x'", id="not loaded"),
        pytest.param(COMPLETE, {"model": "chat:x", "prompt": "a"}, 404, "There is no adapter 'chat:x'", id="asked"),
    ],
)
def test_what_cannot_be_done_is_refused(ask: Any, path: str, body: Any, status: int, text: str) -> None:
    answer = ask("POST", path, json=body)
    assert (answer.status_code, text in answer.json()["error"]["message"]) == (status, True), answer.text


def test_an_adapter_of_another_base_is_refused(
    ask: Any, service: Service, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tmp_path / "base"
    copy_files(tiny_llama, ("*",), base)
    write_facts(base, {"name": "tiny", "weights_sha256": weights_sha256(base)})
    monkeypatch.setattr(service, "model", service.loaded.__class__(**{**vars(service.loaded), "base": base}))
    folder = save(tiny_llama, tmp_path / "red", 1)
    write_facts(folder, {"base": {"name": "other", "weights_sha256": "f" * 64}})
    answer = load(ask, "chat:red", folder)
    assert (answer.status_code, "those of other" in answer.text) == (400, True)
    assert service.adapters == {}


def test_an_answer_under_way_ends_as_it_would_when_its_adapter_is_unloaded(
    service: Service, ask: Any, folders: dict[str, Path]
) -> None:
    load(ask, "chat:red", folders["chat:red"])
    red, engine = service.adapters["chat:red"], service.loaded.engine
    has_begun = threading.Event()
    request = GenerationRequest((5, 6, 7), 40, GREEDY_SAMPLING, ignore_eos=True, adapter=red.loaded.adapter)
    whole = engine.submit(request).reply().text
    events: list[Any] = []
    ended = threading.Event()

    def take(event: Any) -> None:
        events.append(event)
        has_begun.set()
        if type(event).__name__ in ("Finished", "Failed"):
            ended.set()

    engine.submit(request, take)
    has_begun.wait(60)
    service.unload_adapter("chat:red")
    assert ended.wait(60)
    assert "".join(getattr(event, "text", "") for event in events) == whole
    with pytest.raises(NotFound):
        service.named("chat:red")
    engine.unload_adapter("nobody's")  # a change after it, so that what is unused is forgotten
    engine.generate([[5]], max_tokens=1)
    assert engine.executor.adapter_names == set()


def test_a_closed_engine_loads_nothing(folders: dict[str, Path], tiny_llama: Path) -> None:
    service = Service("chat", load_model(tiny_llama, device="cpu"))
    service.loaded.engine.close()
    with pytest.raises(WorkerFailed, match="closed"):
        service.load_adapter("chat:red", folders["chat:red"])


def test_a_worker_whose_model_is_an_adapter_takes_others_of_its_base_beside_it(
    folders: dict[str, Path], tiny_llama: Path, alone: dict[str, str]
) -> None:
    red, blue = folders.values()
    service = Service("chat", load_model(red, tiny_llama, device="cpu"))
    try:
        assert answer(service) == alone["chat:red"]
        service.load_adapter("chat:blue", blue)
        assert [answer(service), answer(service.named("chat:blue"))] == list(alone.values())
    finally:
        service.loaded.engine.close()
