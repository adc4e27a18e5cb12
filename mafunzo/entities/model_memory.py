"""Which machine sizes hold a base model: the memory that it needs, from its number of weights.

The need is the least that this version can do with: LoRA with `precision` 16 and `gradient_checkpointing`, one row at a time;
one request at a time for an answer. A job whose settings ask for more needs more. One process trains or answers on one GPU, so
that a machine's several GPUs don't add up.
"""

from collections.abc import Iterable

from mafunzo.entities.compute import MachineSize

GPU_BYTES_A_WEIGHT = 2.0
CPU_BYTES_A_WEIGHT = 4.0
"""As frozen weights are held: in 16 bits on a GPU; in 32 on a CPU, of which most don't compute in bfloat16."""

FINETUNE = 1.2
INFERENCE = 1.0
"""All that grows with the model, as a multiple of its weights. For training that is also the adapter with its gradients and the
optimizer's state, and the activations that are kept."""

GPU_PROCESS_GB = 2.0
CPU_PROCESS_GB = 3.0
"""What a process needs besides, whatever the model: libraries, the activations of a layer, the keys and values of a request; on
a CPU the operating system too."""

MAX_CPU_PARAMETERS = 1e9
"""A greater model trains and answers too slowly without a GPU to be offered there."""

UNSUPPORTED_GPUS = ("K80",)
"""PyTorch doesn't compute on their generation (compute capability 3.7)."""


def memory_gb(parameters: int, multiple: float, has_gpu: bool) -> float:
    """Return the memory that a model of so many weights needs: the GPU's where there is one, else the machine's.

    `multiple` is `FINETUNE` or `INFERENCE`.
    """
    weights_gb = parameters * (GPU_BYTES_A_WEIGHT if has_gpu else CPU_BYTES_A_WEIGHT) / 1e9
    return weights_gb * multiple + (GPU_PROCESS_GB if has_gpu else CPU_PROCESS_GB)


def is_held_by(parameters: int, multiple: float, size: MachineSize) -> bool:
    """Return whether a machine of this size holds a model of so many weights."""
    if not size.gpus:
        return parameters <= MAX_CPU_PARAMETERS and memory_gb(parameters, multiple, False) <= size.memory_gb
    is_supported = size.gpu_name not in UNSUPPORTED_GPUS
    return is_supported and memory_gb(parameters, multiple, True) <= size.gpu_memory_gb


def fitting_sizes(parameters: int, multiple: float, sizes: Iterable[MachineSize]) -> tuple[str, ...]:
    """Return the names of the sizes that hold a model of so many weights, in the order of `sizes`."""
    return tuple(size.name for size in sizes if is_held_by(parameters, multiple, size))
