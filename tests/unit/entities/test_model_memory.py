"""What a model needs, and which sizes hold it."""

import pytest

from mafunzo.entities.compute import MachineSize
from mafunzo.entities.model_memory import FINETUNE, INFERENCE, fitting_sizes, is_held_by, memory_gb

CPU_8_GB = MachineSize("cpu", cpus=2, memory_gb=8, gpus=0)
T4 = MachineSize("t4", cpus=4, memory_gb=28, gpus=1, gpu_name="T4", gpu_memory_gb=16)
EIGHT_T4 = MachineSize("t4s", cpus=64, memory_gb=440, gpus=8, gpu_name="T4", gpu_memory_gb=16)
K80 = MachineSize("k80", cpus=6, memory_gb=56, gpus=1, gpu_name="K80", gpu_memory_gb=12)
A100 = MachineSize("a100", cpus=24, memory_gb=220, gpus=1, gpu_name="A100", gpu_memory_gb=80)


@pytest.mark.parametrize(
    ("multiple", "has_gpu", "expected_gb"),
    [
        pytest.param(INFERENCE, True, 2 * 3 + 2, id="answers on a GPU: 16-bit weights"),
        pytest.param(FINETUNE, True, 2 * 3 * 1.2 + 2, id="trains on a GPU: 16-bit weights and what is trained"),
        pytest.param(INFERENCE, False, 4 * 3 + 3, id="answers on a CPU: 32-bit weights"),
        pytest.param(FINETUNE, False, 4 * 3 * 1.2 + 3, id="trains on a CPU: 32-bit weights and what is trained"),
    ],
)
def test_the_memory_that_three_billion_weights_need(multiple: float, has_gpu: bool, expected_gb: float) -> None:
    assert memory_gb(3_000_000_000, multiple, has_gpu) == pytest.approx(expected_gb)


@pytest.mark.parametrize(
    ("parameters", "multiple", "size", "expected"),
    [
        pytest.param(135_000_000, FINETUNE, CPU_8_GB, True, id="a small model trains on a small machine"),
        pytest.param(1_000_000_001, INFERENCE, A100, True, id="more than a billion weights have a GPU"),
        pytest.param(1_000_000_001, INFERENCE, MachineSize("big", 72, 144, 0), False, id="and no CPU, however big"),
        pytest.param(1_000_000_000, INFERENCE, MachineSize("small", 2, 4, 0), False, id="a CPU with too little memory"),
        pytest.param(3_800_000_000, FINETUNE, T4, True, id="Phi-3 mini trains in 16 GB"),
        pytest.param(6_500_000_000, FINETUNE, T4, False, id="6.5 billion weights don't train in 16 GB"),
        pytest.param(6_500_000_000, INFERENCE, T4, True, id="but answer there"),
        pytest.param(14_000_000_000, INFERENCE, EIGHT_T4, False, id="several GPUs don't add up"),
        pytest.param(100_000_000, INFERENCE, K80, False, id="PyTorch doesn't know the GPU"),
    ],
)
def test_a_size_holds_a_model_or_not(parameters: int, multiple: float, size: MachineSize, expected: bool) -> None:
    assert is_held_by(parameters, multiple, size) == expected


def test_the_sizes_that_fit_keep_their_order() -> None:
    assert fitting_sizes(3_800_000_000, FINETUNE, (A100, K80, T4, CPU_8_GB)) == ("a100", "t4")
