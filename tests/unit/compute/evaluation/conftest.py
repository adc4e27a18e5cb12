"""A tiny base, an adapter of it that was really trained, and held-out rows as prepare_data leaves them."""

import pytest

from tests.support.tiny_evaluation import Folders, make_folders


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return make_folders(tmp_path_factory.mktemp("evaluation"))
