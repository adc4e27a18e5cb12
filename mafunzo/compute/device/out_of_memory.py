"""Whether an error says that memory ran out: the one detector of training, evaluation, inference and the steps' own end.

It knows classes by name and texts by their fixed part, so that a process without torch can ask too.
"""

import errno

_CLASSES = frozenset({"MemoryError", "OutOfMemoryError"})
"""Python's, with NumPy's and Arrow's below it; torch's for accelerators, of which CUDA's is one."""

_TEXTS = (
    "DefaultCPUAllocator: can't allocate memory",  # torch on Linux: the address space or the cgroup is used up
    "DefaultCPUAllocator: not enough memory",  # torch on Windows
    "can't allocate memory",  # torch's other allocators
    "Cannot allocate memory",  # the C library's text for ENOMEM, as mmap's failure is told by torch and safetensors
    "std::bad_alloc",  # C++ behind torch, tokenizers or oneDNN
    "CUDA out of memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether `error` means that memory of the machine or of an accelerator didn't suffice."""
    if any(kind.__name__ in _CLASSES for kind in type(error).__mro__):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _TEXTS)
