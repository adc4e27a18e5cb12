"""What a run is put together from."""

import pytest

from mafunzo.compute.training.arguments import TrainingArguments
from mafunzo.compute.training.run import TrainingRequest, assemble
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
