"""Tests of `mafunzo.tracking.log`: lines of logs of any size, the same however they are read."""

import io
import random
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from mafunzo.tracking import log
from mafunzo.tracking.log import BLOCK_BYTES, LINE_BYTES, lines_of, read_blocks, start_of_last, tail

MB = 2**20


def texts(path: Path, start: int = 0, end: int | None = None, is_last: bool = True) -> list[str]:
    return [text for _, body in read_blocks(path, start, end, is_last) for _, text in lines_of(body)]


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"one\ntwo\n", id="lines"),
        pytest.param(b"one\n\n\ntwo", id="empty lines, and one without an end"),
        pytest.param(b"a\rb\r\nc\x0cd\n", id="other ends"),
        pytest.param("äöü\u2028x\u0085y\n".encode() + b"\xff\xfe\n", id="beyond ASCII, and what is no UTF-8"),
        pytest.param(b"x" * (LINE_BYTES - 1) + b"\ny\n", id="a line as long as may be"),
    ],
)
def test_lines_are_those_of_the_text(body: bytes, tmp_path: Path) -> None:
    (path := tmp_path / "log.txt").write_bytes(body)
    assert texts(path) == body.decode("utf-8", "replace").splitlines()


def test_a_line_that_is_too_long_comes_in_pieces_and_no_character_is_cut(tmp_path: Path) -> None:
    text = "ä€😀" * LINE_BYTES
    (path := tmp_path / "log.txt").write_text(f"first\n{text}\nlast\n", encoding="utf-8")
    first, *pieces, last = texts(path)
    assert (first, last, "".join(pieces)) == ("first", "last", text)
    assert all(LINE_BYTES - 4 < len(piece.encode()) <= LINE_BYTES for piece in pieces[:-1])


def test_what_is_not_whole_waits_for_its_end(tmp_path: Path) -> None:
    (path := tmp_path / "log.txt").write_text("one\nhal")
    assert texts(path, is_last=False) == ["one"] and texts(path) == ["one", "hal"]
    assert list(read_blocks(tmp_path / "none")) == [] and tail(tmp_path / "none", 3) == []


@pytest.mark.parametrize("seed", range(20))
def test_a_log_that_is_read_while_it_grows_has_the_same_lines(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(seed)
    monkeypatch.setattr(log, "LINE_BYTES", 8)
    body = "".join(rng.choices(["a", "bc", "\n", "ä", "€", "😀", "\r"], k=400)).encode()
    (path := tmp_path / "log.txt").write_bytes(body)
    whole = [(start + at, text) for start, block in read_blocks(path, is_last=True) for at, text in lines_of(block)]
    monkeypatch.setattr(log, "BLOCK_BYTES", rng.randint(1, 40))
    seen, offset, size = [], 0, 0
    while size < len(body):
        size = min(len(body), size + rng.randint(1, 60))
        path.write_bytes(body[:size])
        for start, block in read_blocks(path, offset, is_last=size == len(body)):
            seen += [(start + at, text) for at, text in lines_of(block)]
            offset = start + len(block)
    assert seen == whole
    assert "".join(text for _, text in seen) == body.decode().replace("\n", "").replace("\r", "")


@pytest.mark.parametrize("body", [b"1\n2\n3\n4", b"1\n2\n3\n4\n"], ids=["open", "ended"])
@pytest.mark.parametrize(
    ("count", "lines"), [(1, ["4"]), (3, ["2", "3", "4"]), (4, ["1", "2", "3", "4"]), (9, ["1", "2", "3", "4"])]
)
def test_the_tail_is_the_last_lines(body: bytes, count: int, lines: list[str], tmp_path: Path) -> None:
    (path := tmp_path / "log.txt").write_bytes(body)
    assert tail(path, count) == lines


def test_the_tail_of_lines_across_blocks_is_found(tmp_path: Path) -> None:
    lines = [f"line {number} " + "x" * 1000 for number in range(1000)]
    (path := tmp_path / "log.txt").write_text("\n".join(lines) + "\n")
    assert tail(path, 700) == lines[-700:]
    assert start_of_last(path, 1000) == 0


class Counted(io.BufferedReader):
    """A file that counts the bytes that are read of it."""

    count = 0

    def read(self, size: int | None = -1) -> bytes:
        body = super().read(size)
        Counted.count += len(body)
        return body


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> type[Counted]:
    def open_counted(path: Path) -> BinaryIO:
        return Counted(io.FileIO(path))

    monkeypatch.setattr(Counted, "count", 0)
    monkeypatch.setattr(log, "open_regular", open_counted)
    return Counted


@pytest.fixture
def peak() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


def test_of_a_long_log_the_tail_reads_the_end_only(tmp_path: Path, counted: type[Counted]) -> None:
    (path := tmp_path / "log.txt").write_text("a line of a log\n" * (20 * MB // 16))
    assert len(tail(path, 100)) == 100
    assert counted.count <= 2 * BLOCK_BYTES


def test_of_a_line_without_an_end_the_tail_reads_the_end_only(tmp_path: Path, counted: type[Counted]) -> None:
    (path := tmp_path / "log.txt").write_text("." * 20 * MB)
    assert len(tail(path, 3)) == 3
    assert counted.count <= 6 * LINE_BYTES


@pytest.mark.usefixtures("peak")
@pytest.mark.parametrize("end", ["\n", "."], ids=["lines", "a line without an end"])
def test_reading_a_long_log_takes_the_memory_of_a_block(end: str, tmp_path: Path, counted: type[Counted]) -> None:
    (path := tmp_path / "log.txt").write_text(("." * 1023 + end) * (20 * MB // 1024))
    tracemalloc.reset_peak()
    count = sum(len(body) for _, body in read_blocks(path, is_last=True) for _ in [sum(1 for _ in lines_of(body))])
    assert count == counted.count == 20 * MB
    assert tracemalloc.get_traced_memory()[1] < 4 * MB
