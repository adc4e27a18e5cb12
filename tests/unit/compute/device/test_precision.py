import pytest
import torch

from mafunzo.compute.device import precision
from mafunzo.compute.device.precision import choose, instruction_sets, name

CPU = torch.device("cpu")


@pytest.fixture
def cpu(monkeypatch):
    """Say which instruction sets the CPU has."""
    return lambda *sets: monkeypatch.setattr(precision, "instruction_sets", lambda: frozenset(sets))


@pytest.mark.parametrize("flag", ["avx512_bf16", "amx_bf16", "bf16"])
def test_16_bits_on_a_cpu_that_computes_in_bfloat16_are_bfloat16(flag, cpu):
    cpu("avx2", flag)
    lora = choose("16", True, CPU)
    assert (lora.compute, lora.weights, lora.needs_autocast, lora.note) == (torch.bfloat16, torch.bfloat16, False, "")


def test_weights_that_are_trained_stay_float32(cpu):
    cpu("avx512_bf16")
    full = choose("16", False, CPU)
    assert (full.compute, full.weights, full.needs_autocast) == (torch.bfloat16, torch.float32, True)


def test_16_bits_on_another_cpu_are_float32_with_a_reason(cpu):
    cpu("avx2")
    choice = choose("16", True, CPU)
    assert choice.compute == torch.float32
    assert "doesn't compute in bfloat16" in choice.note


def test_32_bits_are_float32_wherever(cpu):
    cpu("avx512_bf16")
    assert choose("32", True, CPU).compute == torch.float32


@pytest.mark.parametrize(("has_bf16", "compute"), [(True, torch.bfloat16), (False, torch.float16)])
def test_a_gpu_without_bfloat16_scales_its_loss_in_float16(monkeypatch, has_bf16, compute):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: has_bf16)
    choice = choose("16", True, torch.device("cuda"))
    assert (choice.compute, choice.needs_scaler, bool(choice.note)) == (compute, not has_bf16, not has_bf16)


def test_only_what_every_core_has_counts(tmp_path):
    text = "processor: 0\nflags\t\t: fpu avx512_bf16 avx2\n\nprocessor: 1\nflags\t\t: fpu avx2\n"
    (tmp_path / "cpuinfo").write_text(text)
    assert instruction_sets(tmp_path / "cpuinfo") == {"fpu", "avx2"}
    (tmp_path / "arm").write_text("Features\t: fp asimd bf16\n")
    assert "bf16" in instruction_sets(tmp_path / "arm")
    assert instruction_sets(tmp_path / "missing") == frozenset()


def test_dtypes_are_named_plainly():
    assert name(torch.bfloat16) == "bfloat16"
