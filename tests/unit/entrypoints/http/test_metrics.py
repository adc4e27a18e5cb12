"""Tests of `mafunzo.entrypoints.http.metrics`: what operators scrape."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from mafunzo import Workspace
from mafunzo.entities.endpoint import Deployment, DeploymentStatus, Endpoint
from mafunzo.entities.job import Job, JobStatus
from mafunzo.entrypoints.http.metrics import Metrics


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    with Workspace(tmp_path / "home") as opened:
        yield opened


def lines(metrics: Metrics) -> list[str]:
    return [line for line in metrics.text().decode().splitlines() if not line.startswith("#")]


def test_of_an_empty_home_nothing_is_counted(workspace: Workspace) -> None:
    assert lines(Metrics(workspace)) == []


def test_jobs_that_have_not_ended_are_counted_by_status_anew_at_each_scrape(workspace: Workspace) -> None:
    metrics = Metrics(workspace)
    for name, status in {
        "a": JobStatus.QUEUED,
        "b": JobStatus.QUEUED,
        "c": JobStatus.RUNNING,
        "d": JobStatus.FAILED,
    }.items():
        workspace.records.jobs.add(Job(name, name, "chat", "c:1", status=status), [])
    assert sorted(lines(metrics)) == ['mafunzo_jobs{status="queued"} 2.0', 'mafunzo_jobs{status="running"} 1.0']
    workspace.records.jobs.add(Job("e", "e", "chat", "c:1", status=JobStatus.RUNNING), [])
    assert 'mafunzo_jobs{status="running"} 2.0' in lines(metrics)


def test_deployments_are_counted_by_status(workspace: Workspace) -> None:
    workspace.records.endpoints.add(Endpoint("chat"), keys=("one", "two"))
    for name, status in {
        "a": DeploymentStatus.HEALTHY,
        "b": DeploymentStatus.HEALTHY,
        "c": DeploymentStatus.FAILED,
    }.items():
        workspace.records.deployments.add(Deployment("chat", name, "m:1", "sha256:0", status))
    assert sorted(lines(Metrics(workspace))) == [
        'mafunzo_deployments{status="failed"} 1.0',
        'mafunzo_deployments{status="healthy"} 2.0',
    ]


def test_the_routers_requests_are_among_them(workspace: Workspace) -> None:
    metrics = Metrics(workspace)
    blue = Deployment("chat", "blue", "m:1", "sha256:0")
    metrics.requests.begin(blue)
    assert 'mafunzo_requests_in_flight{deployment="blue",endpoint="chat"} 1.0' in lines(metrics)
    metrics.requests.end(blue, 200, 0.3)
    found = lines(metrics)
    assert 'mafunzo_requests_in_flight{deployment="blue",endpoint="chat"} 0.0' in found
    assert 'mafunzo_requests_total{deployment="blue",endpoint="chat",status="200"} 1.0' in found
    assert 'mafunzo_request_seconds_bucket{deployment="blue",endpoint="chat",le="0.25"} 0.0' in found
    assert 'mafunzo_request_seconds_bucket{deployment="blue",endpoint="chat",le="0.5"} 1.0' in found


def test_each_server_counts_for_itself(workspace: Workspace) -> None:
    first, second = Metrics(workspace), Metrics(workspace)
    first.requests.begin(Deployment("chat", "blue", "m:1", "sha256:0"))
    assert lines(second) == []
