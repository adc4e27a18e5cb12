"""Whether an error says that the disk is full: the one detector of checkpoints and of the steps' own end.

It knows the class of safetensors by its name, so that a process without it can ask too.
"""

import errno

_NUMBERS = (errno.ENOSPC, errno.EDQUOT)


def is_full_disk(error: BaseException) -> bool:
    """Return whether `error` means that a disk, or the share of it that its user may fill, is full."""
    if isinstance(error, OSError):
        return error.errno in _NUMBERS
    # safetensors raises no OSError, and tells the number in its text alone
    return type(error).__name__ == "SafetensorError" and any(
        f"(os error {number})" in str(error) for number in _NUMBERS
    )
