"""Tests of `mafunzo.entrypoints.http.byte_range`."""

import pytest

from mafunzo.entrypoints.http.byte_range import byte_range


@pytest.mark.parametrize(
    ("header", "part"),
    [
        pytest.param(None, (0, 10), id="none"),
        pytest.param("bytes=0-", (0, 10), id="all"),
        pytest.param("bytes=3-", (3, 10), id="from a byte on"),
        pytest.param("bytes=3-5", (3, 6), id="both ends"),
        pytest.param("bytes=0-0", (0, 1), id="the first byte"),
        pytest.param("bytes=3-99", (3, 10), id="beyond the end"),
        pytest.param("bytes=-4", (6, 10), id="the last bytes"),
        pytest.param("bytes=-99", (0, 10), id="more last bytes than there are"),
        pytest.param("bytes=10-", None, id="nothing yet"),
        pytest.param("bytes=-0", None, id="no last byte"),
        pytest.param("bytes=5-3", (0, 10), id="backwards: ignored"),
        pytest.param("bytes=-", (0, 10), id="no range: ignored"),
        pytest.param("bytes=0-1,4-5", (0, 10), id="several: ignored"),
        pytest.param("lines=1-2", (0, 10), id="another unit: ignored"),
    ],
)
def test_a_range_is_as_the_header_says(header: str | None, part: tuple[int, int] | None) -> None:
    assert byte_range(header, 10) == part


def test_nothing_has_no_range() -> None:
    assert byte_range(None, 0) == (0, 0) and byte_range("bytes=0-", 0) is None and byte_range("bytes=-5", 0) is None
