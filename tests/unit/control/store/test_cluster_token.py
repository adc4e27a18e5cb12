"""Tokens of clusters: sealed, readable by their owner only, gone when they are replaced or deleted."""

from pathlib import Path

from mafunzo.control.store.cluster_token import keep_token, token_of
from mafunzo.control.store.home import Home

TOKEN = "5ec7e7" * 4


def test_a_token_is_kept_sealed_and_for_its_owner_only(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    assert token_of(home, "lab") == ""
    keep_token(home, "lab", TOKEN)
    assert (token_of(home, "lab"), token_of(home, "other")) == (TOKEN, "")
    path = home.root / "tokens" / "lab"
    assert path.stat().st_mode & 0o077 == 0
    assert not any(TOKEN in file.read_text("latin-1") for file in home.root.rglob("*") if file.is_file())


def test_no_token_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    for token in (TOKEN, ""):
        keep_token(home, "lab", token)
    assert token_of(home, "lab") == ""
    assert list((home.root / "tokens").iterdir()) == []
