import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mafunzo.errors import InvalidData, InvalidFile
from mafunzo.training.batch import Course, pack, read_rows, split
from tests.support.tiny_training import random_rows, write_prepared


def as_arrays(*rows):
    return [(np.array(ids, np.int32), np.array(labels, np.int32)) for ids, labels in rows]


def test_rows_come_back_as_they_were_written(tmp_path):
    written = random_rows(5)
    rows = read_rows(write_prepared(tmp_path, written) / "train.parquet")
    assert len(rows) == 5
    assert [(a.tolist(), b.tolist()) for a, b in map(rows.row, range(5))] == written
    assert rows.tokens == sum(len(ids) for ids, _ in written)
    assert rows.trained_tokens == sum(label != -100 for _, labels in written for label in labels[1:])


def test_rows_of_several_row_groups_come_back(tmp_path):
    written = random_rows(25)
    write_prepared(tmp_path, written)
    pq.write_table(pq.read_table(tmp_path / "train.parquet"), tmp_path / "parts.parquet", row_group_size=4)
    rows = read_rows(tmp_path / "parts.parquet")
    assert [(a.tolist(), b.tolist()) for a, b in map(rows.row, range(25))] == written


@pytest.mark.parametrize(
    ("table", "error", "words"),
    [
        pytest.param({"input_ids": [[1, 2]]}, InvalidFile, "input_ids and labels", id="no labels"),
        pytest.param({"input_ids": [], "labels": []}, InvalidData, "no rows", id="no rows"),
        pytest.param({"input_ids": [[1, 2]], "labels": [[1]]}, InvalidData, "different lengths", id="lengths"),
        pytest.param(
            {"input_ids": [[1, 2]], "labels": [[-100, -100]]},
            InvalidData,
            "no row has an assistant token",
            id="no label",
        ),
        pytest.param({"input_ids": [[1, 2], []], "labels": [[-100, 2], []]}, InvalidData, "row 1 is empty", id="empty"),
    ],
)
def test_a_file_that_cannot_be_trained_on_says_why(tmp_path, table, error, words):
    columns = {name: pa.array(column, pa.list_(pa.int32())) for name, column in table.items()}
    pq.write_table(pa.table(columns), tmp_path / "train.parquet")
    with pytest.raises(error, match=words):
        read_rows(tmp_path / "train.parquet")


def test_a_file_that_is_no_parquet_says_so(tmp_path):
    (tmp_path / "train.parquet").write_text("no")
    with pytest.raises(InvalidFile, match="isn't a prepared parquet file"):
        read_rows(tmp_path / "train.parquet")


def test_packing_puts_sequences_behind_each_other_with_shifted_targets():
    batch = pack(as_arrays(([5, 6, 7, 8], [-100, -100, 7, 8]), ([9, 3, 4], [-100, 3, 4])))
    assert batch.ids_T.tolist() == [5, 6, 7, 9, 3]
    assert batch.targets_T.tolist() == [-100, 7, 8, 3, 4]
    assert batch.positions_T.tolist() == [0, 1, 2, 0, 1]
    assert batch.bounds == (0, 3, 5)
    assert (batch.n_targets, batch.n_tokens) == (4, 7)


def test_what_follows_the_last_trained_token_is_left_out():
    batch = pack(as_arrays(([5, 6, 7, 8, 0, 0], [-100, 6, 7, -100, -100, -100])))
    assert batch.ids_T.tolist() == [5, 6]
    assert batch.targets_T.tolist() == [6, 7]


def test_a_row_without_labels_takes_no_place():
    batch = pack(as_arrays(([5, 6], [-100, -100]), ([7, 8], [-100, 8])))
    assert batch.bounds == (0, 1) and batch.n_targets == 1
    assert pack(as_arrays(([5, 6], [-100, -100]))).bounds == (0,)


def course(**more):
    return Course(**({"n_rows": 10, "batch": 2, "accumulation": 2, "epochs": 2, "max_steps": -1, "seed": 1} | more))


def test_every_epoch_sees_every_row_once_in_its_own_order():
    plan = course()
    assert (plan.steps_per_epoch, plan.total_steps) == (3, 6)
    epochs = [[int(i) for step in steps for i in plan.rows_of(step)] for steps in (range(3), range(3, 6))]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(10))
    assert epochs[0] != epochs[1]
    assert len(plan.rows_of(2)) == 2


def test_the_seed_decides_the_order():
    assert course().rows_of(0).tolist() == course().rows_of(0).tolist()
    assert course().rows_of(0).tolist() != course(seed=2).rows_of(0).tolist()


def test_max_steps_decides_instead_of_epochs():
    plan = course(max_steps=7)
    assert plan.total_steps == 7
    assert plan.epoch_after(7) == pytest.approx(2.4)
    assert plan.epoch_after(3) == 1.0


def test_a_step_is_split_into_forward_passes():
    assert [part.tolist() for part in split(np.arange(5), 2)] == [[0, 1], [2, 3], [4]]
