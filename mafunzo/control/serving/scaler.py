"""How many workers each deployment is to have now, by the load since the last look; in memory only."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mafunzo.control.serving.load import Loads
from mafunzo.control.serving.scale import Lull, instances_now, lull_now, needed, present
from mafunzo.entities.endpoint import Deployment, DeploymentStatus


@dataclass
class _Look:
    """The last look at a deployment: when, and the lull that it saw."""

    at: float
    lull: Lull | None = None


class Scaler:
    """Looks at the load of deployments, each as often as its `polling_s` says."""

    def __init__(self, loads: Loads, requests_at_once: int, clock: Callable[[], float]) -> None:
        self._loads, self._at_once, self._clock = loads, requests_at_once, clock
        self._looks: dict[tuple[str, str], _Look] = {}

    def instances(self, deployments: Sequence[Deployment]) -> list[int]:
        """Return for each deployment how many workers it is to have; all other deployments are forgotten."""
        keys = {(deployment.endpoint, deployment.name) for deployment in deployments}
        self._looks = {key: look for key, look in self._looks.items() if key in keys}
        return [self._instances(deployment) for deployment in deployments]

    def _instances(self, deployment: Deployment) -> int:
        scale, now, count = deployment.scale, self._clock(), len(present(deployment))
        if scale.is_fixed:
            return scale.min_instances
        look = self._looks.get((deployment.endpoint, deployment.name))
        is_woken = count == 0 and self._loads.requests(deployment) > 0
        if look is not None and 0 <= now - look.at < scale.polling_s and not is_woken:
            return max(scale.min_instances, min(scale.max_instances, count))
        need = needed(scale, self._loads.most(deployment), self._at_once)
        is_starting = deployment.status in (DeploymentStatus.STARTING, DeploymentStatus.VERIFYING)
        lull = lull_now(None if look is None or is_starting else look.lull, need, count, now)
        self._looks[deployment.endpoint, deployment.name] = _Look(now, lull)
        return instances_now(scale, count, need, lull, now)
