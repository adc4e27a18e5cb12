"""Tests of `mafunzo.control.serving.metrics`: the router's requests as Prometheus counts them."""

from dataclasses import replace

import httpx
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from mafunzo.control.serving.metrics import RequestMetrics, WorkerMetrics
from mafunzo.control.serving.worker_folder import worker_token
from mafunzo.entities.endpoint import Deployment, DeploymentStatus

BLUE = Deployment("chat", "blue", "m:1", "sha256:0")
SECRET = b"of the home"
WORKER = """\
# HELP mafunzo_generated_tokens_total Tokens generated
# TYPE mafunzo_generated_tokens_total counter
mafunzo_generated_tokens_total {tokens}
# HELP mafunzo_requests_total Requests answered
# TYPE mafunzo_requests_total counter
mafunzo_requests_total{{outcome="stop"}} 7.0
# HELP mafunzo_time_to_first_token_seconds From the request to the first token
# TYPE mafunzo_time_to_first_token_seconds histogram
mafunzo_time_to_first_token_seconds_bucket{{le="0.1"}} 1.0
mafunzo_time_to_first_token_seconds_bucket{{le="+Inf"}} 2.0
mafunzo_time_to_first_token_seconds_count 2.0
mafunzo_time_to_first_token_seconds_sum 0.5
"""


def lines(registry: CollectorRegistry) -> list[str]:
    return [line for line in generate_latest(registry).decode().splitlines() if not line.startswith("#")]


def test_requests_are_counted_by_deployment_from_begin_to_end() -> None:
    requests = RequestMetrics(registry := CollectorRegistry())
    requests.begin(BLUE)
    assert 'mafunzo_requests_in_flight{deployment="blue",endpoint="chat"} 1.0' in lines(registry)
    requests.end(BLUE, 200, 0.3)
    texts = lines(registry)
    assert 'mafunzo_requests_in_flight{deployment="blue",endpoint="chat"} 0.0' in texts
    assert 'mafunzo_requests_total{deployment="blue",endpoint="chat",status="200"} 1.0' in texts
    assert 'mafunzo_request_seconds_bucket{deployment="blue",endpoint="chat",le="0.25"} 0.0' in texts
    assert 'mafunzo_request_seconds_bucket{deployment="blue",endpoint="chat",le="0.5"} 1.0' in texts


def test_each_server_counts_for_itself() -> None:
    first, second = CollectorRegistry(), CollectorRegistry()
    RequestMetrics(second)
    RequestMetrics(first).begin(BLUE)
    assert lines(second) == []


def workers(*deployments: Deployment, answers: dict[int, httpx.Response]) -> CollectorRegistry:
    """Return the metrics of workers that answer by their ports; a port without an answer is one that nobody listens on."""

    def answer(request: httpx.Request) -> httpx.Response:
        alone = (worker for deployment in deployments for worker in deployment.workers)
        deployment = next(worker for worker in alone if worker.port == request.url.port)
        assert request.headers["authorization"] == f"Bearer {worker_token(SECRET, deployment)}"
        assert request.url.path == "/metrics" and request.url.host == "127.0.0.1"
        if request.url.port not in answers:
            raise httpx.ConnectError("refused")
        return answers[request.url.port]

    metrics = WorkerMetrics(lambda: deployments, SECRET)
    metrics._http = httpx.Client(transport=httpx.MockTransport(answer))
    registry = CollectorRegistry()
    registry.register(metrics)
    return registry


def test_what_workers_count_is_told_by_endpoint_and_deployment() -> None:
    blue = replace(BLUE, status=DeploymentStatus.HEALTHY, port=1001)
    other = replace(blue, endpoint="talk", port=1002)
    answers = {port: httpx.Response(200, text=WORKER.format(tokens=tokens)) for port, tokens in ((1001, 5), (1002, 8))}
    texts = lines(workers(blue, other, answers=answers))
    assert 'mafunzo_generated_tokens_total{deployment="blue",endpoint="chat",worker="blue"} 5.0' in texts
    assert 'mafunzo_generated_tokens_total{deployment="blue",endpoint="talk",worker="blue"} 8.0' in texts
    assert (
        'mafunzo_time_to_first_token_seconds_bucket{deployment="blue",endpoint="chat",le="0.1",worker="blue"} 1.0'
        in texts
    )
    assert 'mafunzo_time_to_first_token_seconds_sum{deployment="blue",endpoint="talk",worker="blue"} 0.5' in texts
    assert 'mafunzo_worker_up{deployment="blue",endpoint="talk",worker="blue"} 1.0' in texts
    assert not any(text.startswith("mafunzo_requests") for text in texts), "the router counts those"


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(None, id="nobody listens"),
        pytest.param(httpx.Response(503, text=WORKER), id="it refuses"),
        pytest.param(httpx.Response(200, json={"error": "what?"}), id="it talks of something else"),
    ],
)
def test_a_worker_that_tells_nothing_is_not_up_and_hides_no_others(answer: httpx.Response | None) -> None:
    blue = replace(BLUE, status=DeploymentStatus.HEALTHY, port=1001)
    green = replace(blue, name="green", port=1002)
    answers = {1002: httpx.Response(200, text=WORKER.format(tokens=3))} | ({} if answer is None else {1001: answer})
    texts = lines(workers(blue, green, answers=answers))
    assert 'mafunzo_worker_up{deployment="blue",endpoint="chat",worker="blue"} 0.0' in texts
    assert 'mafunzo_generated_tokens_total{deployment="green",endpoint="chat",worker="green"} 3.0' in texts
    assert sum(text.startswith("mafunzo_generated_tokens_total") for text in texts) == 1


def test_each_worker_of_a_deployment_is_told_under_its_own_name() -> None:
    """Which of them the deployment's own fields describe changes: a name by these would have counters jump."""
    first = replace(BLUE, status=DeploymentStatus.HEALTHY, port=1001, attempt=1)
    second = replace(first, number=1, port=1002, attempt=2)
    starting = replace(first, number=2, port=1003, attempt=3, status=DeploymentStatus.STARTING)
    blue = first.with_worker(starting).with_worker(second)
    answers = {port: httpx.Response(200, text=WORKER.format(tokens=tokens)) for port, tokens in ((1001, 5), (1002, 8))}
    texts = lines(workers(blue, answers=answers))
    assert [text for text in texts if text.startswith("mafunzo_generated_tokens_total")] == [
        'mafunzo_generated_tokens_total{deployment="blue",endpoint="chat",worker="blue"} 5.0',
        'mafunzo_generated_tokens_total{deployment="blue",endpoint="chat",worker="blue#2"} 8.0',
    ]


def test_only_live_workers_are_asked() -> None:
    assert lines(workers(BLUE, replace(BLUE, name="green", port=1001), answers={})) == []
