"""What a run is put together from."""

import pytest

from mafunzo.errors import InvalidFile
from tests.support.training_run import LORA, train


def test_a_folder_that_was_not_prepared_is_refused(tmp_path, base):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidFile, match=r"no train\.parquet"):
        train(tmp_path, base, tmp_path / "empty", **LORA)
