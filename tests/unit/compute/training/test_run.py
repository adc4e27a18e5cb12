"""What a run is put together from."""

import pytest
import torch

from mafunzo.compute.training.arguments import TrainingArguments
from mafunzo.compute.training.ranks import Ranks
from mafunzo.compute.training.run import TrainingRequest, _require_processes, assemble
from mafunzo.errors import InvalidFile, InvalidParameter
from tests.support.training_run import LORA, train


def test_a_folder_that_was_not_prepared_is_refused(tmp_path, base):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidFile, match=r"no train\.parquet"):
        train(tmp_path, base, tmp_path / "empty", **LORA)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (
            {"cpu_processes_finetune": 2},
            "cpu_processes_finetune is 2, and 1 of them run. By hand, start them with torchrun",
        ),
        ({"number_of_gpu_to_use_finetuning": 8, "strict_compute": True}, "ask for 8 GPUs, of which 0 would train here"),
    ],
)
def test_a_component_run_by_hand_is_refused_other_processes_than_it_asks_for(tmp_path, base, prepared, values, words):
    arguments = TrainingArguments.from_values(LORA | values)
    with pytest.raises(InvalidParameter) as caught:
        assemble(TrainingRequest(base, prepared, tmp_path / "out", arguments))
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("values", "ranks"),
    [
        pytest.param({"cpu_processes_finetune": 2}, Ranks(0, 4, 0, 2), id="two processes on each of two machines"),
        pytest.param({"num_nodes_finetune": 2, "strict_compute": True}, Ranks(1, 2, 0, 1), id="two machines, strictly"),
    ],
)
def test_machines_that_are_asked_for_and_there_are_not_refused(values, ranks):
    _require_processes(TrainingArguments.from_values(LORA | values), ranks, torch.device("cpu"))


def test_fewer_machines_than_are_strictly_asked_for_are_refused():
    arguments = TrainingArguments.from_values(LORA | {"num_nodes_finetune": 3, "strict_compute": True})
    with pytest.raises(InvalidParameter, match="strict_compute is 'true'"):
        _require_processes(arguments, Ranks(0, 2, 0, 1), torch.device("cpu"))
