"""Whole stories in real processes: a home of its own, a server on a free port, everything ended and proven gone afterwards."""

from collections.abc import Iterator

import pytest

from mafunzo import Workspace
from tests.support.tuned_home import tuned_home


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """A workspace whose server is ended at the end, with the proof that nothing is left."""
    home = tmp_path_factory.mktemp("home")
    with Workspace(home, port=0) as opened:
        yield opened
        opened.down()


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """The same with a home in which a fine-tuning has ended."""
    with Workspace(tuned_home(tmp_path_factory), port=0) as opened:
        yield opened
        opened.down()
