"""How many workers a deployment is to have, as it is written on the command line."""

import re

import typer

from mafunzo.entities.scale import ONE_INSTANCE, Scale
from mafunzo.errors import Faults

INSTANCES = typer.Option(None, help="How many workers, always; each request goes to the one with the fewest.")
BOUNDS = typer.Option(
    None,
    "--scale",
    metavar="MIN:MAX",
    help="Between how many workers, by load. 0:MAX ends the last one too; the next request starts one, and waits for it.",
)
IDLE_MINUTES = typer.Option(
    None, help="With --scale: for how long fewer workers must have been enough before one ends; default 5."
)


def scale_of(instances: int | None, bounds: str | None, idle_minutes: float | None) -> Scale | None:
    """Return the scale that options say, None where they say nothing; raises `InvalidParameter` with all faults."""
    faults = Faults()
    pair = re.fullmatch(r"([0-9]{1,4}):([0-9]{1,4})", bounds or "0:1")
    if pair is None:
        faults.add(f"--scale is '{bounds}', expected MIN:MAX such as 0:3.")
    if instances is not None and bounds is not None:
        faults.add("--instances and --scale exclude each other: a fixed number, or by load.")
    if idle_minutes is not None and bounds is None:
        faults.add("--idle-minutes needs --scale: a fixed number of workers doesn't change.")
    faults.require_none("The number of workers can't be read.")
    if bounds is None or pair is None:
        return None if instances is None else Scale(instances, instances)
    idle_s = ONE_INSTANCE.idle_s if idle_minutes is None else idle_minutes * 60
    return Scale(int(pair[1]), int(pair[2]), idle_s=idle_s)
