"""Wheels: taken from the cache by their hash, else fetched, and never without a network that is allowed."""

import hashlib
from pathlib import Path

import pytest

from mafunzo.dataset.wheel import fetch_wheel
from mafunzo.errors import Unreachable

NAME = "some_rows-1.2-py3-none-any.whl"


def cached(cache: Path, content: bytes) -> Path:
    (cache / "wheels").mkdir()
    path = cache / "wheels" / NAME
    path.write_bytes(content)
    return path


def test_a_wheel_of_the_right_hash_comes_from_the_cache(tmp_path: Path) -> None:
    path = cached(tmp_path, b"rows")
    sha256 = hashlib.sha256(b"rows").hexdigest()
    assert fetch_wheel("some-rows", "1.2", sha256, tmp_path, offline=True) == path


def test_a_damaged_wheel_is_thrown_away_and_offline_is_told_what_to_do(tmp_path: Path) -> None:
    path = cached(tmp_path, b"damaged")
    with pytest.raises(Unreachable, match=r"some-rows==1\.2 isn't in .*pip download --no-deps some-rows==1\.2 -d"):
        fetch_wheel("some-rows", "1.2", hashlib.sha256(b"rows").hexdigest(), tmp_path, offline=True)
    assert not path.exists()
