"""What commands print: tables, facts and a job's progress for people, JSON for programs."""

import dataclasses
import json
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import typer

from mafunzo.tracking.printable import printable

if TYPE_CHECKING:
    from mafunzo.control.workspace.job_handle import JobHandle

T = TypeVar("T")
PAGE = 50
"""How many a list shows unless a limit is named."""
PIPED_WIDTH = 200
"""Columns of a table that isn't for a terminal: whoever reads it there wants a row in one line."""
AS_JSON = typer.Option(False, "--json", help="Print JSON instead of a table.")
LIMIT = typer.Option(None, min=1, help="How many at most; default 50.")
ALL = typer.Option(False, "--all", help="All of them, whatever the limit.")
DETACH = typer.Option(False, "--detach", help="Return once the job is in the queue; it goes on in the background.")


def follow(job: "JobHandle", detach: bool, as_json: bool, next_step: str) -> None:
    """Return at once, or show the job until it ends; with `--json` its events as JSON, and the job itself last."""
    if not detach:
        job.stream(as_json=True) if as_json else job.stream()
    print_result(job.job, as_json, job.name if detach else next_step)


def print_result(body: Any, as_json: bool, *lines: object) -> None:
    """Print what a verb returned as JSON, or the lines that say it to people."""
    if as_json:
        print_json(body)
        return
    for line in lines:
        print(printable(str(line)))


def print_list(body: Any, as_json: bool, columns: Sequence[str], rows: Iterable[Sequence[Any]], empty: str) -> None:
    """Print a list of entities as JSON, or as a table."""
    print_json(body) if as_json else print_table(columns, rows, empty)


def one_page(read: Callable[[int | None], Sequence[T]], limit: int | None, is_all: bool) -> tuple[Sequence[T], bool]:
    """Return what `read` gives for a limit, and whether there is more; with `is_all` everything."""
    if is_all:
        return read(None), False
    size = limit or PAGE
    page = read(size + 1)
    return page[:size], len(page) > size


def print_more(has_more: bool, command: str, next_page: str, limit: int | None, as_json: bool) -> None:
    """Say how the rest of a list is seen: below the table, or beside the JSON, on stderr, unless a program named its limit."""
    if has_more and not (as_json and limit):
        line = f"There are more: {command} {next_page}, or all: {command} --all"
        print(line, file=sys.stderr if as_json else sys.stdout)


def print_entity(body: Any, as_json: bool, facts: Mapping[str, Any]) -> None:
    """Print an entity as JSON, or as the facts of it that people want to know."""
    print_json(body) if as_json else print_facts(facts)


def print_exports(variables: Mapping[str, str]) -> None:
    """Print environment variables as lines for a shell's `eval`."""
    for name, value in variables.items():
        print(f"export {name}={shlex.quote(value)}")


def print_json(value: Any) -> None:
    """Print entities, or plain values, as JSON."""
    print(json.dumps(value, default=_plain, indent=2, ensure_ascii=False))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], empty: str, to: TextIO | None = None) -> None:
    """Print rows under their headings, or `empty` where there are none. to: by default stdout."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    file = to or sys.stdout
    width = None if file.isatty() else PIPED_WIDTH
    Console(soft_wrap=False, width=width, file=file).print(table) if table.row_count else print(empty, file=file)


def print_facts(facts: Mapping[str, Any]) -> None:
    """Print one fact a line, its names aligned; empty ones are left out."""
    rows = {name: value for name, value in facts.items() if value not in (None, "", {}, [], ())}
    width = max((len(name) for name in rows), default=0)
    for name, value in rows.items():
        print(f"{name.ljust(width)}  {_cell(value)}")


def human_size(size: float) -> str:
    """Return bytes as people read them: `269.1 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def moment_text(moment: datetime) -> str:
    """Return a moment as people read it, by the clock of where they are."""
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _cell(value: Any) -> str:
    if isinstance(value, datetime):
        return moment_text(value)
    if isinstance(value, Mapping):
        return printable(", ".join(f"{key}={item}" for key, item in value.items()))
    return "" if value is None else printable(str(value))


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Iterable):
        return list(value)
    return str(value)
