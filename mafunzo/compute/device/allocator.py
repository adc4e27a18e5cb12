"""The C library's allocator: freed memory stays with the process, so that the next pass doesn't have it mapped anew.

glibc maps each large block by itself and gives it back to the kernel when it is freed; the next block of that size is mapped
again, and every page of it cleared, by a page fault. Training asks for the same blocks in each layer and each step. For a
process that ends soon: what it once took isn't free for others before, unless memory runs out. Only blocks of more than
32 MiB (logits, gradients of embeddings) stay mapped by themselves: there are few in a step, whose page faults take far less
time than what is computed with them, and between smaller blocks they would leave holes that no other fits into.

Blocks that are kept need to be fit for reuse. Tensors are aligned, so glibc cuts each out of a block that is larger by some 100
bytes, and frees the slivers to both sides of it. A tensor that is freed merges with them, and the next one of its size has
room there; unless they are in use meanwhile, by small objects or as what a thread keeps for its next ones (its cache, 7 blocks
of each size, which never merge). With these caches the heap of a training step grew by 57% more than was live in it, without
them by 31%.
"""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt(3): how much may be free at the heap's end, and from which size on blocks are mapped by themselves."""
LARGEST_SHARED = 2**20
"""Bytes of the largest block that shares the heap with others while none is to be kept."""
LARGEST_KEPT = 32 * 2**20
"""Bytes of the largest block that is kept: the most that glibc takes for that threshold."""

TUNABLES, THREAD_CACHE = "GLIBC_TUNABLES", "glibc.malloc.tcache_count"
"""The environment variable of glibc's settings, and that of how many blocks of a size a thread keeps."""


def keep_freed_memory() -> bool:
    """Have freed blocks of up to `LARGEST_KEPT` kept for reuse; return whether the C library can do that (glibc can)."""
    return _set(_TRIM_THRESHOLD, 2**31 - 1) and _set(_MMAP_THRESHOLD, LARGEST_KEPT)


@contextmanager
def large_blocks_given_back() -> Iterator[None]:
    """Have freed blocks of more than `LARGEST_SHARED` given back to the kernel while this lasts, and kept after it.

    For a time in which much is made once and freed again (weights that are gathered from all ranks): holes between blocks of
    all sizes would stay with the process, several times what was ever live in it.
    """
    _set(_MMAP_THRESHOLD, LARGEST_SHARED)
    try:
        yield
    finally:
        keep_freed_memory()
        give_back_freed_memory()


def _set(parameter: int, value: int) -> bool:
    """Set a parameter of mallopt(3); return whether the C library has it."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    return bool(mallopt(parameter, value))


def leave_out_thread_caches() -> None:
    """Begin this program again without glibc's caches of threads, unless it has begun so, or its user has set them.

    For the first line of a process: glibc reads this from the environment, once. The process stays the same to others.
    """
    tunables = os.environ.get(TUNABLES, "")
    if THREAD_CACHE in tunables or not _is_glibc():
        return
    settings = ":".join(text for text in (tunables, f"{THREAD_CACHE}=0") if text)
    os.execve(sys.executable, sys.orig_argv, {**os.environ, TUNABLES: settings})


def _is_glibc() -> bool:
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (AttributeError, ValueError, OSError):
        return False


def give_back_freed_memory() -> bool:
    """Give freed blocks back to the kernel, wherever in the heap they lie; return whether the C library can do that."""
    try:
        malloc_trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):
        return False
    malloc_trim.argtypes, malloc_trim.restype = (ctypes.c_size_t,), ctypes.c_int
    malloc_trim(0)
    return True
