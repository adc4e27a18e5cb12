"""Conversions for OpenVINO: made and checked once, kept by content, and torch in their place where they can't be used."""

import gc
import json
import shutil
import signal
import sys
from pathlib import Path

import pytest
import torch

from mafunzo.compute.device.precision import computes_bfloat16, instruction_sets
from mafunzo.compute.inference import conversion, openvino_graph
from mafunzo.compute.inference.conversion import converted_dtype, load_converted
from mafunzo.compute.inference.loading import load_model
from mafunzo.errors import NotSupported


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def never(*arguments: object) -> None:
    raise AssertionError("it was converted again")


def test_a_network_is_converted_once_and_answers_as_in_torch(
    tiny_llama: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [list(range(3, 20)), [5], list(range(40, 10, -1))]
    replies = []
    for folder in (cache, cache, None):
        model = load_model(tiny_llama, openvino_cache=folder, cache_mb=8)
        with model.engine:
            replies.append([reply.token_ids for reply in model.engine.generate(prompts, 20)])
        monkeypatch.setattr(conversion, "_convert", never)
    assert str(model.choice) == "torch"
    assert replies[0] == replies[1]
    if converted_dtype(tiny_llama) == torch.float32:
        assert replies[0] == replies[2]


def test_signals_are_taken_after_networks_have_gone_in_the_order_they_came(tiny_llama: Path, cache: Path) -> None:
    models = [load_model(tiny_llama, openvino_cache=cache, cache_mb=8) for _ in range(2)]
    while models:
        models.pop(0).engine.close()
        gc.collect()
    taken: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: taken.append(number))
    signal.raise_signal(signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, before)
    assert taken == [signal.SIGUSR1]


def test_a_self_check_that_fails_is_remembered(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversion, "difference", lambda *arguments: "after 5 tokens another token is chosen")
    words = "the self-check against torch in float32 failed: after 5 tokens another token is chosen"
    with pytest.raises(NotSupported, match=words):
        load_converted(tiny_llama, tmp_path, torch.float32)
    monkeypatch.setattr(conversion, "_convert", never)
    with pytest.raises(NotSupported, match=words):
        load_converted(tiny_llama, tmp_path, torch.float32)
    [target] = (tmp_path / "openvino").iterdir()
    assert [file.name for file in target.iterdir()] == ["result.json"], "no graph is kept that isn't used"


@pytest.mark.slow
def test_a_sliding_window_that_is_dropped_is_a_fault(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversion, "expected_windows", lambda config: [24] * config.num_hidden_layers)
    with pytest.raises(NotSupported, match=r"the sliding windows of its layers are \[0, 0.*\], expected \[24, 24"):
        load_converted(tiny_llama, tmp_path, torch.float32)


def test_torch_serves_where_openvino_can_not_and_says_why(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    model = load_model(tiny_llama, openvino_cache=tmp_path, cache_mb=8)
    model.engine.close()
    assert str(model.choice).startswith("torch (openvino isn't installed: pip install 'mafunzo[openvino]'")
    assert not (tmp_path / "openvino").exists()


def test_an_architecture_that_nobody_compared_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_llama, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "gemma2"}))
    with pytest.raises(NotSupported, match="openvino isn't known to compute gemma2 exactly"):
        load_converted(folder, tmp_path, torch.float32)


@pytest.mark.parametrize(
    ("dtype", "cpus", "sets", "is_refused"),
    [
        pytest.param(torch.bfloat16, 1, {"amx_bf16", "avx512_bf16"}, True, id="one core with AMX"),
        pytest.param(torch.bfloat16, 1, {"avx512_bf16"}, False, id="without AMX"),
        pytest.param(torch.bfloat16, 2, {"amx_bf16"}, False, id="two cores"),
        pytest.param(torch.float32, 1, {"amx_bf16"}, False, id="float32"),
    ],
)
def test_one_thread_isnt_let_compute_what_would_end_the_process(
    dtype: torch.dtype,
    cpus: int,
    sets: set[str],
    is_refused: bool,
    tiny_llama: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def converts(*arguments: object) -> None:
        raise OSError("as far as here")

    monkeypatch.setattr(conversion, "instruction_sets", lambda: frozenset(sets))
    monkeypatch.setattr(conversion.cgroup, "usable_cpus", lambda: cpus)
    monkeypatch.setattr(conversion.torch, "get_num_threads", lambda: cpus)
    monkeypatch.setattr(conversion, "_convert", converts)
    with pytest.raises(NotSupported, match="in one thread: give the worker two" if is_refused else "as far as here"):
        load_converted(tiny_llama, tmp_path, dtype)


@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
def test_it_computes_in_bfloat16_where_weights_and_cpu_do(tmp_path: Path, name: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({name: "bfloat16"}))
    is_computed = computes_bfloat16(instruction_sets())
    assert converted_dtype(tmp_path) == (torch.bfloat16 if is_computed else torch.float32)
    (tmp_path / "config.json").write_text(json.dumps({name: "float16"}))
    assert converted_dtype(tmp_path) == torch.float32


def test_the_oldest_conversions_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversion, "KEPT", 2)
    for number in range(4):
        (folder := tmp_path / str(number)).mkdir()
        (folder / "graph.xml").write_text("")
        conversion.os.utime(folder, (number, number))
    (tmp_path / ".new-1").mkdir()
    conversion._delete_oldest(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".new-1", "2", "3"]


def test_openvino_is_imported_without_its_telemetry() -> None:
    openvino_graph.import_openvino()
    assert sys.modules["openvino_telemetry"] is None


def test_a_conversion_that_has_no_room_falls_back_and_is_tried_again(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(conversion, "_convert", full)
    for _ in range(2):
        with pytest.raises(NotSupported, match="converting it for openvino failed: OSError: No space left"):
            load_converted(tiny_llama, tmp_path, torch.float32)
