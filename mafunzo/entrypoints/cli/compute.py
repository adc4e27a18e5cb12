"""`mafunzo compute`: what there is to run on."""

import typer

import mafunzo
from mafunzo.entrypoints.terminal.output import (
    ALL,
    AS_JSON,
    LIMIT,
    one_page,
    print_entity,
    print_list,
    print_more,
    print_result,
)

app = typer.Typer(help="Machines: this one, and the sizes that model cards name.", no_args_is_help=True)


@app.command()
def sizes(as_json: bool = AS_JSON) -> None:
    """List machine sizes; `local` is this machine."""
    machine_sizes = mafunzo.Workspace().computes.sizes()
    rows = [(s.name, s.cpus, s.memory_gb, s.gpus or "", s.gpu_name) for s in machine_sizes]
    print_list(machine_sizes, as_json, ("name", "cores", "memory GB", "GPUs", "GPU"), rows, "No sizes.")


@app.command("list")
def list_computes(
    limit: int = LIMIT,
    after: str = typer.Option(None, help="The name of a compute: list those after it."),
    everything: bool = ALL,
    as_json: bool = AS_JSON,
) -> None:
    """List the computes that a job may name: this machine, and clusters by names of your own."""
    verbs = mafunzo.Workspace().computes
    computes, has_more = one_page(lambda most: verbs.list(most, after), limit, everything)
    rows = [(c.name, c.size, c.tier, f"{c.min_instances} to {c.max_instances}", c.created_at) for c in computes]
    print_list(computes, as_json, ("name", "size", "tier", "instances", "created"), rows, "No computes.")
    print_more(has_more, "mafunzo compute list", f"--after {computes[-1].name}" if computes else "", limit, as_json)


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

    compute = mafunzo.Workspace().computes.create(Compute(name, size, tier, min_instances, max_instances))
    print_result(compute, as_json, f"Made {compute.name} ({compute.size}); its jobs run on this machine")


@app.command()
def show(
    name: str = typer.Argument(help="A compute's name, local, or a machine size's name."), as_json: bool = AS_JSON
) -> None:
    """Show a compute and the size of its machines; `local` is this machine."""
    computes = mafunzo.Workspace().computes
    compute = next((cluster for cluster in computes.list() if cluster.name == name), None)
    size = computes.get(compute.size if compute else name)
    facts = {"name": name, "size": size.name, "cores": size.cpus, "memory GB": size.memory_gb}
    facts |= {"GPUs": size.gpus, "GPU": size.gpu_name, "GPU memory GB": size.gpu_memory_gb} if size.gpus else {}
    facts |= {"tier": compute.tier, "created": compute.created_at} if compute else {}
    print_entity({"compute": compute, "size": size}, as_json, facts)


@app.command()
def delete(name: str = typer.Argument(help="The compute's name."), as_json: bool = AS_JSON) -> None:
    """Delete a cluster. Jobs that ran on it stay."""
    mafunzo.Workspace().computes.delete(name)
    print_result({"deleted": name}, as_json, f"Deleted {name}")
