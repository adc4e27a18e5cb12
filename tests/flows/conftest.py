"""Whole stories in real processes: a home of its own, a server on a free port, everything ended and proven gone afterwards."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from mafunzo import Workspace

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """A workspace whose server is ended at the end, with the proof that nothing is left."""
    home = tmp_path_factory.mktemp("home")
    with Workspace(home, port=0) as opened:
        yield opened
        opened.down()
