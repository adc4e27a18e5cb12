import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mafunzo.compute.training.batch import pack, read_rows
from mafunzo.compute.training.objectives.supervised import Supervised
from mafunzo.errors import InvalidData, InvalidFile
from tests.support.tiny_training import random_rows, write_prepared


def as_arrays(*rows):
    return [((np.array(ids, np.int32), np.array(labels, np.int32)),) for ids, labels in rows]


def read(path):
    return read_rows(path, Supervised.row_format)


def as_lists(rows):
    return [(ids.tolist(), labels.tolist()) for index in range(len(rows)) for ids, labels in rows.row(index)]


def test_rows_come_back_as_they_were_written(tmp_path):
    written = random_rows(5)
    rows = read(write_prepared(tmp_path, written) / "train.parquet")
    assert len(rows) == 5
    assert as_lists(rows) == written
    assert rows.tokens == sum(len(ids) for ids, _ in written)
    assert rows.trained_tokens == sum(label != -100 for _, labels in written for label in labels[1:])


def test_rows_of_several_row_groups_come_back(tmp_path):
    written = random_rows(25)
    write_prepared(tmp_path, written)
    pq.write_table(pq.read_table(tmp_path / "train.parquet"), tmp_path / "parts.parquet", row_group_size=4)
    rows = read(tmp_path / "parts.parquet")
    assert len(rows) == 25 and as_lists(rows) == written


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
        read(tmp_path / "train.parquet")


def test_a_file_that_is_no_parquet_says_so(tmp_path):
    (tmp_path / "train.parquet").write_text("no")
    with pytest.raises(InvalidFile, match="isn't a prepared parquet file"):
        read(tmp_path / "train.parquet")


def test_a_file_without_the_columns_says_which(tmp_path):
    pq.write_table(pa.table({"input_ids": [[1, 2]]}), tmp_path / "train.parquet")
    with pytest.raises(InvalidFile, match="labels"):
        read(tmp_path / "train.parquet")


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


PAIRS = (("a_ids", "a_labels"), ("b_ids", "b_labels"))


def write_pairs(path, a, b):
    """Rows of two sequences each, whose first token is a prompt."""
    columns = {"a_ids": a, "a_labels": [[-100, *ids[1:]] for ids in a]}
    columns |= {"b_ids": b, "b_labels": [[-100, *ids[1:]] for ids in b]}
    pq.write_table(pa.table({name: pa.array(c, pa.list_(pa.int32())) for name, c in columns.items()}), path)


def test_a_row_can_have_several_sequences(tmp_path):
    write_pairs(tmp_path / "train.parquet", [[5, 6, 7], [8, 9]], [[5, 4], [8, 3, 2]])
    rows = read_rows(tmp_path / "train.parquet", PAIRS)
    assert (len(rows), rows.tokens, rows.trained_tokens) == (2, 10, 6)
    assert as_lists(rows) == [
        ([5, 6, 7], [-100, 6, 7]),
        ([5, 4], [-100, 4]),
        ([8, 9], [-100, 9]),
        ([8, 3, 2], [-100, 3, 2]),
    ]


def test_the_sequences_of_a_row_are_packed_behind_each_other(tmp_path):
    write_pairs(tmp_path / "train.parquet", [[5, 6, 7], [8, 9]], [[5, 4], [8, 3, 2]])
    rows = read_rows(tmp_path / "train.parquet", PAIRS)
    batch = pack([rows.row(0), rows.row(1)])
    assert (batch.n_targets, batch.n_tokens) == (6, 10)
    assert batch.bounds == (0, 2, 3, 4, 6)
    assert batch.ids_T.tolist() == [5, 6, 5, 8, 8, 3]
    assert batch.targets_T.tolist() == [6, 7, 4, 9, 3, 2]


def test_a_row_with_one_sequence_that_trains_nothing_takes_no_place(tmp_path):
    write_pairs(tmp_path / "train.parquet", [[5, 6, 7], [8, 9]], [[5], [8, 3, 2]])
    rows = read_rows(tmp_path / "train.parquet", PAIRS)
    assert pack([rows.row(0), rows.row(1)]).bounds == (0, 1, 3)
    write_pairs(tmp_path / "train.parquet", [[5, 6, 7], [8]], [[5], [8, 3, 2]])
    with pytest.raises(InvalidData, match="no row has an assistant token"):
        read_rows(tmp_path / "train.parquet", PAIRS)
