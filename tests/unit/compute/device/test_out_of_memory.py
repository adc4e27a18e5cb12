"""Every way in which a library says that memory ran out is known, and nothing else is taken for it."""

import errno

import numpy as np
import pyarrow as pa
import pytest
import torch

from mafunzo.compute.device.out_of_memory import is_out_of_memory

KNOWN = [
    pytest.param(MemoryError(), id="Python"),
    pytest.param(np._core._exceptions._ArrayMemoryError((9,), np.dtype("f8")), id="NumPy"),
    pytest.param(pa.ArrowMemoryError("malloc of size 64 failed"), id="Arrow"),
    pytest.param(torch.OutOfMemoryError("Allocation on device 0 would exceed allowed memory."), id="torch"),
    pytest.param(torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), id="CUDA's class"),
    pytest.param(RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB."), id="CUDA's text"),
    pytest.param(RuntimeError("CUDA error: out of memory\nCompile with `TORCH_USE_CUDA_DSA`"), id="CUDA's driver"),
    pytest.param(
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), id="cuBLAS"
    ),
    pytest.param(RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), id="cuDNN"),
    pytest.param(
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
            "allocate 4000000000000 bytes. Error code 12 (Cannot allocate memory)"
        ),
        id="a CPU on Linux",
    ),
    pytest.param(
        RuntimeError("[enforce fail at alloc_cpu.cpp:80] data. DefaultCPUAllocator: not enough memory: you tried 8"),
        id="a CPU on Windows",
    ),
    pytest.param(RuntimeError("[enforce fail] posix_memalign: can't allocate memory"), id="another allocator"),
    pytest.param(RuntimeError("std::bad_alloc"), id="C++"),
    pytest.param(RuntimeError("unable to mmap 512 bytes from file <x>: Cannot allocate memory (12)"), id="mmap"),
    pytest.param(OSError(errno.ENOMEM, "Cannot allocate memory"), id="the kernel"),
]


@pytest.mark.parametrize("error", KNOWN)
def test_every_known_way_to_say_it_is_known(error: BaseException) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"), id="a wrong shape"),
        pytest.param(RuntimeError("CUDA error: device-side assert triggered"), id="another error of CUDA"),
        pytest.param(OSError(errno.ENOSPC, "No space left on device"), id="a full disk"),
        pytest.param(ValueError("a prompt that says: can't allocate memory"), id="words of a user"),
        pytest.param(KeyboardInterrupt(), id="interrupted"),
    ],
)
def test_nothing_else_is_taken_for_it(error: BaseException) -> None:
    assert not is_out_of_memory(error)


def test_a_real_allocation_that_fails_is_known() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
