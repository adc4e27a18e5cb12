import pytest
import torch

from mafunzo.compute.evaluation import likelihood
from mafunzo.compute.evaluation.likelihood import likelihood_sums
from mafunzo.compute.evaluation.tasks import held_out_rows
from mafunzo.compute.model.loading import load_network
from tests.support.tiny_evaluation import Folders


@torch.inference_mode()
def test_sums_are_those_of_the_slow_obvious_way_row_by_row(folders: Folders) -> None:
    network = load_network(folders.base)
    rows = held_out_rows(folders.prepared)
    counts: list[int] = []
    sums = likelihood_sums(network, rows, batch_size=5, on_progress=counts.append)
    assert counts[-1] == len(rows) == 24
    for row, (loss, tokens, correct) in zip(rows, sums, strict=True):
        logits = network(input_ids=torch.tensor([row.input_ids])).logits[0].float()
        positions = [t for t in range(1, len(row.labels)) if row.labels[t] != -100]
        expected = -sum(float(logits[t - 1].log_softmax(-1)[row.labels[t]]) for t in positions)
        assert loss == pytest.approx(expected, rel=1e-5)
        assert tokens == len(positions)
        assert correct == sum(int(logits[t - 1].argmax()) == row.labels[t] for t in positions)


def test_small_chunks_and_batches_of_one_row_change_nothing(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    network = load_network(folders.base)
    rows = held_out_rows(folders.prepared)
    whole = likelihood_sums(network, rows, 16, lambda counts: None)
    monkeypatch.setattr(likelihood, "POSITIONS_AT_ONCE", 3)
    monkeypatch.setattr(likelihood, "LOGITS_CELLS", 1)
    assert likelihood_sums(network, rows, 16, lambda counts: None) == pytest.approx(whole, rel=1e-5)
