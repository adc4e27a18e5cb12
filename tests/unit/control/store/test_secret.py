from pathlib import Path

import pytest

from mafunzo.control.store.home import Home
from mafunzo.control.store.secret import seal, unseal
from mafunzo.errors import RefusedError


def test_a_sealed_text_can_be_read_in_its_own_home(home: Home) -> None:
    sealed = seal(home, "a key with ünïcode")
    assert "key" not in sealed
    assert unseal(home, sealed) == "a key with ünïcode"


def test_a_text_sealed_in_another_home_is_refused_with_what_to_do(home: Home, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match=r"under another secret than its secret\.key"):
        unseal(home, seal(Home(tmp_path / "other"), "key"))
