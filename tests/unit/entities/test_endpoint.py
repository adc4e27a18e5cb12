"""Tests of `mafunzo.entities.endpoint`: what the states of a deployment mean."""

from mafunzo.entities.endpoint import DeploymentStatus


def test_a_deployment_is_settled_once_it_is_healthy_or_idle_or_has_failed() -> None:
    assert {status for status in DeploymentStatus if status.has_failed} == {
        DeploymentStatus.REFUSED,
        DeploymentStatus.FAILED,
    }
    settled = {status for status in DeploymentStatus if status.is_settled}
    assert settled == {
        DeploymentStatus.HEALTHY,
        DeploymentStatus.IDLE,
        DeploymentStatus.REFUSED,
        DeploymentStatus.FAILED,
    }
