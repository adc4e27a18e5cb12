"""Mixed precision: which number format is computed in, as far as the hardware really computes in it.

Two questions about bfloat16 on a CPU are answered here and nowhere else, because they differ on processors with AVX-512
but without its bfloat16 instructions:

    computes_bfloat16    are there instructions for it? Whoever wants speed asks: converting takes longer than float32, in
                         training as in serving
    multiplies_bfloat16  does oneDNN take it, converting where it must? Serving asks where memory is short: bfloat16 weights
                         have half the bytes
"""

import re
from dataclasses import dataclass
from pathlib import Path

import torch

from mafunzo.entities.compute import HalfFormats

_BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16", "svebf16"}


@dataclass(frozen=True)
class Precision:
    """compute: dtype of the matrix products. weights: dtype in which the network is held.
    needs_autocast: weights are cast in each product. needs_scaler: small gradients would vanish unscaled (float16).
    note: why it isn't what was asked, or an empty text."""

    compute: torch.dtype
    weights: torch.dtype
    needs_autocast: bool = False
    needs_scaler: bool = False
    note: str = ""


def choose(bits: str, is_lora: bool, device: torch.device) -> Precision:
    """Return the format for `bits` ("16" or "32"): frozen weights in it, trained weights always in float32."""
    if bits == "32":
        return Precision(torch.float32, torch.float32)
    if device.type == "cuda":
        compute = torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
        note = (
            ""
            if compute == torch.bfloat16
            else "This GPU doesn't compute in bfloat16: float16 with loss scaling instead."
        )
    elif computes_bfloat16(instruction_sets()):
        compute, note = torch.bfloat16, ""
    else:
        return Precision(
            torch.float32, torch.float32, note="This CPU doesn't compute in bfloat16: float32 instead, which is slower."
        )
    weights = compute if is_lora else torch.float32
    return Precision(compute, weights, not is_lora, compute == torch.float16, note)


def computes_bfloat16(sets: frozenset[str]) -> bool:
    """Return whether a CPU with these instruction sets multiplies bfloat16 in hardware."""
    return bool(sets & _BFLOAT16_FLAGS)


def multiplies_bfloat16() -> bool:
    """Return whether oneDNN's matrix products take bfloat16 on this CPU, in hardware or by converting on the way."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def half_formats() -> HalfFormats:
    """Return the 16-bit formats of this CPU."""
    bfloat16 = frozenset({"bfloat16"})
    if computes_bfloat16(instruction_sets()):
        return HalfFormats(computed=bfloat16)
    return HalfFormats(converted=bfloat16 if multiplies_bfloat16() else frozenset())


def instruction_sets(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Return the instruction sets that every core has, by Linux's names; nothing on other systems."""
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return frozenset()
    lines = re.findall(r"^(?:flags|Features)\s*:\s*(.*)$", text, re.MULTILINE)
    sets = [frozenset(line.split()) for line in lines]
    return frozenset.intersection(*sets) if sets else frozenset()


def name(dtype: torch.dtype) -> str:
    """Return `bfloat16` for `torch.bfloat16`."""
    return str(dtype).removeprefix("torch.")
