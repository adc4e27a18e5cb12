"""`mafunzo lineage`: from a model back to its data, every link checked by hash."""

import typer

from mafunzo.entrypoints.terminal.output import AS_JSON, print_json


def lineage(
    thing: str = typer.Argument(help="A model (name or name:version) or a job."), as_json: bool = AS_JSON
) -> None:
    """Trace a model or job back to base, data, parameters and code; exit code 1 when a stored byte has changed."""
    from mafunzo.control.workspace import Workspace

    report = Workspace().lineage(thing)
    if as_json:
        print_json(report)
    else:
        for line in report.lines():
            print(line)
    report.require_intact()
