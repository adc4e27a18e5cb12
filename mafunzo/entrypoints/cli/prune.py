"""`mafunzo prune`: what of the home may go, and deleting it."""

from typing import TYPE_CHECKING

import typer

import mafunzo
from mafunzo.entities.pruning import PruneKind
from mafunzo.entrypoints.terminal.output import AS_JSON, human_size, print_json
from mafunzo.tracking.printable import printable

if TYPE_CHECKING:
    from mafunzo.control.workspace.pruning import PruneReport

SHOWN = 10
WORDS = {
    PruneKind.JOBS: "files of ended jobs",
    PruneKind.LOGS: "logs of ended jobs",
    PruneKind.ARTIFACTS: "artifacts that only they name",
    PruneKind.CACHES: "downloads and conversions",
    PruneKind.ENVIRONMENTS: "environments of steps",
    PruneKind.RUNS: "files logged into runs of deleted jobs",
    PruneKind.RESPONSES: "stored responses of endpoints",
    PruneKind.BACKUPS: "copies of the database from before its tables changed",
    PruneKind.REQUESTS: "files of kept prompts and answers",
    PruneKind.TEMPORARY: "leftovers of interrupted processes",
}


def prune(
    older_than: str = typer.Option(
        "30d", metavar="AGE", help="What ended, or was last used, so long ago: 30d, 12h, 2w."
    ),
    kind: list[PruneKind] = typer.Option(list(PruneKind), help="Only this kind; may be given several times."),
    apply: bool = typer.Option(False, "--yes", "--apply", help="Delete it; without, what would go is only printed."),
    as_json: bool = AS_JSON,
) -> None:
    """Free the disk of what is old: print what would go by kind, and with --yes delete it.

    Jobs stay listed, with their metrics, and say what of them was pruned. What a registered model's lineage, a deployment, a
    data version or an open job needs is kept, and said to be.
    """
    report = mafunzo.Workspace().prune(older_than, kind, apply=apply)
    if as_json:
        print_json(report)
    else:
        for line in report_lines(report):
            print(printable(line))
    if report.failures:
        raise typer.Exit(1)


def report_lines(report: "PruneReport") -> list[str]:
    """Return a report as text: what goes by kind, the largest first, and what stays by its reason."""
    lines = []
    for kind in report.kinds:
        removals = sorted((one for one in report.removals if one.kind is kind), key=lambda one: -one.size_bytes)
        size = human_size(sum(one.size_bytes for one in removals))
        lines.append(f"{kind}: {len(removals)} {WORDS[kind]}, {size}")
        lines += _some([f"{human_size(one.size_bytes):>9}  {one.name}" for one in removals])
    if report.kept:
        lines.append(f"Kept, though older than {report.before.astimezone():%Y-%m-%d %H:%M}:")
        lines += _some([f"{one.kind} {one.name}: {one.reason}" for one in report.kept])
    lines += [f"error: {failure}" for failure in report.failures]
    if report.is_applied:
        return [*lines, f"Freed {human_size(report.freed_bytes)}."]
    total = human_size(sum(one.size_bytes for one in report.removals))
    return [
        *lines,
        f"Nothing is deleted yet. To free {total}: the same command with --yes" if report.removals else "Nothing goes.",
    ]


def _some(lines: list[str]) -> list[str]:
    more = [f"  and {len(lines) - SHOWN} more; --json lists all"] if len(lines) > SHOWN else []
    return [*(f"  {line}" for line in lines[:SHOWN]), *more]
