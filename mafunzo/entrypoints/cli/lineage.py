"""`mafunzo lineage`: from a model, or an answer of it, back to its data, every link checked by hash."""

import typer

import mafunzo
from mafunzo.entrypoints.terminal.output import AS_JSON, print_result
from mafunzo.errors import InvalidParameter


def lineage(
    thing: str = typer.Argument(help="A model (name or name:version), a job, or an answer (answer:ID)."),
    text: str = typer.Option(
        None, help="List the training rows closest to this text; of an answer that was kept, default what it says."
    ),
    rows: int = typer.Option(
        None, help="How many rows, default 5: the best by BM25, and as many that share the longest runs of words."
    ),
    as_json: bool = AS_JSON,
) -> None:
    """Trace a model, job or answer back to base, data, parameters and code; exit code 1 when a stored byte has changed.

    The id of an answer is in OpenAI's dialect its `id` (chatcmpl-...), and of `/score` the header `mafunzo-answer`.
    """
    report = mafunzo.Workspace().lineage(thing, text, **({} if rows is None else {"rows": rows}))
    if rows is not None and report.closest is None:
        raise InvalidParameter(
            "--rows lists training rows closest to a text, and none was kept of it. Give one: --text TEXT."
        )
    print_result(report, as_json, *report.lines())
    report.require_intact()
