"""Traffic split: a request goes to the deployment that it names, else to one drawn by weight. Pure."""

from collections.abc import Mapping, Sequence

from mafunzo.entities.endpoint import Deployment, DeploymentStatus, Endpoint
from mafunzo.errors import NotFound, Unavailable


def pick(endpoint: Endpoint, deployments: Sequence[Deployment], deployment_name: str | None, draw: float) -> Deployment:
    """Return the deployment that serves a request: the one that it names, else by the endpoint's traffic.

    Shares of deployments that aren't healthy go to the others in proportion. `draw` is uniform in [0, 1).
    Raises `NotFound` for an unknown name, `Unavailable` when nothing healthy can answer.
    """
    by_name = {deployment.name: deployment for deployment in deployments}
    if deployment_name is not None:
        if deployment_name not in by_name:
            raise NotFound(f"Endpoint '{endpoint.name}' has no deployment '{deployment_name}'.")
        if not is_live(by_name[deployment_name]):
            raise Unavailable(
                f"Deployment '{endpoint.name}/{deployment_name}' is {by_name[deployment_name].status}. Try again later."
            )
        return by_name[deployment_name]
    shares = {
        name: percent
        for name, percent in endpoint.traffic_percent.items()
        if percent > 0 and name in by_name and is_live(by_name[name])
    }
    if not shares:
        raise Unavailable(_why_none(endpoint, by_name))
    return by_name[choose(shares, draw)]


def returning(
    endpoint: Endpoint, deployments: Sequence[Deployment], deployment_name: str | None, draw: float
) -> Deployment | None:
    """Return the deployment that a request may wait for: none can answer now, and this one's next worker will.

    It answered before, and neither failed nor is being deleted. None where there's no such deployment.
    """
    by_name = {deployment.name: deployment for deployment in deployments}
    shares = {deployment_name: 100} if deployment_name is not None else endpoint.traffic_percent
    shares = {
        name: percent
        for name, percent in shares.items()
        if percent > 0 and name in by_name and _comes_back(by_name[name])
    }
    return by_name[choose(shares, draw)] if shares else None


def choose(traffic_percent: Mapping[str, int], draw: float) -> str:
    """Return the deployment that serves a request.

    `traffic_percent` maps deployments to shares, of which one at least is positive; they need not add up to 100, because
    those that aren't healthy were left out. `draw` is uniform in [0, 1).
    """
    total = sum(traffic_percent.values())
    assert total > 0
    point = draw * total
    for name, share in traffic_percent.items():
        point -= share
        if point < 0:
            return name
    return [name for name, share in traffic_percent.items() if share][-1]


def is_live(deployment: Deployment) -> bool:
    """Return whether requests may go to its worker: it is healthy, or was and is only being verified once more."""
    is_verified_again = deployment.status is DeploymentStatus.VERIFYING and deployment.port is not None
    return deployment.status is DeploymentStatus.HEALTHY or is_verified_again


def _comes_back(deployment: Deployment) -> bool:
    status = deployment.status
    is_ending = status.has_failed or status is DeploymentStatus.DELETING
    return not is_ending and (is_live(deployment) or deployment.supervision.was_healthy)


def _why_none(endpoint: Endpoint, by_name: Mapping[str, Deployment]) -> str:
    names = [name for name, percent in endpoint.traffic_percent.items() if percent > 0 and name in by_name]
    if not names:
        return f"No deployment of endpoint '{endpoint.name}' gets traffic. Set it, or name a deployment in a header."
    states = ", ".join(f"{name} is {by_name[name].status}" for name in names)
    return f"Endpoint '{endpoint.name}' has no healthy deployment now ({states}). Try again later."
