"""`mafunzo environment`: the packages that steps find."""

import dataclasses
from typing import TYPE_CHECKING, Any

import typer

import mafunzo
from mafunzo.entrypoints.terminal.output import (
    AS_JSON,
    LIMIT,
    human_size,
    one_page,
    print_facts,
    print_json,
    print_list,
    print_more,
    print_result,
)

if TYPE_CHECKING:
    from mafunzo.control.workspace.environments import KnownEnvironment

app = typer.Typer(help="The environments that components and commands name.", no_args_is_help=True)
REFERENCE = typer.Argument(help="name or name:version; without a version the newest.")


@app.command("list")
def list_environments(
    everything: bool = typer.Option(
        False,
        "--all",
        help="All of them, whatever the limit: archived ones too, and those that stand in a job's or component's file.",
    ),
    limit: int = LIMIT,
    before: str = typer.Option(None, help="name:version of an environment in the list: list what comes after it."),
    as_json: bool = AS_JSON,
) -> None:
    """List registered environments, newest first, then the curated ones; each with the disk that it takes once built."""
    verbs = mafunzo.Workspace().environments
    environments, has_more = one_page(lambda most: verbs.list(everything, most, before), limit, everything)
    bodies = [_facts(known) for known in environments]
    rows = [
        (
            known.environment.name,
            known.environment.version,
            "registered" if known.is_registered else "curated",
            _state(known),
            human_size(known.size_bytes) if known.is_built else "",
            known.description,
        )
        for known in environments
    ]
    columns = ("name", "version", "where", "built", "size", "description")
    print_list(bodies, as_json, columns, rows, "No environments.")
    print_more(
        has_more, "mafunzo environment list", f"--before {environments[-1]}" if environments else "", limit, as_json
    )


@app.command()
def show(environment: str = REFERENCE, as_json: bool = AS_JSON) -> None:
    """Show an environment, and where its packages are."""
    known = mafunzo.Workspace().environments.get(environment)
    if as_json:
        print_json(_facts(known))
        return
    facts = _facts(known) | {"packages": ", ".join(known.environment.packages), "built": _state(known)}
    facts |= {"conda_packages": ", ".join(known.environment.conda_packages)}
    print_facts({key: value for key, value in facts.items() if key not in ("is_built", "size_bytes") and value})
    if known.is_built:
        print_facts({"size": human_size(known.size_bytes)})


@app.command()
def archive(
    environment: str = typer.Argument(help="name:version, or name for all its versions."),
    undo: bool = typer.Option(False, "--undo", help="Show it again."),
    as_json: bool = AS_JSON,
) -> None:
    """Hide a registered environment from lists. Jobs and components that name it go on finding it."""
    assets = mafunzo.Workspace().environments.archive(environment, not undo)
    lines = [f"{asset.key} is {'shown' if undo else 'archived'}" for asset in assets]
    print_result(assets, as_json, *lines)


@app.command()
def delete(
    environment: str = REFERENCE,
    force: bool = typer.Option(False, "--force", help="Even if a component names it, which then can't run any more."),
    as_json: bool = AS_JSON,
) -> None:
    """Delete a registered version and what was built of it; of a curated one, only what was built, until a step needs it."""
    environments = mafunzo.Workspace().environments
    known = environments.get(environment)
    freed = environments.delete(str(known), force)
    what = str(known) if known.is_registered else f"what was built of {known}"
    body = {"deleted": str(known), "freed_bytes": freed}
    print_result(body, as_json, f"Deleted {what}. Freed {human_size(freed)}.")


def _facts(known: "KnownEnvironment") -> dict[str, Any]:
    facts = dataclasses.asdict(known)
    return {**facts.pop("environment"), **facts}


def _state(known: "KnownEnvironment") -> str:
    if not known.environment.packages:
        return "Mafunzo's own"
    return "yes" if known.is_built else "no"
