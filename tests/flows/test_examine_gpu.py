"""The examination of a GPU, done with the CPU in its place: the same runs and comparisons, on small networks."""

from pathlib import Path

import pytest

from mafunzo.compute.components import examine_gpu
from mafunzo.compute.components.examine_gpu import Sizes, examine
from mafunzo.compute.components.tiny_model import make

pytestmark = pytest.mark.soak
SIZES = Sizes(tiny=(2, 16), losses=(2, 16), speed=(2, 16))


def test_what_computes_alike_passes_and_all_that_is_asked_for_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examine_gpu, "TRL_SETTINGS", examine_gpu.TRL_SETTINGS[:1])
    make("tiny-llama", 0, tmp_path / "base")
    (tmp_path / "work").mkdir()
    checks = {check.name: check for check in examine(tmp_path / "work", tmp_path / "base", 1e6, SIZES)}
    losses = [check for name, check in checks.items() if name.startswith("losses of ")]
    assert len(losses) == 6 and all(check.is_passed for check in losses), losses
    assert checks["speed of LoRA, 16 bits"].is_passed
    assert "times its" in checks["speed against TRL's best"].measured
    assert "planned" in checks["peak memory against the plan"].measured
