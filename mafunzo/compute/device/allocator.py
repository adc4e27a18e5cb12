"""The C library's allocator: freed memory stays with the process, so that the next pass doesn't have it mapped anew.

glibc maps each large block by itself and gives it back to the kernel when it is freed; the next block of that size is mapped
again, and every page of it cleared, by a page fault. Training asks for the same blocks in each layer and each step. For a
process that ends soon: what it once took isn't free for others before, unless memory runs out.
"""

import ctypes

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""Parameters of mallopt(3): how much may be free at the heap's end, and how many blocks may be mapped by themselves."""


def keep_freed_memory() -> bool:
    """Have freed blocks of every size kept for reuse; return whether the C library can do that (glibc can)."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    return bool(mallopt(_TRIM_THRESHOLD, 2**31 - 1)) and bool(mallopt(_MMAP_MAX, 0))


def give_back_freed_memory() -> bool:
    """Give freed blocks back to the kernel, wherever in the heap they lie; return whether the C library can do that."""
    try:
        malloc_trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):
        return False
    malloc_trim.argtypes, malloc_trim.restype = (ctypes.c_size_t,), ctypes.c_int
    malloc_trim(0)
    return True
