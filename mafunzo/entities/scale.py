"""How many workers a deployment has: so many, or by load between two bounds."""

import math
import re
from dataclasses import dataclass

from mafunzo.errors import Faults, InvalidParameter

MAX_INSTANCES = 64
DEFAULT_IDLE_S = 300.0
DEFAULT_TARGET_PERCENT = 70
DEFAULT_POLLING_S = 1.0


@dataclass(frozen=True)
class Scale:
    """Between how many workers a deployment has, by its load; equal bounds fix their number. With 0, the last one ends too.

    target_percent: of the requests that its workers answer at once, how many they are to have; more load starts another worker.
    polling_s: how often the load is looked at. idle_s: how long fewer workers must have sufficed before any ends.
    """

    min_instances: int = 1
    max_instances: int = 1
    target_percent: int = DEFAULT_TARGET_PERCENT
    polling_s: float = DEFAULT_POLLING_S
    idle_s: float = DEFAULT_IDLE_S

    def __str__(self) -> str:
        if self.is_fixed:
            return str(self.min_instances)
        return f"{self.min_instances} to {self.max_instances} by load, idle {self.idle_s / 60:g} minutes"

    @property
    def is_fixed(self) -> bool:
        return self.min_instances == self.max_instances


ONE_INSTANCE = Scale()


def scale_by_load(bounds: str, idle_minutes: float | None = None) -> Scale:
    """Return the scale that is written `MIN:MAX`, such as `0:3`; raises `InvalidParameter`."""
    pair = re.fullmatch(r"([0-9]{1,4}):([0-9]{1,4})", bounds.strip())
    if pair is None:
        raise InvalidParameter(f"'{bounds}' isn't a scale, expected MIN:MAX such as 0:3.")
    idle_s = DEFAULT_IDLE_S if idle_minutes is None else idle_minutes * 60
    return Scale(int(pair[1]), int(pair[2]), idle_s=idle_s)


def require_scale(scale: Scale) -> None:
    """Raise `InvalidParameter` for numbers of workers that can't be, with all faults at once."""
    faults = Faults()
    least, most = scale.min_instances, scale.max_instances
    if not 0 <= least <= MAX_INSTANCES:
        faults.add(f"min_instances is {least}, expected 0 to {MAX_INSTANCES}.")
    if not 1 <= most <= MAX_INSTANCES:
        faults.add(f"max_instances is {most}, expected 1 to {MAX_INSTANCES}. To serve nothing, delete the deployment.")
    if least > most:
        faults.add(f"min_instances is {least}, expected at most max_instances, {most}.")
    if not 1 <= scale.target_percent <= 100:
        faults.add(f"target_utilization_percentage is {scale.target_percent}, expected 1 to 100.")
    lengths = {"polling_interval": scale.polling_s, "idle_minutes": scale.idle_s}
    faults.add(*(f"{name} is {s:g} s, expected more than 0." for name, s in lengths.items() if not 0 < s < math.inf))
    faults.require_none("The number of instances can't be.")
