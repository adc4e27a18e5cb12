"""How fast this machine multiplies matrices now, beside its other work: `python -m mafunzo.compute.device.speed` prints it.

The shapes are those of a network of 135 million parameters, the precision and the threads those that training takes here.
"""

import json
import sys
import time

import torch
from torch import Tensor

from mafunzo.compute.device.memory import free_bytes
from mafunzo.compute.device.precision import choose, name

TOKENS, WIDTH, INNER_WIDTH = 512, 576, 1536
ROUNDS = 7
ROUND_S = 0.15


def main() -> None:
    """Print a JSON object: floating point operations a second, their format, and the free memory in bytes."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = choose("16", is_lora=True, device=device).compute
    measured = {"flops": flops(device, dtype), "format": name(dtype), "free_bytes": free_bytes(device)}
    sys.stdout.write(json.dumps(measured) + "\n")


def flops(device: torch.device, dtype: torch.dtype) -> float:
    """Return the median of several rounds, in floating point operations a second."""
    x_ND = torch.ones(TOKENS, WIDTH, dtype=dtype, device=device)
    up_DF = torch.ones(WIDTH, INNER_WIDTH, dtype=dtype, device=device)
    _multiply(x_ND, up_DF, ROUND_S)  # the first products prepare the library's code
    speeds = sorted(_multiply(x_ND, up_DF, ROUND_S) for _ in range(ROUNDS))
    return speeds[ROUNDS // 2]


def _multiply(x_ND: Tensor, up_DF: Tensor, seconds: float) -> float:
    count, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < seconds:
        float((x_ND @ up_DF)[0, 0])  # a GPU has ended then
        count += 1
    return count * 2 * TOKENS * WIDTH * INNER_WIDTH / (time.perf_counter() - begun)


if __name__ == "__main__":
    main()
