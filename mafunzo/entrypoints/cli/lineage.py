"""`mafunzo lineage`: from a model back to its data, every link checked by hash."""

import typer

import mafunzo
from mafunzo.entrypoints.terminal.output import AS_JSON, print_result


def lineage(
    thing: str = typer.Argument(help="A model (name or name:version) or a job."), as_json: bool = AS_JSON
) -> None:
    """Trace a model or job back to base, data, parameters and code; exit code 1 when a stored byte has changed."""
    report = mafunzo.Workspace().lineage(thing)
    print_result(report, as_json, *report.lines())
    report.require_intact()
