"""How a long list is read: by keyset pagination, so that what is added or deleted meanwhile moves nothing else."""

from dataclasses import dataclass

PAGE = 100
"""How many are read at once where all of them may be needed."""


@dataclass(frozen=True)
class Scan:
    """From after a position, `size` at once, the newest or the oldest first. after: None for the start."""

    after: int | None = None
    size: int = PAGE
    is_oldest_first: bool = False
