"""`mafunzo component`: what pipelines are made of."""

from dataclasses import replace
from typing import TYPE_CHECKING

import typer

import mafunzo
from mafunzo.entrypoints.terminal.output import (
    ALL,
    AS_JSON,
    LIMIT,
    one_page,
    print_facts,
    print_json,
    print_list,
    print_more,
    print_result,
    print_table,
)

if TYPE_CHECKING:
    from mafunzo.entities.component import Component

app = typer.Typer(help="The components that pipelines are made of: yours, and those that ship.", no_args_is_help=True)
REFERENCE = typer.Argument(help="name or name:version; without a version the newest.")


@app.command("list")
def list_components(
    archived: bool = typer.Option(False, "--archived", help="Archived versions too."),
    limit: int = LIMIT,
    before: str = typer.Option(None, help="name:version of a component in the list: list what comes after it."),
    everything: bool = ALL,
    as_json: bool = AS_JSON,
) -> None:
    """List registered components, newest first, then those that ship with Mafunzo."""
    verbs = mafunzo.Workspace().components
    page, has_more = one_page(lambda most: verbs.page(archived, most, before), limit, everything)
    rows = [
        (c.name, c.version, c.kind, "ships" if verbs.ships(c) else "registered", c.description.split(". ")[0])
        for c in page
    ]
    bodies = [_plain(component) for component in page]
    print_list(bodies, as_json, ("name", "version", "kind", "where", "description"), rows, "No components.")
    last = f"{page[-1].name}:{page[-1].version}" if page else ""
    print_more(
        has_more, f"mafunzo component list{' --archived' if archived else ''}", f"--before {last}", limit, as_json
    )


@app.command()
def show(component: str = REFERENCE, as_json: bool = AS_JSON) -> None:
    """Show a component's inputs and outputs, and what it runs."""
    pinned = mafunzo.Workspace().components.get(component)
    spec = pinned.component
    if as_json:
        print_json(_plain(spec))
        return
    print_facts({"name": spec.name, "version": spec.version, "description": spec.description, "tags": spec.tags})
    if not pinned.is_trusted:
        print_facts({"command": spec.command, "code": pinned.code_artifact, "environment": _name(pinned.runtime)})
    rows = [
        (i.name, i.type, "" if i.default is None else i.default, ", ".join(i.enum), i.description)
        for i in spec.inputs.values()
    ]
    print_table(("input", "type", "default", "one of", "meaning"), rows, "No inputs.")
    print_table(("output", "type", "meaning"), [(o.name, o.type, o.description) for o in spec.outputs.values()], "")


@app.command()
def archive(
    component: str = typer.Argument(help="name:version, or name for all its versions."),
    undo: bool = typer.Option(False, "--undo", help="Show it again."),
    as_json: bool = AS_JSON,
) -> None:
    """Hide a registered component from lists. Jobs that name it go on finding it."""
    assets = mafunzo.Workspace().components.archive(component, not undo)
    lines = [f"{asset.key} is {'shown' if undo else 'archived'}" for asset in assets]
    print_result(assets, as_json, *lines)


def _plain(component: "Component") -> "Component":
    """Return a component whose nodes name theirs as people do: `name:version`."""
    nodes = {name: replace(node, component=str(node.component)) for name, node in component.nodes.items()}
    return replace(component, nodes=nodes)


def _name(environment: object) -> str:
    from mafunzo.entities.environment import Environment

    return f"{environment.name}:{environment.version}" if isinstance(environment, Environment) else ""
