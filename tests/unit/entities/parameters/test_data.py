"""What becomes of rows before training."""

import pytest

from mafunzo.entities.parameters.data import DATA

NAMED = {parameter.name: parameter for parameter in DATA}


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_each_split_is_a_file_or_a_table(split):
    assert NAMED[f"{split}_file_path"].type == "uri_file"
    assert f"wins over {split}_file_path" in NAMED[f"{split}_mltable_path"].effect


def test_bad_rows_fail_a_job_unless_they_are_skipped():
    assert NAMED["on_bad_row"].default == "fail" and set(NAMED["on_bad_row"].enum) == {"fail", "skip"}
