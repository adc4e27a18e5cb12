"""Tests of `mafunzo.control.serving.metrics`: the router's requests as Prometheus counts them."""

from prometheus_client import CollectorRegistry, generate_latest

from mafunzo.control.serving.metrics import RequestMetrics
from mafunzo.entities.endpoint import Deployment

BLUE = Deployment("chat", "blue", "m:1", "sha256:0")


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
