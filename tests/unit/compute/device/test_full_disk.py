"""Every way in which a library says that the disk is full is known, and nothing else is taken for it."""

import errno

import pytest
from safetensors import SafetensorError

from mafunzo.compute.components.command import _translate
from mafunzo.compute.device.full_disk import is_full_disk
from mafunzo.errors import StorageFull

KNOWN = [
    pytest.param(OSError(errno.ENOSPC, "No space left on device"), id="full"),
    pytest.param(OSError(errno.EDQUOT, "Disk quota exceeded"), id="quota"),
    pytest.param(
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), id="safetensors"
    ),
]
OTHERS = [
    pytest.param(OSError(errno.EIO, "Input/output error"), id="broken"),
    pytest.param(SafetensorError("Error while deserializing header: header too large"), id="safetensors"),
    pytest.param(RuntimeError("No space left on device (os error 28)"), id="of somebody else"),
]


@pytest.mark.parametrize("error", KNOWN)
def test_a_full_disk_is_known_and_a_step_ends_with_it(error):
    assert is_full_disk(error)
    assert isinstance(_translate(error), StorageFull)


@pytest.mark.parametrize("error", OTHERS)
def test_nothing_else_is_taken_for_it(error):
    assert not is_full_disk(error)
