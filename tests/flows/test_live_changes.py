"""Deployments that change while real workers answer: a rolling update, and blue/green. No request fails."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import openai
import pytest

from mafunzo import Workspace
from mafunzo.compute.components.tiny_model import make
from mafunzo.control.workspace.endpoints import EndpointHandle

CLIENTS = 3


@pytest.fixture(scope="module")
def models(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two versions of one model, of other random weights each."""
    names = []
    for seed in (0, 1):
        folder = tmp_path_factory.mktemp("model")
        make("tiny-llama", seed, folder)
        names.append(str(workspace.models.register(folder, name="tiny").key))
    return names


class Load:
    """What clients got that ask all the time."""

    def __init__(self, handle: EndpointHandle) -> None:
        self.answers, self.errors = 0, list[BaseException]()
        self._handle, self._url, self._key = handle, handle.url, handle.keys[0]
        self._stop, self._answered = threading.Event(), threading.Condition()

    def ask(self, number: int) -> None:
        client = openai.OpenAI(base_url=self._url, api_key=self._key, max_retries=0)
        while not self._stop.is_set():
            try:
                self._ask_once(client, is_stream=number % 2 == 1)
            except (openai.OpenAIError, AssertionError) as error:
                self.errors.append(error)
                self._stop.set()
            with self._answered:
                self.answers += 1
                self._answered.notify_all()

    def _ask_once(self, client: openai.OpenAI, is_stream: bool) -> None:
        messages = [{"role": "user", "content": "hello"}]
        name = self._handle.name
        if is_stream:
            stream = client.chat.completions.create(model=name, messages=messages, max_tokens=8, stream=True)  # type: ignore[call-overload]
            assert [chunk.choices[0].finish_reason for chunk in stream][-1] in ("stop", "length")
            return
        answer = client.chat.completions.create(model=name, messages=messages, max_tokens=8)  # type: ignore[call-overload]
        assert answer.choices[0].finish_reason in ("stop", "length")

    def wait_for_more(self, count: int = 2 * CLIENTS) -> None:
        """Return once so many requests more have their answer."""
        with self._answered:
            goal = self.answers + count
            self._answered.wait_for(lambda: self.answers >= goal or self._stop.is_set(), 120)

    def stop(self) -> None:
        self._stop.set()


@contextmanager
def under_load(handle: EndpointHandle) -> Iterator[Load]:
    """Have clients ask all the time; in the end, none has seen an error."""
    load = Load(handle)
    with ThreadPoolExecutor(CLIENTS) as threads:
        clients = [threads.submit(load.ask, number) for number in range(CLIENTS)]
        try:
            load.wait_for_more()
            yield load
            load.wait_for_more()
        finally:
            load.stop()
        for client in clients:
            client.result()
    assert load.errors == []


def test_a_model_is_updated_and_traffic_moves_to_another_without_a_failed_request(
    workspace: Workspace, models: list[str]
) -> None:
    first, second = models
    handle = workspace.deploy(first, endpoint="tiny", deployment="blue")
    with under_load(handle) as load:
        assert workspace.deployments.update("tiny", "blue", second).model == second
        load.wait_for_more()
        workspace.deploy(first, endpoint="tiny", deployment="green")
        handle.set_mirror({"green": 100})
        load.wait_for_more()
        handle.set_traffic({"blue": 50, "green": 50})
        load.wait_for_more()
        handle.set_traffic({"green": 100})
        load.wait_for_more()
        handle.delete_deployment("blue")
    assert [(one.name, one.model) for one in handle.deployments] == [("green", first)]
    report = handle.mirror_report("green")
    assert report.compared > 0
