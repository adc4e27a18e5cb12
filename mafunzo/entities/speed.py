"""How fast a machine computes."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Speed:
    """flops: floating point operations a second of matrix products; format: their number format, as training has it."""

    flops: float
    format: str
    free_bytes: int

    @classmethod
    def from_dict(cls, body: dict[str, Any]) -> "Speed":
        """Parse what the process prints; raises `KeyError`, `TypeError` or `ValueError` for anything else."""
        return cls(float(body["flops"]), str(body["format"]), int(body["free_bytes"]))
