"""`mafunzo data`: conversations to learn from and to be tested on."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

import mafunzo
from mafunzo.entrypoints.terminal.output import AS_JSON, print_facts, print_json, print_list, print_result, print_table
from mafunzo.entrypoints.terminal.preview import print_preview

if TYPE_CHECKING:
    from mafunzo.dataset.check import Report

app = typer.Typer(help="Conversations: fetch, check, look at, split.", no_args_is_help=True)
FILE = typer.Argument(help="jsonl, ndjson, json, csv, tsv, parquet or arrow, also compressed; or a folder.")


@app.command("list")
def list_data(as_json: bool = AS_JSON) -> None:
    """List the data sets of the catalogue; any org/name of the hub works as well."""
    cards = mafunzo.Workspace().data.list()
    bodies = [card.model_dump(mode="json") for card in cards]
    rows = [(card.name, card.licence, card.description) for card in cards]
    print_list(bodies, as_json, ("name", "licence", "description"), rows, "No data sets.")


@app.command()
def get(
    name: str = typer.Argument(help="A data set of the catalogue, or org/name."),
    to: Path = typer.Option(..., help="The folder to write jsonl files into."),
    percent: float = typer.Option(100.0, help="The first N percent of each split."),
    overwrite: bool = typer.Option(False, "--overwrite", help="Replace files that are there."),
    as_json: bool = AS_JSON,
) -> None:
    """Write a data set as jsonl files of conversations."""
    files = mafunzo.Workspace().data.get(name, to=to, percent=percent, overwrite=overwrite)
    print_result(files, as_json, *files.values())


@app.command()
def check(
    file: Path = FILE,
    validation: Path = typer.Option(None, help="The job's validation rows; default the end of the file."),
    test: Path = typer.Option(None, help="The job's held-out rows; default the end of the file."),
    split_seed: int = typer.Option(None, help="The job's split_seed, which draws the rows that have no file."),
    as_json: bool = AS_JSON,
) -> None:
    """Read every row; name each bad one with its reasons, and say what repeats. Exit code 2 when there are bad rows.

    With the files that a job will have, it says which training rows the job will leave out, since they are held out too.
    """
    from mafunzo.dataset.check import refuse

    splits = mafunzo.Workspace().data.check_splits(file, validation, test, split_seed)
    files = {"train": file, "validation": validation, "test": test}
    bodies = {name: _report_body(files[name], report) for name, report in splits.reports.items()}
    sentences = list(splits.sentences())
    if as_json:
        train = bodies.pop("train")
        print_json({**train, "training_rows": splits.training_rows(), "left_out": splits.left_out(), **bodies})
    else:
        for body in bodies.values():
            _print_report(body)
        for sentence in sentences:
            print(f"repeats {sentence}.")
    refuse([row for report in splits.reports.values() for row in report.bad])


def _report_body(file: Path, report: "Report") -> dict[str, Any]:
    return {
        "file": str(file),
        "rows": report.rows_read,
        "good": report.rows_kept,
        "bad": len(report.bad),
        "format": dict(report.formats),
        "reasons": report.reasons,
        "notes": dict(report.notes),
        "equal_rows": report.equal_rows,
        "equal_prompts": report.equal_prompts,
        "faults": [str(row) for row in report.bad],
    }


def _print_report(body: Mapping[str, Any]) -> None:
    print_facts({key: body[key] for key in ("file", "rows", "good", "bad", "format")})
    for reason, count in body["reasons"].items():
        print(f"bad     {count:,} of {body['rows']:,} rows: {reason}")
    for note, count in body["notes"].items():
        print(f"note    {count:,} of {body['rows']:,} rows: {note}")


@app.command()
def preview(
    file: Path = FILE,
    model: str = typer.Option(..., help="Whose chat template renders the rows."),
    rows: int = typer.Option(3, min=1, help="How many."),
    max_seq_length: int = typer.Option(-1, help="Cut longer rows; -1 takes the model's own limit."),
    train_on: str = typer.Option("assistant", help="What is learned: assistant, last (its last turn) or everything."),
    long_rows: str = typer.Option("truncate", help="What becomes of longer rows: truncate, drop or split (by turns)."),
    as_json: bool = AS_JSON,
) -> None:
    """Show rows as the network will see them, and name each bad row: what is learned is green, or stands in marks."""
    sample = mafunzo.Workspace().data.preview(model, file, rows, max_seq_length, train_on, long_rows)
    if as_json:
        print_json({"rows": sample.rows, "report": sample.report})
        return
    print_preview(sample.rows, sample.report)


@app.command()
def split(
    file: Path = FILE,
    to: Path = typer.Option(..., help="The folder for train.jsonl, validation.jsonl and test.jsonl."),
    seed: int = typer.Option(None, help="Draw the rows by this seed; default in the file's order."),
    as_json: bool = AS_JSON,
) -> None:
    """Split a file into training, validation and test rows: 80, 10 and 10 percent."""
    written = mafunzo.Workspace().data.split(file, to, seed)
    if as_json:
        print(json.dumps({name: {"file": str(path), "rows": rows} for name, (path, rows) in written.items()}))
        return
    print_table(("split", "rows", "file"), [(name, rows, path) for name, (path, rows) in written.items()], "")


@app.command()
def mirror(
    repository: str = typer.Argument(help="org/name, as on the hub."),
    folder: Path = typer.Argument(help="Where its files lie."),
    as_json: bool = AS_JSON,
) -> None:
    """Name the folder where a hub's data set is found, for machines without the hub."""
    location = mafunzo.Workspace().data.mirror(repository, folder).properties["folder"]
    print_result({"repository": repository, "folder": location}, as_json, f"{repository} is found in {location}")
