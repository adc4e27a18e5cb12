from collections.abc import Callable
from pathlib import Path

import pytest

from mafunzo.control.store.home import Home
from mafunzo.control.store.opening import open_database
from mafunzo.errors import Conflict


def test_a_database_on_a_server_belongs_to_one_home(
    home: Home, tmp_path: Path, new_postgresql_database: Callable[[], str]
) -> None:
    url = new_postgresql_database()
    open_database(home, url).close()
    open_database(home, url).close()
    with pytest.raises(Conflict, match=r"belongs to another home than .*other: its secret\.key is another one"):
        open_database(Home(tmp_path / "other"), url)
