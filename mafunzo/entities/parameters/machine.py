"""Machines: where the steps of a job run, and how many processes train together."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from mafunzo.entities.compute import ClusterNode, Hardware, Placement
from mafunzo.entities.job import MAX_PROCESSES, Resources, Value
from mafunzo.entities.parameters.constraint import rows_per_step
from mafunzo.entities.parameters.parameter import FINETUNE, TRUTH, Parameter

RAY_WORDS = {
    "preprocess": " On a Ray cluster it has one of its nodes.",
    "finetune": " On a Ray cluster num_nodes_finetune of its nodes train; packaging runs here.",
    "model_evaluation": " On a Ray cluster it has one of its nodes.",
}


def _machine(step: str, size: str) -> tuple[Parameter, Parameter]:
    name = {"model_import": "import", "model_evaluation": "evaluation"}.get(step, step)
    return (
        Parameter(
            f"compute_{step}",
            "string",
            f"Where the {name} step runs: on this machine, where it waits for free cores and memory. Expects `serverless`, "
            "`local`, or the name of a compute of the workspace." + RAY_WORDS.get(step, ""),
            default="serverless",
        ),
        Parameter(
            f"instance_type_{step}",
            "string",
            f"The machine size that Azure would start for the {name} step where its compute is `serverless`. Steps run on "
            "this machine's own cores and memory instead; the job records the name.",
            default=size,
        ),
    )


MACHINE = (
    *_machine("model_import", "Standard_d12_v2"),
    *_machine("preprocess", "Standard_d12_v2"),
    *_machine("finetune", "Standard_nc24rs_v3"),
    *_machine("model_evaluation", "Standard_nc24rs_v3"),
    Parameter(
        "shm_size_finetune",
        "string",
        "The shared memory of Azure's container for the finetune step. Steps run without a container and use the "
        "machine's own /dev/shm; the job records the value.",
        default="5g",
        unit="bytes with a suffix, as docker takes it",
    ),
    Parameter(
        "num_nodes_finetune",
        "integer",
        "How many machines are asked for, each with number_of_gpu_to_use_finetuning. Those of the Ray cluster that "
        "compute_finetune names train together; without one this machine trains with what it has. Steps have as many times "
        "more rows, so that the effective batch is the same where fewer are there, and the log says so.",
        default=1,
        minimum=1,
        unit="machines",
        steps=(FINETUNE,),
    ),
    Parameter(
        "number_of_gpu_to_use_finetuning",
        "integer",
        "How many GPUs of a machine train together, a process each. Steps have as many times more rows. Where fewer GPUs are "
        "here, or none, these train (or the CPU does) by gradient accumulation, so that the effective batch is the same, and "
        "the log says so.",
        default=1,
        minimum=1,
        unit="GPUs",
        steps=(FINETUNE,),
    ),
    Parameter(
        "cpu_processes_finetune",
        "integer",
        "Where there is no GPU: how many processes train together, each on its share of the cores and of a step's rows, with "
        "the same result to rounding. One on all cores is faster, but on a machine of several sockets.",
        default=1,
        minimum=1,
        maximum=MAX_PROCESSES,
        unit="processes",
        steps=(FINETUNE,),
        is_own=True,
    ),
    Parameter(
        "strict_compute",
        "string",
        "Whether a job that asks for more machines and GPUs than are here is refused, instead of training on those that are.",
        default="false",
        enum=TRUTH,
        steps=(FINETUNE,),
        is_own=True,
    ),
)


KEPT_BY_ACCUMULATION = "Leave strict_compute out to keep the effective batch by gradient accumulation."


def training_resources(resources: Resources, values: Mapping[str, Value], hardware: Hardware) -> Resources:
    """Return what the finetune step holds: a process for each GPU that is asked for and here, else those of the CPU.

    values: the step's parameters.
    """
    wanted = int(values["num_nodes_finetune"]) * int(values["number_of_gpu_to_use_finetuning"])
    gpus = min(wanted, len(hardware.gpus))
    return replace(resources, gpus=gpus, processes=gpus or int(values["cpu_processes_finetune"]))


def training_placement(compute: str, values: Mapping[str, Value]) -> Placement:
    """Return where the finetune step runs whose parameters `values` are, on a Ray cluster."""
    return Placement(
        compute,
        nodes=int(values["num_nodes_finetune"]),
        gpus=int(values["number_of_gpu_to_use_finetuning"]),
        cpu_processes=int(values["cpu_processes_finetune"]),
        is_strict=values["strict_compute"] == "true",
    )


def no_node(compute: str) -> str:
    """Return the fault of a step on a cluster that has no node for it."""
    return f"compute '{compute}' has no node with cores. Start one: ray start --address HOST:PORT"


def placement_faults(placement: Placement, values: Mapping[str, Value], nodes: Sequence[ClusterNode]) -> list[str]:
    """Return why training can't run on the nodes of a cluster as they are."""
    chosen, faults = placement.choose(nodes), list[str]()
    if not nodes:
        faults.append(no_node(placement.compute))
    if placement.is_strict and (shortage := placement.shortage(nodes)):
        faults.append(f"strict_compute is 'true', and {shortage}. {KEPT_BY_ACCUMULATION}")
    processes, step_rows = sum(placement.processes_on(node) for node in chosen), rows_per_step(values)
    if processes > step_rows:
        faults.append(
            f"{processes} processes train on the nodes of compute '{placement.compute}', and the rows of a step, which they "
            f"share, are {step_rows}. Raise per_device_train_batch_size or gradient_accumulation_steps, or ask for fewer nodes."
        )
    faults += [
        f"cpu_processes_finetune is {placement.cpu_processes}, node {node.host} has {node.cpus} cores."
        for node in chosen
        if not node.gpus and placement.cpu_processes > node.cpus
    ]
    return faults


def training_faults(resources: Resources, values: Mapping[str, Value], hardware: Hardware) -> list[str]:
    """Return why training can't run with such resources."""
    nodes, gpus = int(values["num_nodes_finetune"]), int(values["number_of_gpu_to_use_finetuning"])
    processes = int(values["cpu_processes_finetune"])
    faults = []
    if values["strict_compute"] == "true" and nodes * gpus > max(1, resources.gpus):
        faults.append(strict_fault(nodes, gpus, resources.gpus))
    if not resources.gpus and processes > hardware.cpus:
        faults.append(f"cpu_processes_finetune is {processes}, this machine has {hardware.cpus} cores.")
    return faults


def strict_fault(nodes: int, gpus: int, used_gpus: int) -> str:
    """Return the fault of a strict request for more GPUs than would train."""
    return (
        f"strict_compute is 'true', and num_nodes_finetune {nodes} with number_of_gpu_to_use_finetuning {gpus} ask for "
        f"{nodes * gpus} GPUs, of which {used_gpus} would train here. {KEPT_BY_ACCUMULATION}"
    )
