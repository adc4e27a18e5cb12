"""Tests of `mafunzo.compute.device.allocator`: freed blocks aren't given back to be mapped anew."""

import ctypes
import platform
import resource
import subprocess
import sys

import pytest

from mafunzo.compute.device.allocator import keep_freed_memory

FAULTS = """
import resource, sys
from mafunzo.compute.device.allocator import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
BLOCK = 40 * 2**20  # more than glibc ever takes from its heap of itself
bytes([1]) * BLOCK
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    bytes([1]) * BLOCK
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library's allocator isn't set")
def test_freed_blocks_are_used_again_with_fewer_page_faults() -> None:
    faults = {
        way: int(subprocess.run([sys.executable, "-c", FAULTS, way], capture_output=True, text=True, check=True).stdout)
        for way in ("plain", "kept")
    }
    pages = 10 * 40 * 2**20 // resource.getpagesize()
    assert faults["plain"] >= pages and faults["kept"] < pages / 100


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    assert not keep_freed_memory()
