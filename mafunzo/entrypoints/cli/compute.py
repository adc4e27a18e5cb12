"""`mafunzo compute`: what there is to run on."""

import typer

from mafunzo.entrypoints.terminal.output import AS_JSON, print_facts, print_json, print_table

app = typer.Typer(help="Machines: this one, and the sizes that model cards name.", no_args_is_help=True)


@app.command()
def sizes(as_json: bool = AS_JSON) -> None:
    """List machine sizes; `local` is this machine."""
    from mafunzo.control.workspace import Workspace

    machine_sizes = Workspace().computes.sizes()
    if as_json:
        print_json(machine_sizes)
        return
    rows = [(s.name, s.cpus, s.memory_gb, s.gpus or "", s.gpu_name) for s in machine_sizes]
    print_table(("name", "cores", "memory GB", "GPUs", "GPU"), rows, "No sizes.")


@app.command("list")
def list_computes(as_json: bool = AS_JSON) -> None:
    """List the computes that a job may name: this machine, and clusters by names of your own."""
    from mafunzo.control.workspace import Workspace

    computes = Workspace().computes.list()
    if as_json:
        print_json(computes)
        return
    rows = [(c.name, c.size, c.tier, f"{c.min_instances} to {c.max_instances}", c.created_at) for c in computes]
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
    from mafunzo.control.workspace import Workspace
    from mafunzo.entities.compute import ComputeRequest

    workspace = Workspace()
    compute = workspace.computes.create(name, ComputeRequest(size, tier, min_instances, max_instances))
    print_json(compute) if as_json else print(f"Made {compute.name} ({compute.size}); its jobs run on this machine")


@app.command()
def show(
    name: str = typer.Argument(help="A compute's name, local, or a machine size's name."), as_json: bool = AS_JSON
) -> None:
    """Show a compute and the size of its machines; `local` is this machine."""
    from mafunzo.control.workspace import Workspace

    computes = Workspace().computes
    compute = next((cluster for cluster in computes.list() if cluster.name == name), None)
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
    from mafunzo.control.workspace import Workspace

    Workspace().computes.delete(name)
    print_json({"deleted": name}) if as_json else print(f"Deleted {name}")
