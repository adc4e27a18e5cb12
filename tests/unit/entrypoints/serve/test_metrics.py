"""Tests of `mafunzo.entrypoints.serve.metrics`: what operators scrape."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from mafunzo import Workspace
from mafunzo.entities.endpoint import Deployment, DeploymentStatus, Endpoint
from mafunzo.entities.job import Job, JobStatus
from mafunzo.entrypoints.serve.metrics import Books


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    with Workspace(tmp_path / "home") as opened:
        yield opened


def metrics_of(workspace: Workspace) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(Books(workspace))
    return registry


def lines(metrics: CollectorRegistry) -> list[str]:
    return [line for line in generate_latest(metrics).decode().splitlines() if not line.startswith("#")]


def test_of_an_empty_home_nothing_is_counted(workspace: Workspace) -> None:
    assert lines(metrics_of(workspace)) == []


def test_jobs_that_have_not_ended_are_counted_by_status_anew_at_each_scrape(workspace: Workspace) -> None:
    metrics = metrics_of(workspace)
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
    assert sorted(lines(metrics_of(workspace))) == [
        'mafunzo_deployments{status="failed"} 1.0',
        'mafunzo_deployments{status="healthy"} 2.0',
    ]
