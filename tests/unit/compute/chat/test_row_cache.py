"""The token cache: blocks that survive a file's changes, entries that are whole or made anew."""

import os
from array import array
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from mafunzo.compute.chat import row_cache
from mafunzo.compute.chat.row_cache import MEAN_BLOCK, MOST_BLOCK, RowCache, blocks, tokenizer_key
from mafunzo.compute.chat.rows import PreparedRow
from mafunzo.dataset.files import RawRow

KEY = b"k" * 16
GOOD = PreparedRow(
    "",
    "messages",
    ("a note",),
    b"f" * 16,
    '{"messages": "é 👍"}',
    "",
    array("i", [5, 6, 7]).tobytes(),
    (1, 3),
    ("n", "m"),
)
ROWS = [GOOD, PreparedRow(fault="has no 'messages'"), GOOD._replace(reason="refused", ids=b"", trained=())]


def raw(number: int, **more: Any) -> RawRow:
    return RawRow("a.jsonl", number, number, {"text": f"row {number}", **more})


def keys(rows: list[RawRow]) -> list[bytes | None]:
    return [block.key for block in blocks(rows)]


def test_what_was_put_comes_back(tmp_path: Path) -> None:
    cache = RowCache(tmp_path, "t")
    assert cache.get(KEY) is None
    cache.put(KEY, ROWS)
    cache.put(KEY, ROWS)  # by another process, at the same time
    assert RowCache(tmp_path, "t").get(KEY) == ROWS
    assert RowCache(tmp_path, "other").get(KEY) is None
    cache.get(KEY)
    assert cache.rows_reused == 3
    assert [path.name for path in cache.folder.parent.iterdir()] == ["t"]
    assert cache.folder.parent.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: data[:-5], id="cut off"),
        pytest.param(lambda data: data[:100] + b"x" + data[101:], id="altered"),
        pytest.param(lambda data: b"", id="empty"),
    ],
)
def test_a_damaged_entry_is_named_and_made_again(damage: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = RowCache(tmp_path, "t")
    cache.put(KEY, ROWS)
    (entry,) = cache.folder.iterdir()
    entry.write_bytes(damage(entry.read_bytes()))
    assert cache.get(KEY) is None
    assert f"{entry.name} in the token cache is damaged" in caplog.text
    cache.put(KEY, ROWS)
    assert cache.get(KEY) == ROWS


def test_where_nothing_can_be_written_it_says_so_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "tokens").write_text("a file")
    cache = RowCache(tmp_path, "t")
    cache.put(KEY, ROWS)
    cache.put(KEY, ROWS)
    assert cache.get(KEY) is None
    assert caplog.text.count("Tokens aren't kept for the next time") == 1


def test_rows_with_half_of_a_character_in_a_reason_are_not_kept(tmp_path: Path) -> None:
    cache = RowCache(tmp_path, "t")
    cache.put(KEY, [PreparedRow(fault="has the role '\ud800'")])
    assert cache.get(KEY) is None
    cache.put(KEY, ROWS)
    assert cache.get(KEY) == ROWS


def test_an_error_in_mid_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", fail)
    cache = RowCache(tmp_path, "t")
    with pytest.raises(KeyboardInterrupt):
        cache.put(KEY, ROWS)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_the_entries_used_longest_ago_go_first(tmp_path: Path) -> None:
    cache, other = RowCache(tmp_path, "t"), RowCache(tmp_path, "other")
    names = [bytes([number]) * 16 for number in range(4)]
    for number, name in enumerate(names):
        target = other if number == 1 else cache
        target.put(name, ROWS)
        os.utime(target.folder / f"{name.hex()}.rows", (number, number))
    cache.get(names[0])  # used now
    size = (cache.folder / f"{names[0].hex()}.rows").stat().st_size
    cache.delete_oldest(limit_bytes=2 * size)
    assert [cache.get(name) is not None for name in names] == [True, False, False, True]
    assert other.get(names[1]) is None


def test_a_file_with_rows_added_taken_out_or_moved_has_most_blocks_in_common() -> None:
    rows = [raw(number) for number in range(20 * MEAN_BLOCK)]
    before = set(keys(rows))
    assert 10 < len(before) < 40
    assert max(len(block.rows) for block in blocks(rows)) <= MOST_BLOCK
    for changed in (
        [*rows, raw(-1)],
        rows[3:],
        [raw(-1), *rows],
        [*rows[:2000], *rows[2001:]],
        rows[: len(rows) * 8 // 10],
    ):
        assert len(set(keys(changed)) - before) <= 2
        assert [row for block in blocks(changed) for row in block.rows] == changed


def test_long_rows_make_small_blocks() -> None:
    rows = [raw(number, content="x" * 10_000) for number in range(300)]
    assert max(len(block.rows) for block in blocks(rows)) == 105
    assert [row for block in blocks(rows) for row in block.rows] == rows


def test_a_key_is_of_what_a_row_says_and_of_why_it_cant_be_read_wherever_it_stands() -> None:
    def key(row: RawRow) -> Any:
        return keys([row])[0]

    assert key(raw(1)) == key(RawRow("b.jsonl", 7, 9, {"text": "row " + "1"}))
    bodies: list[Any] = [
        {"text": "1"},
        {"text": 1},
        {"text": True},
        {"text": 1.0},
        {"text": None},
        {"text": "\ud800"},
        None,
    ]
    assert len({key(RawRow("", 1, 1, body)) for body in bodies}) == len(bodies)
    assert key(RawRow("", 1, 1, None, "isn't JSON")) != key(RawRow("", 1, 1, None, "is a list"))
    assert key(raw(1, day=datetime(2026, 1, 1, tzinfo=UTC))) is None


def test_the_tokenizers_key_is_of_all_that_decides_what_a_row_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [tmp_path / "tokenizer.json", tmp_path / "chat_template.jinja"]
    for file in files:
        file.write_text("{{ x }}")
    names = [tokenizer_key(files, "a"), tokenizer_key(files, "b"), tokenizer_key(files[:1], "a")]
    assert tokenizer_key(files, "a") == names[0]
    files[1].write_text("{{ y }}")
    names.append(tokenizer_key(files, "a"))
    monkeypatch.setattr(row_cache, "_code", lambda: iter([("code", b"other")]))
    names.append(tokenizer_key(files, "a"))
    names.append(tokenizer_key(files, "a", "last"))
    names.append(tokenizer_key(files, "a", "last", 64))
    assert len(set(names)) == 7


def test_a_template_that_writes_the_day_has_a_key_for_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Tomorrow(date):
        @classmethod
        def today(cls) -> "Tomorrow":
            return cls(2999, 1, 1)

    files = [tmp_path / "chat_template.jinja"]
    for template, is_of_the_day in (("{{ strftime_now('%d') }}", True), ("{{ x }}", False)):
        files[0].write_text(template)
        today = tokenizer_key(files, "a")
        with monkeypatch.context() as patch:
            patch.setattr(row_cache, "date", Tomorrow)
            assert (tokenizer_key(files, "a") != today) is is_of_the_day


def test_the_code_that_counts_is_all_that_prepares_rows() -> None:
    names = {name for name, _ in row_cache._code()}
    assert {
        "mafunzo.compute.chat/rows.py",
        "mafunzo.compute.chat/mask.py",
        "mafunzo.dataset/check.py",
        "mafunzo.entities.conversation/conversation.py",
    } <= names
