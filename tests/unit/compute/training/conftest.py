from pathlib import Path

import pytest

from tests.support.tiny_training import learnable_rows, write_base, write_prepared


@pytest.fixture
def base(tmp_path) -> Path:
    return write_base(tmp_path / "base")


@pytest.fixture
def prepared(tmp_path) -> Path:
    return write_prepared(tmp_path / "prepared", learnable_rows(24), learnable_rows(8, seed=1))
