import numpy as np
import pytest

from mafunzo.compute.training.batch import Rows, Sequences
from mafunzo.compute.training.data_order import DataOrder, load_steps, shares
from mafunzo.compute.training.ranks import Ranks
from tests.support.training_run import LORA, history, train


def order(**more):
    return DataOrder(**({"n_rows": 10, "batch": 2, "accumulation": 2, "epochs": 2, "max_steps": -1, "seed": 1} | more))


def test_every_epoch_sees_every_row_once_in_its_own_order():
    data_order = order()
    assert (data_order.steps_per_epoch, data_order.total_steps) == (3, 6)
    epochs = [[int(i) for step in steps for i in data_order.rows_of(step)] for steps in (range(3), range(3, 6))]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(10))
    assert epochs[0] != epochs[1]
    assert len(data_order.rows_of(2)) == 2


def test_the_seed_decides_the_order():
    assert order().rows_of(0).tolist() == order().rows_of(0).tolist()
    assert order().rows_of(0).tolist() != order(seed=2).rows_of(0).tolist()


def test_max_steps_decides_instead_of_epochs():
    data_order = order(max_steps=7)
    assert data_order.total_steps == 7
    assert data_order.epoch_after(7) == pytest.approx(2.4)
    assert data_order.epoch_after(3) == 1.0


@pytest.mark.parametrize(("epochs", "steps"), [(0.5, 2), (0.01, 1), (1.0, 3), (1.5, 5), (2.34, 8)])
def test_part_of_an_epoch_is_rounded_up_to_steps(epochs, steps):
    assert order(epochs=epochs).total_steps == steps


@pytest.mark.parametrize("n_threads", [0, 2])
def test_a_step_is_split_into_forward_passes(n_threads):
    five = order(n_rows=5, batch=5, accumulation=1, epochs=3)
    ids = np.arange(10, 20, dtype=np.int32)
    rows = Rows((Sequences(ids, ids, np.arange(0, 11, 2)),))
    steps = list(load_steps(rows, five, 1, 5, n_threads))  # rows of 2 tokens, passes of 5
    assert [[len(batch.bounds) - 1 for batch in batches] for batches in steps] == [[2, 2, 1], [2, 2, 1]]
    first_tokens = [[int(token) for batch in batches for token in batch.ids_T] for batches in steps]
    assert first_tokens == [[10 + 2 * int(row) for row in five.rows_of(step)] for step in (1, 2)]


def test_smaller_forward_passes_change_no_step_s_rows():
    whole, halved = order(batch=4, accumulation=1), order(batch=2, accumulation=2)
    assert [whole.rows_of(step).tolist() for step in range(6)] == [halved.rows_of(step).tolist() for step in range(6)]


def test_batches_made_ahead_are_the_same_batches(tmp_path, base, prepared):
    _, here = train(tmp_path, base, prepared, "here", **LORA)
    _, ahead = train(tmp_path, base, prepared, "ahead", **LORA, dataloader_num_workers=2)
    assert history(ahead, "loss") == history(here, "loss")


@pytest.mark.parametrize(
    ("tokens", "size", "parts"),
    [
        pytest.param([5, 3, 4], 1, [[0, 1, 2]], id="one process takes all, in their order"),
        pytest.param([9, 1, 2, 3, 3], 2, [[0], [1, 2, 3, 4]], id="as many tokens each, not as many rows"),
        pytest.param([2, 2, 2, 2], 2, [[0, 2], [1, 3]], id="equal rows by turns"),
        pytest.param([7], 3, [[0], [], []], id="fewer rows than processes"),
    ],
)
def test_processes_share_the_tokens_of_a_step(tokens, size, parts):
    assert shares(tokens, size) == parts


def test_the_rows_of_a_step_are_the_same_on_any_number_of_processes():
    ids = np.arange(3, 33, dtype=np.int32)
    rows = Rows((Sequences(ids, ids, np.array([0, 2, 9, 11, 13, 15, 21, 23, 25, 27, 30])),))
    for size in (1, 2, 3):
        ranks = [load_steps(rows, order(), 0, 8, 0, Ranks(rank, size)) for rank in range(size)]
        for step, of_each in enumerate(zip(*ranks, strict=True)):
            batches = [batch for of_rank in of_each for batch in of_rank]
            starts = sorted(int(batch.ids_T[low]) for batch in batches for low in batch.bounds[:-1])
            assert starts == sorted(int(rows.row(int(row))[0][0][0]) for row in order().rows_of(step))
