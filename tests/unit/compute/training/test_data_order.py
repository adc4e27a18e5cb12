import numpy as np
import pytest

from mafunzo.compute.training.data_order import DataOrder, split


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


def test_a_step_is_split_into_forward_passes():
    assert [part.tolist() for part in split(np.arange(5), 2)] == [[0, 1], [2, 3], [4]]


def test_smaller_forward_passes_change_no_step_s_rows():
    whole, halved = order(batch=4, accumulation=1), order(batch=2, accumulation=2)
    assert [whole.rows_of(step).tolist() for step in range(6)] == [halved.rows_of(step).tolist() for step in range(6)]
