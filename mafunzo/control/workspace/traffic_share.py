"""The shares of an endpoint's traffic: which may be set, and what the others get where one changes. Pure."""

from collections.abc import Mapping, Sequence

from mafunzo.control.serving.traffic import rebalanced as rebalanced
from mafunzo.entities.endpoint import Deployment, DeploymentStatus, Endpoint
from mafunzo.errors import Conflict, Faults


def require_shares(endpoint: Endpoint, deployments: Sequence[Deployment], traffic_percent: Mapping[str, int]) -> None:
    """Raise unless an endpoint's traffic may be split so.

    Raises `InvalidParameter` for shares that can't be, `Conflict` for more traffic to a deployment that can't answer.
    """
    message = f"The traffic of {endpoint.name} can't be set."
    by_name = {deployment.name: deployment for deployment in deployments}
    faults = Faults()
    faults.add(*(f"Endpoint {endpoint.name} has no deployment '{n}'." for n in traffic_percent if n not in by_name))
    faults.add(
        *(f"{n} is {share}, expected 0 to 100." for n, share in traffic_percent.items() if not 0 <= share <= 100)
    )
    if not faults and sum(traffic_percent.values()) not in (0, 100):
        faults.add(f"The shares add up to {sum(traffic_percent.values())}, expected 100 (or 0).")
    faults.require_none(message)
    before = endpoint.traffic_percent
    grown = [by_name[name] for name, share in traffic_percent.items() if share > before.get(name, 0)]
    if reasons := [reason for deployment in grown if (reason := _why_no_traffic(deployment))]:
        raise Conflict(message, reasons)


def _why_no_traffic(deployment: Deployment) -> str:
    """Return why a deployment may get no requests, with what to do; empty for one that answers, or did and comes back."""
    name, status = deployment.name, deployment.status
    if status is DeploymentStatus.DELETING:
        return f"{name} is being deleted."
    if status.has_failed:
        why = (deployment.error or {}).get("message", "see its log.")
        return f"{name} is {status}: {why} Create it again with what has to be different, or delete it."
    if status in (DeploymentStatus.HEALTHY, DeploymentStatus.UNHEALTHY) or deployment.supervision.was_healthy:
        return ""
    return f"{name} is {status} and can't answer yet. Wait until it is healthy, then set its traffic."
