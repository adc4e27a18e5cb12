"""OpenAI's own SDK against a real server process, whose workers are fakes."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest

from mafunzo.control.launcher.server_process import find_server, start_in_background
from mafunzo.control.serving.worker_folder import worker_folder
from mafunzo.control.store.home import Home
from mafunzo.control.store.response import files
from mafunzo.control.workspace.shutdown import shut_down
from mafunzo.entities.endpoint import Deployment, DeploymentStatus
from mafunzo.entities.scale import Scale
from mafunzo.entrypoints.http.auth import operator_key
from mafunzo.errors import HomeInUse, PortInUse
from tests.support.served import Served
from tests.support.waiting import LIMIT_S, http

HELLO: list[Any] = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One server for all tests that leave it as it was."""
    made = Served(tmp_path_factory.mktemp("served"))
    made.start()
    made.go_live()
    yield made
    made.stop()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Served]:
    """A server of the test's own."""
    made = Served(tmp_path)
    made.start()
    yield made
    made.stop()


def test_the_sdk_gets_an_answer_under_the_endpoint_s_name(served: Served) -> None:
    answer = served.say("hello")
    assert answer.choices[0].message.content == "hello from the fake"
    assert answer.model == "chat"


def test_the_sdk_streams(served: Served) -> None:
    pieces = [chunk.choices[0].delta.content for chunk in served.say("hello", stream=True)]
    assert pieces == ["hello ", "from ", "the ", "fake "]


def test_a_stream_is_passed_on_while_it_is_written(served: Served) -> None:
    stream = served.say("endless", stream=True)
    assert [next(stream).choices[0].delta.content for _ in range(3)] == ["0 ", "1 ", "2 "]
    stream.close()


def test_parameters_reach_the_worker_as_they_were_sent(served: Served) -> None:
    answer = served.say("body", temperature=0.5, seed=7, extra_body={"top_k": 3})
    sent = json.loads(answer.choices[0].message.content)
    assert (sent["temperature"], sent["seed"], sent["top_k"], sent["model"]) == (0.5, 7, 3, "chat")


def test_the_worker_never_sees_the_key(served: Served) -> None:
    assert "chat-key-1" not in served.say("headers").choices[0].message.content


def test_both_keys_open_the_endpoint(served: Served) -> None:
    assert served.say("hello", key="chat-key-2").choices


def test_the_answer_says_which_deployment_gave_it(served: Served) -> None:
    raw = served.client().chat.completions.with_raw_response.create(model="chat", messages=HELLO)
    assert raw.headers["mafunzo-deployment"] == raw.headers["azureml-model-deployment"] == "blue"


def test_a_completion_s_log_probabilities_come_through(served: Served) -> None:
    answer = served.client().completions.create(model="chat", prompt=[60, 61], max_tokens=0, echo=True, logprobs=1)
    assert answer.choices[0].logprobs is not None
    assert answer.choices[0].logprobs.tokens == ["<", "="]


def test_a_wrong_key_is_refused_in_the_sdk_s_words(served: Served) -> None:
    with pytest.raises(openai.AuthenticationError) as caught:
        served.say("hello", key="wrong")
    assert caught.value.code == "invalid_api_key"


@pytest.mark.parametrize("header", [{}, {"Authorization": "Basic eA=="}, {"Authorization": "Bearer"}])
def test_no_key_is_refused(served: Served, header: dict[str, str]) -> None:
    body = {"model": "chat", "messages": HELLO}
    answer = http.post(f"{served.address.url}/v1/chat/completions", json=body, headers=header)
    assert answer.status_code == 401
    assert answer.json()["error"]["message"].startswith("The request has no key")


def test_a_key_without_a_right_tells_nothing_of_which_endpoints_exist(served: Served) -> None:
    served.deploy(served.model(), "secret")
    refusals = []
    for name in ("secret", "no-such-endpoint"):
        with pytest.raises(openai.NotFoundError) as caught:
            served.say("hello", model=name)
        refusals.append(str(caught.value).replace(name, "NAME"))
        with pytest.raises(openai.AuthenticationError) as unknown_key:
            served.say("hello", model=name, key="wrong")
        refusals.append(str(unknown_key.value).replace(name, "NAME"))
    assert refusals[:2] == refusals[2:]


def test_a_key_lists_its_own_endpoint_only(served: Served) -> None:
    assert [model.id for model in served.client().models.list()] == ["chat"]
    assert served.client().models.retrieve("chat").owned_by == "mafunzo"
    with pytest.raises(openai.NotFoundError):
        served.client().models.retrieve("secret")


def test_the_worker_s_own_refusals_come_through(served: Served) -> None:
    with pytest.raises(openai.BadRequestError, match="no such parameter"):
        served.say("error")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        pytest.param(b"{", "isn't JSON", id="broken JSON"),
        pytest.param(b"[]", "names no model", id="no object"),
        pytest.param(b'{"messages": []}', "names no model", id="no model"),
        pytest.param(b'{"model": 5}', "names no model", id="a model that is no text"),
    ],
)
def test_a_body_that_can_t_be_routed_is_refused(served: Served, body: bytes, message: str) -> None:
    headers = {"Authorization": "Bearer chat-key-1"}
    answer = http.post(f"{served.address.url}/v1/chat/completions", content=body, headers=headers)
    assert answer.status_code == 400
    assert message in answer.json()["error"]["message"]


def test_a_body_that_is_too_large_is_refused(served: Served) -> None:
    headers = {"Authorization": "Bearer chat-key-1"}
    answer = http.post(f"{served.address.url}/v1/chat/completions", content=b" " * (33 * 2**20), headers=headers)
    assert answer.status_code == 400
    assert "larger than 32 MB" in answer.json()["error"]["message"]


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", ""])
def test_another_host_name_is_refused(served: Served, host: str) -> None:
    answer = http.get(f"{served.address.url}/healthz", headers={"Host": host})
    assert answer.status_code in (400, 421)


def test_an_unknown_address_is_refused_in_the_dialect(served: Served) -> None:
    answer = http.get(f"{served.address.url}/v1/embeddings")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_url")
    assert "none that embeds text" in answer.json()["error"]["message"]


def test_health_needs_no_key_and_metrics_need_the_operator_s(served: Served) -> None:
    served.say("hello")
    health = http.get(f"{served.address.url}/healthz").json()
    assert health["status"] == "ok"
    assert health["loops"]["scheduler"] == health["loops"]["supervisor"] == "running"
    assert http.get(f"{served.address.url}/metrics").status_code == 401
    wrong = http.get(f"{served.address.url}/metrics", headers={"Authorization": "Bearer chat-key-1"})
    assert wrong.status_code == 401
    headers = {"Authorization": f"Bearer {operator_key(served.home)}"}
    text = http.get(f"{served.address.url}/metrics", headers=headers).text
    assert 'mafunzo_requests_total{deployment="blue",endpoint="chat",status="200"}' in text
    assert 'mafunzo_deployments{status="healthy"}' in text


def test_files_of_the_server_are_its_user_s_only(served: Served) -> None:
    for name in ("server.json", "operator.key", "logs/server.log"):
        assert (served.home.root / name).stat().st_mode & 0o777 == 0o600, name


def test_a_second_server_on_the_same_home_is_refused_and_names_the_first(served: Served) -> None:
    process = subprocess.run(
        [sys.executable, "-m", "mafunzo.entrypoints.serve", "--home", str(served.home.root), "--port", "0"],
        capture_output=True,
        text=True,
    )
    assert process.returncode == HomeInUse.exit_code
    assert f"in use by a server with pid {served.address.pid}" in process.stderr


def test_starting_a_server_that_runs_returns_it(served: Served) -> None:
    assert start_in_background(served.home, 0, 0) == served.address


def test_a_port_that_is_taken_is_refused_and_names_who_has_it(served: Served, tmp_path: Path) -> None:
    home = Home(tmp_path / "another")
    with pytest.raises(PortInUse, match=f"Port {served.address.port} is in use by process {served.address.pid} "):
        start_in_background(home, served.address.port, 0)
    assert home.holder() is None


def test_a_client_that_leaves_a_stream_ends_it_at_the_worker(own: Served) -> None:
    found = own.go_live()
    stream = own.say("endless", stream=True)
    next(stream)
    stream.response.close()
    own.wait_for(lambda: (worker_folder(own.home, found) / "disconnected").exists())


def test_a_client_that_leaves_a_streamed_response_ends_it_at_the_worker_and_it_is_not_stored(own: Served) -> None:
    found = own.go_live()
    stream = own.client().responses.create(model="chat", input="endless", stream=True)
    assert next(stream).type == "response.created"
    stream.response.close()
    own.wait_for(lambda: (worker_folder(own.home, found) / "disconnected").exists())
    own.wait_until_logged("POST /v1/responses chat/blue 499")
    assert list(files(own.home)) == []


def test_an_endpoint_s_stored_responses_go_with_it(own: Served) -> None:
    own.go_live()
    own.client().responses.create(model="chat", input="hello")
    assert len(list(files(own.home))) == 1
    own.records.endpoints.update(replace(own.records.endpoints.get("chat"), is_deleting=True))
    own.wait_for(lambda: own.records.endpoints.list() == [] and list(files(own.home)) == [])


def test_an_answer_that_takes_too_long_is_ended_with_504(own: Served) -> None:
    own.go_live(request_timeout_s=0.5)
    with pytest.raises(openai.InternalServerError) as caught:
        own.say("slow")
    assert caught.value.status_code == 504
    assert "didn't finish its answer in 0.5 s" in str(caught.value)


def test_a_stream_that_pauses_for_too_long_ends_with_an_error_event(own: Served) -> None:
    own.go_live({"chunk_s": 3600}, request_timeout_s=0.5)
    with pytest.raises(openai.APIError, match=r"wrote nothing for 0\.5 s"):
        list(own.say("hello", stream=True))
    own.wait_until_logged("POST /v1/chat/completions chat/blue 504")


def test_a_worker_that_breaks_off_is_told_as_502(own: Served) -> None:
    own.go_live()
    with pytest.raises(openai.InternalServerError) as caught:
        own.say("break off")
    assert caught.value.status_code == 502


def test_an_endpoint_without_a_healthy_deployment_says_when_to_try_again(own: Served) -> None:
    own.deploy(own.model({"load_s": 3600}))
    with pytest.raises(openai.InternalServerError) as caught:
        own.say("hello")
    assert caught.value.status_code == 503
    assert caught.value.response.headers["Retry-After"] == "1"
    assert "no healthy deployment now (blue is" in str(caught.value)


def test_requests_split_by_traffic_and_a_header_names_the_deployment(own: Served) -> None:
    own.go_live({"reply": "blue"})
    own.go_live({"reply": "green"}, name="green")

    def reply(**more: Any) -> str:
        return str(own.say("hello", **more).choices[0].message.content)

    assert {reply() for _ in range(10)} == {"blue"}, "all traffic is blue's"
    assert reply(extra_headers={"mafunzo-deployment": "green"}) == "green"
    assert reply(extra_headers={"azureml-model-deployment": "green"}) == "green"
    with pytest.raises(openai.NotFoundError, match="no deployment 'red'"):
        reply(extra_headers={"mafunzo-deployment": "red"})
    endpoint = own.records.endpoints.get("chat")
    own.records.endpoints.update(replace(endpoint, traffic_percent={"blue": 50, "green": 50}))
    with ThreadPoolExecutor(8) as threads:
        replies = list(threads.map(lambda _: reply(), range(60)))
    assert {"blue", "green"} == set(replies)


def test_a_new_key_works_and_the_old_one_does_not_at_once(own: Served) -> None:
    own.go_live()
    assert own.say("hello").choices
    own.records.endpoints.set_keys("chat", ("new", "chat-key-2"))
    with pytest.raises(openai.AuthenticationError):
        own.say("hello", key="chat-key-1")
    assert own.say("hello", key="new").choices


def test_a_request_that_ends_its_worker_is_sent_to_the_next_and_no_further(own: Served) -> None:
    first = own.go_live()
    with pytest.raises(openai.InternalServerError) as caught:
        own.say("crash")
    assert caught.value.status_code == 502
    own.wait_for(lambda: own.find().attempt == first.attempt + 2 and own.find().status is DeploymentStatus.HEALTHY)
    assert own.say("hello").choices


def test_a_killed_worker_costs_no_answer(own: Served) -> None:
    first = own.go_live()

    def ask(number: int) -> bool:
        if number == 20:
            os.kill(_worker_pid(own, first), signal.SIGKILL)
        return bool(own.say("hello").choices)

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(ask, range(100)))
    assert own.find().attempt == first.attempt + 1


def _worker_pid(served: Served, deployment: Deployment) -> int:
    """The process that listens on the deployment's port."""
    listening = psutil.net_connections("tcp")
    [pid] = {one.pid for one in listening if one.laddr and one.laddr.port == deployment.port and one.status == "LISTEN"}
    assert pid is not None
    return pid


def test_neither_prompts_nor_keys_are_logged(own: Served) -> None:
    own.go_live()
    own.say("a very private question")
    own.wait_until_logged("POST /v1/chat/completions chat/blue 200")
    assert "private" not in own.logged()
    assert "chat-key" not in own.logged()


def test_a_worker_outlives_a_killed_server_and_is_adopted_by_the_next(own: Served) -> None:
    before = own.go_live()
    os.kill(own.process.pid, signal.SIGKILL)
    own.process.wait()
    assert find_server(own.home) is None, "what it left behind doesn't count"
    own.start()
    assert own.find() == before
    assert own.say("hello").choices


def test_a_server_that_is_asked_to_stop_leaves_its_workers_to_the_next(own: Served) -> None:
    before = own.go_live()
    os.kill(own.process.pid, signal.SIGTERM)
    assert own.process.wait(LIMIT_S) == 0
    assert own.home.holder() is None
    assert not (own.home.root / "server.json").exists()
    own.start()
    assert own.find() == before
    assert own.say("hello").choices


def test_requests_under_way_are_answered_before_the_server_stops(own: Served) -> None:
    own.go_live({"chunk_s": 0.3})
    stream = own.say("hello", stream=True)
    first = next(stream).choices[0].delta.content
    os.kill(own.process.pid, signal.SIGTERM)
    assert [first, *(chunk.choices[0].delta.content for chunk in stream)] == ["hello ", "from ", "the ", "fake "]
    own.process.wait(LIMIT_S)


def test_a_server_in_the_background_outlives_who_started_it(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    code = (
        "import sys; from pathlib import Path; from mafunzo.control.store.home import Home;"
        "from mafunzo.control.launcher.server_process import start_in_background;"
        "print(start_in_background(Home(Path(sys.argv[1])), 0, 0).port)"
    )
    starter = subprocess.run([sys.executable, "-c", code, str(home.root)], capture_output=True, text=True, check=True)
    found = find_server(home)
    assert found is not None
    assert found.port == int(starter.stdout)
    assert os.getsid(found.pid) == found.pid, "a session of its own"
    assert http.get(f"{found.url}/healthz").status_code == 200
    assert [process.purpose for process in shut_down(home).processes] == ["server"]


def test_two_that_start_a_server_at_once_share_it(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(lambda _: start_in_background(home, 0, 0), range(2))
    assert first == second
    shut_down(home)


def test_an_idle_deployment_has_no_worker_and_the_next_requests_wake_it_and_wait(own: Served) -> None:
    own.go_live({"load_s": 1.0}, scale=Scale(0, 2, polling_s=0.1, idle_s=0.1), request_timeout_s=0.9)
    own.wait_for(lambda: own.find().status is DeploymentStatus.IDLE)
    assert own.leases.list() == []
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda _: own.say("hello").choices[0].message.content, range(4)))
    assert answers == ["hello from the fake"] * 4


def test_with_two_workers_a_kill_of_one_fails_no_request(own: Served) -> None:
    own.go_live(scale=Scale(2, 2))
    own.wait_for(lambda: [worker.status for worker in own.find().workers] == [DeploymentStatus.HEALTHY] * 2)
    first = own.find().workers[0]
    runner = json.loads((worker_folder(own.home, first) / "process.json").read_text())
    [worker] = psutil.Process(int(runner["pid"])).children()
    with ThreadPoolExecutor(4) as threads:
        answers = [threads.submit(own.say, "hello") for _ in range(20)]
        os.kill(worker.pid, signal.SIGKILL)
        answers += [threads.submit(own.say, "hello") for _ in range(20)]
        assert {answer.result().choices[0].message.content for answer in answers} == {"hello from the fake"}
