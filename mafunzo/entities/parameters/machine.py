"""Machines: where the steps of a job run, and how many train together."""

from mafunzo.entities.parameters.parameter import FINETUNE, Parameter


def _machine(step: str, size: str) -> tuple[Parameter, Parameter]:
    name = {"model_import": "import", "model_evaluation": "evaluation"}.get(step, step)
    return (
        Parameter(
            f"compute_{step}",
            "string",
            f"Where the {name} step runs: on this machine, where it waits for free cores and memory. Expects `serverless`, "
            "`local`, or the name of a compute of the workspace.",
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
        "How many machines train together.",
        default=1,
        minimum=1,
        unit="machines",
        refused={"*": "training on several machines isn't supported yet; use 1."},
    ),
    Parameter(
        "number_of_gpu_to_use_finetuning",
        "integer",
        "How many GPUs train together. One process trains here, on one GPU or the CPU; its steps have as many times more "
        "rows, so that the effective batch is the same, and it says so in a line.",
        default=1,
        minimum=1,
        unit="GPUs",
        steps=(FINETUNE,),
    ),
)
