import pytest
import torch

from mafunzo.device.precision import choose, flags, name

CPU = torch.device("cpu")


@pytest.mark.parametrize("flag", ["avx512_bf16", "amx_bf16", "bf16"])
def test_16_bits_on_a_cpu_that_computes_in_bfloat16_are_bfloat16(flag):
    lora = choose("16", True, CPU, frozenset({"avx2", flag}))
    assert (lora.compute, lora.weights, lora.needs_autocast, lora.note) == (torch.bfloat16, torch.bfloat16, False, "")


def test_weights_that_are_trained_stay_float32():
    full = choose("16", False, CPU, frozenset({"avx512_bf16"}))
    assert (full.compute, full.weights, full.needs_autocast) == (torch.bfloat16, torch.float32, True)


def test_16_bits_on_another_cpu_are_float32_with_a_reason():
    found = choose("16", True, CPU, frozenset({"avx2"}))
    assert found.compute == torch.float32
    assert "doesn't compute in bfloat16" in found.note


def test_32_bits_are_float32_wherever():
    assert choose("32", True, CPU, frozenset({"avx512_bf16"})).compute == torch.float32


@pytest.mark.parametrize(("has_bf16", "compute"), [(True, torch.bfloat16), (False, torch.float16)])
def test_a_gpu_without_bfloat16_scales_its_loss_in_float16(monkeypatch, has_bf16, compute):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: has_bf16)
    found = choose("16", True, torch.device("cuda"))
    assert (found.compute, found.needs_scaler, bool(found.note)) == (compute, not has_bf16, not has_bf16)


def test_only_what_every_core_has_counts(tmp_path):
    text = "processor: 0\nflags\t\t: fpu avx512_bf16 avx2\n\nprocessor: 1\nflags\t\t: fpu avx2\n"
    (tmp_path / "cpuinfo").write_text(text)
    assert flags(tmp_path / "cpuinfo") == {"fpu", "avx2"}
    (tmp_path / "arm").write_text("Features\t: fp asimd bf16\n")
    assert "bf16" in flags(tmp_path / "arm")
    assert flags(tmp_path / "missing") == frozenset()


def test_dtypes_are_named_plainly():
    assert name(torch.bfloat16) == "bfloat16"
