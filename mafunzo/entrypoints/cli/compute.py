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
from mafunzo.errors import Faults

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
    rows = [
        (c.name, f"Ray at {c.address}", "", "", c.created_at)
        if c.is_ray
        else (c.name, c.size, c.tier, f"{c.min_instances} to {c.max_instances}", c.created_at)
        for c in computes
    ]
    print_list(computes, as_json, ("name", "size", "tier", "instances", "created"), rows, "No computes.")
    print_more(has_more, "mafunzo compute list", f"--after {computes[-1].name}" if computes else "", limit, as_json)


@app.command()
def create(
    name: str = typer.Argument(help="The name that jobs call it by."),
    size: str = typer.Option("", help="A machine size; see mafunzo compute sizes."),
    tier: str = typer.Option("dedicated", help="dedicated or low_priority."),
    min_instances: int = typer.Option(0, help="Machines that are kept."),
    max_instances: int = typer.Option(1, help="Machines at most."),
    kind: str = typer.Option("size", "--type", help="size: machines of --size; ray: the Ray cluster at --address."),
    address: str = typer.Option("", help="HOST:PORT of a Ray cluster's head; RAY_AUTH_TOKEN has its token."),
    as_json: bool = AS_JSON,
) -> None:
    """Make a cluster, so that jobs that name it run: on this machine, or on the nodes of one of Ray.

    Example: RAY_AUTH_TOKEN=... mafunzo compute create lab --type ray --address 10.0.0.1:6379
    """
    from mafunzo.entities.compute import Compute

    _require_options(kind, size, address, is_scaled=(tier, min_instances, max_instances) != ("dedicated", 0, 1))
    computes = mafunzo.Workspace().computes
    compute = computes.create(Compute(name, size, tier, min_instances, max_instances, address=address))
    if not compute.is_ray:
        print_result(compute, as_json, f"Made {compute.name} ({compute.size}); its jobs run on this machine")
        return
    nodes = [f"  {node.host}: {node.cpus} cores, {node.gpus} GPUs" for node in computes.nodes(compute)]
    use = f"Train there: mafunzo finetune --compute {compute.name} num_nodes_finetune={max(1, len(nodes))} ..."
    print_result(compute, as_json, f"Made {compute.name}, a Ray cluster with {len(nodes)} node(s)", *nodes, use)


def _require_options(kind: str, size: str, address: str, is_scaled: bool) -> None:
    """Raise `InvalidParameter` for options that don't go together."""
    faults = Faults()
    if kind not in ("size", "ray"):
        faults.add(f"--type is '{kind}', expected size or ray.")
    if kind == "ray":
        faults.add("" if address else "--address is missing: HOST:PORT of the cluster's head, like 10.0.0.1:6379.")
        faults.add("--size is given: the nodes of a Ray cluster have their own. Leave it out." if size else "")
        faults.add(
            "--tier, --min-instances and --max-instances are of other clusters. Leave them out." if is_scaled else ""
        )
    if kind == "size":
        faults.add("" if size else "Missing option '--size': see mafunzo compute sizes.")
        faults.add("--address is of a Ray cluster. Add --type ray." if address else "")
    faults.require_none("The compute can't be made.")


@app.command()
def show(
    name: str = typer.Argument(help="A compute's name, local, or a machine size's name."), as_json: bool = AS_JSON
) -> None:
    """Show a compute and the size of its machines, or the nodes that a Ray cluster has now; `local` is this machine."""
    computes = mafunzo.Workspace().computes
    compute = next((cluster for cluster in computes.list() if cluster.name == name), None)
    if compute is not None and compute.is_ray:
        nodes = computes.nodes(compute)
        texts = {f"node {node.host}": f"{node.cpus} cores, {node.gpus} GPUs" for node in nodes}
        cluster = {"name": name, "Ray cluster": compute.address, **texts, "created": compute.created_at}
        print_entity({"compute": compute, "nodes": nodes}, as_json, cluster)
        return
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
