"""`mafunzo batch`: a file of rows answered with a model."""

from pathlib import Path

import typer

import mafunzo
from mafunzo.entrypoints.terminal.output import AS_JSON, DETACH, follow, print_result
from mafunzo.entrypoints.terminal.words import pairs
from mafunzo.errors import InvalidParameter

app = typer.Typer(help="Answer a file of rows with a model, at full batch.", no_args_is_help=True)
TO = typer.Option(None, help="The file for the answers, a JSON line a row.")


@app.command()
def score(
    model: str = typer.Argument(help="A registered model, one of the catalogue, org/name of a hub, or a folder."),
    data: Path = typer.Argument(help="jsonl, ndjson, json, csv, tsv, parquet or arrow, also compressed; or a folder."),
    to: Path | None = TO,
    max_new_tokens: int = typer.Option(None, help="The longest answer; default 256."),
    temperature: float = typer.Option(None, help="0, the default, takes the most likely token each time."),
    parameters: list[str] = typer.Option(
        [], "--set", help="key=value, as often as needed: a parameter of batch scoring, such as top_p, seed or stop."
    ),
    detach: bool = DETACH,
    as_json: bool = AS_JSON,
) -> None:
    """Answer every row of a file; a conversation at its last turn of the assistant, or at its end.

    Example: mafunzo batch score SmolLM2-135M-Instruct questions.jsonl --to answers.jsonl

    A row that can't be answered gets its error in the answer's place. What is answered is kept when the machine stops:
    the job goes on from there.
    """
    if to is not None:
        from mafunzo.control.workspace.predictions import require_place

        if detach:
            raise InvalidParameter(
                "--to writes the answers when the job has ended, and --detach doesn't wait. Keep one."
            )
        require_place(to)
    workspace = mafunzo.Workspace()
    values = {"max_new_tokens": max_new_tokens, "temperature": temperature}
    given = {name: value for name, value in values.items() if value is not None}
    words = pairs(parameters)
    if twice := ", ".join(sorted(given.keys() & words.keys())):
        raise InvalidParameter(f"{twice}: given as an option and with --set. Keep one.")
    job = workspace.batch_score(model, data, **given, **words)
    if to is None:
        follow(job, detach, as_json, f"Answers: mafunzo batch fetch {job.name} --to FILE")
        return
    job.stream(as_json=as_json)
    _fetch(workspace, job.name, to, as_json)


@app.command()
def fetch(
    job: str = typer.Argument(help="The scoring job's name."),
    to: Path = typer.Option(..., help="The file for the answers, a JSON line a row."),
    as_json: bool = AS_JSON,
) -> None:
    """Write the answers of a scoring job that has completed."""
    _fetch(mafunzo.Workspace(), job, to, as_json)


def _fetch(workspace: "mafunzo.Workspace", job: str, to: Path, as_json: bool) -> None:
    report = workspace.jobs.write_predictions(job, to)
    failed = f", {report['failed']:,} failed, each with its reason" if report["failed"] else ""
    line = f"{to}: {report['answered']:,} of {report['rows']:,} rows answered{failed}"
    print_result({"file": str(to), **report}, as_json, line)
