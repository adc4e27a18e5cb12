"""Tests of `mafunzo.compute.device.allocator`: freed blocks aren't given back to be mapped anew."""

import ctypes
import os
import platform
import resource
import subprocess
import sys

import pytest

from mafunzo.compute.device import allocator
from mafunzo.compute.device.allocator import (
    LARGEST_KEPT,
    THREAD_CACHE,
    TUNABLES,
    keep_freed_memory,
    large_blocks_given_back,
    leave_out_thread_caches,
)

FAULTS = """
import resource, sys
from mafunzo.compute.device.allocator import keep_freed_memory, large_blocks_given_back
if sys.argv[1] != "plain":
    assert keep_freed_memory()
if sys.argv[1] == "given back":
    lasting = large_blocks_given_back()
    lasting.__enter__()
BLOCKS, BLOCK = int(sys.argv[2]), int(sys.argv[3])
for round in range(11):
    if round == 1:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [bytes([1]) * BLOCK for _ in range(BLOCKS)]
    del blocks
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(way: str, blocks: int, mebibytes: int) -> int:
    """The page faults of ten rounds in which so many blocks are made and freed."""
    argv = [sys.executable, "-c", FAULTS, way, str(blocks), str(mebibytes * 2**20)]
    return int(subprocess.run(argv, capture_output=True, text=True, check=True).stdout)


def pages(mebibytes: int) -> int:
    return mebibytes * 2**20 // resource.getpagesize()


ON_GLIBC = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library's allocator isn't set")


@ON_GLIBC
def test_freed_blocks_are_used_again_with_fewer_page_faults() -> None:
    """Four at a time, which is more at the heap's end than glibc keeps of itself."""
    assert faults("plain", 4, 20) >= 9 * pages(4 * 20)
    assert faults("kept", 4, 20) < pages(4 * 20) / 10


@ON_GLIBC
def test_the_largest_blocks_leave_no_holes_in_the_heap() -> None:
    assert faults("kept", 1, 40) >= 10 * pages(40)


@ON_GLIBC
def test_blocks_that_are_to_be_kept_no_longer_are_mapped_anew() -> None:
    assert faults("given back", 4, 20) >= 9 * pages(4 * 20)


def test_a_time_in_which_blocks_are_given_back_ends_with_its_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    thresholds = list[int]()
    monkeypatch.setattr(allocator, "_set", lambda _, value: not thresholds.append(value))
    with pytest.raises(ValueError), large_blocks_given_back():
        raise ValueError
    assert thresholds[0] < LARGEST_KEPT == thresholds[-1]


@ON_GLIBC
def test_a_process_begins_anew_without_the_caches_of_threads_once() -> None:
    program = """
import os, sys
from mafunzo.compute.device.allocator import leave_out_thread_caches
leave_out_thread_caches()
print(os.environ["GLIBC_TUNABLES"], sys.argv[1:], os.getpid())
"""
    environment = {**os.environ, TUNABLES: "glibc.malloc.perturb=0"}
    process = subprocess.Popen(
        [sys.executable, "-c", program, "a word"], env=environment, stdout=subprocess.PIPE, text=True
    )
    printed = process.communicate()[0]
    assert printed == f"glibc.malloc.perturb=0:glibc.malloc.tcache_count=0 ['a word'] {process.pid}\n"


def test_a_setting_of_one_s_own_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TUNABLES, f"{THREAD_CACHE}=7")
    leave_out_thread_caches()  # else there would be no end of this test
    assert os.environ[TUNABLES] == f"{THREAD_CACHE}=7"


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    assert not keep_freed_memory()
