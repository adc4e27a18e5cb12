"""Traffic split: a request goes to the deployment that it names, else to one drawn by weight; there, to the least busy worker.

Pure.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from mafunzo.entities.adapter import AdapterStatus, adapter_model
from mafunzo.entities.endpoint import Deployment, DeploymentStatus, Endpoint
from mafunzo.errors import InvalidParameter, NotFound, Unavailable

Workers = Mapping[str, Sequence[Deployment]]
"""The workers of each deployment of an endpoint, by the deployment's name."""


def _no_load(worker: Deployment) -> int:
    return 0


def pick(
    endpoint: Endpoint,
    deployments: Sequence[Deployment],
    deployment_name: str | None,
    draw: float,
    busy: Callable[[Deployment], int] = _no_load,
) -> Deployment:
    """Return the worker that serves a request: of the deployment that it names, else by the endpoint's traffic.

    Shares of deployments that aren't healthy go to the others in proportion; one that is idle keeps its share, since a request
    wakes it. `draw` is uniform in [0, 1); `busy` is how many requests a worker has.
    Raises `NotFound` for an unknown name, `Unavailable` when nothing healthy can answer now.
    """
    workers = _by_name(deployments)
    if deployment_name is not None:
        if deployment_name not in workers:
            raise NotFound(f"Endpoint '{endpoint.name}' has no deployment '{deployment_name}'.")
        name = deployment_name
    else:
        shares = {
            name: percent
            for name, percent in endpoint.traffic_percent.items()
            if percent > 0 and name in workers and _takes_a_share(workers[name])
        }
        if not shares:
            raise Unavailable(_why_none(endpoint, workers))
        name = choose(shares, draw)
    live = live_workers(workers[name])
    if not live:
        raise Unavailable(f"Deployment '{endpoint.name}/{name}' is {workers[name][0].status}. Try again later.")
    return min(live, key=busy)


def with_adapter(endpoint: Endpoint, deployments: Sequence[Deployment], adapter: str | None) -> Sequence[Deployment]:
    """Return the deployments as a request sees them that names an adapter: only those that serve it.

    A worker on which it isn't live yet is as one that starts, which is waited for; one that refused it, as one that failed.
    Raises `NotFound` where no deployment has it, `Unavailable` where all refused it.
    """
    if adapter is None:
        return deployments
    name = adapter_model(endpoint.name, adapter)
    serving = [one for one in deployments if adapter in one.adapters]
    if not serving:
        raise NotFound(f"The model '{name}' doesn't exist: endpoint '{endpoint.name}' has no adapter '{adapter}'.")
    workers = [worker for one in serving for worker in one.workers if is_live(worker)]
    if workers and all(worker.adapter_status(adapter) is AdapterStatus.REFUSED for worker in workers):
        raise Unavailable(f"The adapter '{name}' was refused. Why: mafunzo endpoint adapter list {endpoint.name}")
    return [_seen(one, adapter) for one in serving]


def _seen(deployment: Deployment, adapter: str) -> Deployment:
    for worker in deployment.workers:
        status = worker.adapter_status(adapter)
        if is_live(worker) and status is not AdapterStatus.LIVE:
            is_refused = status is AdapterStatus.REFUSED
            down = DeploymentStatus.REFUSED if is_refused else DeploymentStatus.WAITING
            deployment = deployment.with_worker(replace(worker, status=down, port=None))
    return deployment


def returning(
    endpoint: Endpoint, deployments: Sequence[Deployment], deployment_name: str | None, draw: float
) -> Deployment | None:
    """Return the deployment that a request may wait for: none can answer now, and this one's next worker will.

    It answered before, and neither failed nor is being deleted. None where there's no such deployment.
    """
    workers = _by_name(deployments)
    shares = {deployment_name: 100} if deployment_name is not None else endpoint.traffic_percent
    shares = {
        name: percent
        for name, percent in shares.items()
        if percent > 0 and name in workers and any(map(_comes_back, workers[name]))
    }
    if not shares:
        return None
    return next(filter(_comes_back, workers[choose(shares, draw)]))


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


def rebalanced(before: Mapping[str, int], deployment: str, share: int | None) -> dict[str, int]:
    """Return the traffic with `deployment` at `share` and the others in their old proportions; it adds up to 100, or to 0.

    None is 100 where no other has a share, else 0. Raises `InvalidParameter` for a share that can't be.
    """
    others = {name: percent for name, percent in before.items() if name != deployment and percent}
    if share is None:
        share = 0 if others else 100
    if not 0 <= share <= 100:
        raise InvalidParameter(f"traffic is {share}, expected 0 to 100 percent.")
    if not others:
        if share not in (0, 100):
            raise InvalidParameter(
                f"traffic is {share}, but no other deployment gets requests, so that nothing would take the other "
                f"{100 - share} percent. Deployment '{deployment}' can take 100, or 0."
            )
        return {deployment: share}
    total, rest = sum(others.values()), 100 - share
    shares = {name: percent * rest // total for name, percent in others.items()}
    first = next(iter(shares))
    shares[first] += rest - sum(shares.values())
    return {**shares, deployment: share}


def is_live(worker: Deployment) -> bool:
    """Return whether requests may go to a worker: it is healthy, or was and is only being verified once more."""
    is_verified_again = worker.status is DeploymentStatus.VERIFYING and worker.port is not None
    return worker.status is DeploymentStatus.HEALTHY or is_verified_again


def live_workers(workers: Sequence[Deployment]) -> list[Deployment]:
    """Return the workers that requests may go to."""
    return [worker for worker in workers if is_live(worker)]


def _by_name(deployments: Sequence[Deployment]) -> Workers:
    workers: dict[str, list[Deployment]] = {}
    for deployment in deployments:
        workers.setdefault(deployment.name, []).extend(deployment.workers)
    return workers


def _takes_a_share(workers: Sequence[Deployment]) -> bool:
    return any(is_live(worker) or worker.status is DeploymentStatus.IDLE for worker in workers)


def _comes_back(worker: Deployment) -> bool:
    status = worker.status
    is_ending = status.has_failed or status is DeploymentStatus.DELETING
    return not is_ending and (is_live(worker) or worker.supervision.was_healthy)


def _why_none(endpoint: Endpoint, workers: Workers) -> str:
    names = [name for name, percent in endpoint.traffic_percent.items() if percent > 0 and name in workers]
    if not names:
        return f"No deployment of endpoint '{endpoint.name}' gets traffic. Set it, or name a deployment in a header."
    states = ", ".join(f"{name} is {workers[name][0].status}" for name in names)
    return f"Endpoint '{endpoint.name}' has no healthy deployment now ({states}). Try again later."
