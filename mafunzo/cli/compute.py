"""`mafunzo compute`, `mafunzo component` and `mafunzo environment`: what there is to run on, and to run."""

import typer

from mafunzo.cli.output import AS_JSON, print_facts, print_json, print_table
from mafunzo.errors import NotFound

app = typer.Typer(help="Machines: this one, and the sizes that model cards name.", no_args_is_help=True)
components = typer.Typer(help="The components that pipelines are made of.", no_args_is_help=True)
environments = typer.Typer(help="The environments that components name.", no_args_is_help=True)


@app.command()
def sizes(as_json: bool = AS_JSON) -> None:
    """List machine sizes; `local` is this machine."""
    from mafunzo.workspace import Workspace

    found = Workspace().computes.sizes()
    if as_json:
        print_json(found)
        return
    rows = [(s.name, s.cpus, s.memory_gb, s.gpus or "", s.gpu_name) for s in found]
    print_table(("name", "cores", "memory GB", "GPUs", "GPU"), rows, "No sizes.")


@app.command("list")
def list_computes(as_json: bool = AS_JSON) -> None:
    """List the computes that a job may name: this machine, and clusters by names of your own."""
    from mafunzo.workspace import Workspace

    found = Workspace().computes.list()
    if as_json:
        print_json(found)
        return
    rows = [(c.name, c.size, c.tier, f"{c.min_instances} to {c.max_instances}", c.created_at) for c in found]
    print_table(("name", "size", "tier", "instances", "created"), rows, "No computes.")


@app.command()
def create(
    name: str = typer.Argument(help="The name that jobs call it by."),
    size: str = typer.Option(..., help="A machine size; see mafunzo compute sizes."),
    tier: str = typer.Option("dedicated", help="dedicated or low_priority."),
    min_instances: int = typer.Option(0, help="Machines that are kept."),
    max_instances: int = typer.Option(1, help="Machines at most."),
    as_json: bool = AS_JSON,
) -> None:
    """Make a cluster, so that jobs that name it run. They run on this machine, with its cores, memory and GPUs."""
    from mafunzo.entities.compute import Compute
    from mafunzo.workspace import Workspace

    workspace = Workspace()
    asked = Compute(name, size, tier, min_instances, max_instances, created_by=workspace.user)
    made = workspace.computes.create(asked)
    print_json(made) if as_json else print(f"Made {made.name} ({made.size}); its jobs run on this machine")


@app.command()
def show(
    name: str = typer.Argument(help="A compute's name, local, or a machine size's name."), as_json: bool = AS_JSON
) -> None:
    """Show a compute and the size of its machines; `local` is this machine."""
    from mafunzo.workspace import Workspace

    computes = Workspace().computes
    compute = next((found for found in computes.list() if found.name == name), None)
    size = computes.get(compute.size if compute else name)
    if as_json:
        print_json({"compute": compute, "size": size})
        return
    facts = {"name": name, "size": size.name, "cores": size.cpus, "memory GB": size.memory_gb}
    facts |= {"GPUs": size.gpus, "GPU": size.gpu_name, "GPU memory GB": size.gpu_memory_gb} if size.gpus else {}
    print_facts(facts | ({"tier": compute.tier, "created": compute.created_at} if compute else {}))


@app.command()
def delete(name: str = typer.Argument(help="The compute's name."), as_json: bool = AS_JSON) -> None:
    """Delete a cluster. Jobs that ran on it stay."""
    from mafunzo.workspace import Workspace

    Workspace().computes.delete(name)
    print_json({"deleted": name}) if as_json else print(f"Deleted {name}")


@components.command("list")
def list_components(as_json: bool = AS_JSON) -> None:
    """List the components."""
    from mafunzo.workspace.component import shipped, shipped_names

    found = [shipped(name).component for name in shipped_names()]
    if as_json:
        print_json(found)
        return
    rows = [(c.name, c.version, c.kind, c.description.split(". ")[0]) for c in found]
    print_table(("name", "version", "kind", "description"), rows, "No components.")


@components.command("show")
def show_component(name: str = typer.Argument(help="The component's name."), as_json: bool = AS_JSON) -> None:
    """Show a component's inputs and outputs."""
    from mafunzo.workspace.component import shipped

    component = shipped(name).component
    if as_json:
        print_json(component)
        return
    print_facts({"name": component.name, "version": component.version, "description": component.description})
    rows = [
        (i.name, i.type, "" if i.default is None else i.default, ", ".join(i.enum), i.description)
        for i in component.inputs.values()
    ]
    print_table(("input", "type", "default", "one of", "meaning"), rows, "No inputs.")
    print_table(
        ("output", "type", "meaning"), [(o.name, o.type, o.description) for o in component.outputs.values()], ""
    )


@environments.command("list")
def list_environments(as_json: bool = AS_JSON) -> None:
    """List the environments."""
    from mafunzo.store import catalog

    found = catalog.environment_cards()
    if as_json:
        print_json([card.model_dump() for card in found])
        return
    print_table(
        ("name", "version", "description"), [(c.name, c.version, c.description) for c in found], "No environments."
    )


@environments.command("show")
def show_environment(name: str = typer.Argument(help="The environment's name."), as_json: bool = AS_JSON) -> None:
    """Show an environment, and where its commands run here."""
    from mafunzo.store import catalog

    cards = {card.name: card for card in catalog.environment_cards()}
    if name not in cards:
        raise NotFound(f"No environment is called '{name}'. There are: {', '.join(cards)}.")
    facts = cards[name].model_dump()
    print_json(facts) if as_json else print_facts(facts)
