"""How many workers a deployment is to have, as it is written on the command line."""

import typer

from mafunzo.entities.scale import Scale, scale_by_load
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
    scale = None if bounds is None else faults.attempt(lambda: scale_by_load(bounds, idle_minutes), None)
    if instances is not None and bounds is not None:
        faults.add("--instances and --scale exclude each other: a fixed number, or by load.")
    if idle_minutes is not None and bounds is None:
        faults.add("--idle-minutes needs --scale: a fixed number of workers doesn't change.")
    faults.require_none("The number of workers can't be read.")
    return scale if instances is None else Scale(instances, instances)
