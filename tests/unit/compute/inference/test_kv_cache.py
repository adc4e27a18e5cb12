"""Blocks of the cache: what is written where, and how much memory they take."""

import pytest
import torch

from mafunzo.compute.inference import kv_cache
from mafunzo.compute.inference.block_pool import BLOCK_TOKENS
from mafunzo.compute.inference.executor import Row
from mafunzo.compute.inference.kv_cache import PagedCache, clipped, memory_runs

HEADS, WIDTH = 2, 4


def write(cache: PagedCache, value: float, *rows: Row) -> torch.Tensor:
    """Write tokens of one value as a network would; return the keys of the layer."""
    window = cache.open(rows)
    states = torch.full((1, HEADS, len(window.places_N), WIDTH), value)
    keys, values = cache.update(states, -states, 0)
    assert keys.shape == values.shape and keys.shape[:2] == (1, HEADS)
    return keys


def row(start: int, count: int, *blocks: int) -> Row:
    return Row([5] * count, start, blocks)


def contents(cache: PagedCache, *runs: tuple[int, int]) -> list[float]:
    keys = cache.layers[0].keys
    return [float(value) for start, length in runs for value in keys[0, start : start + length, 0]]


@pytest.fixture
def cache() -> PagedCache:
    return PagedCache(1, torch.device("cpu"))


def test_a_row_writes_to_its_own_blocks_at_its_own_positions(cache: PagedCache) -> None:
    write(cache, 1.0, row(0, 40, 0, 3))
    write(cache, 2.0, row(40, 1, 0, 3), row(0, 2, 1))
    assert contents(cache, (0, 32), (96, 9)) == [1.0] * 40 + [2.0]
    assert contents(cache, (32, 2)) == [2.0] * 2
    assert torch.equal(cache.layers[0].values[:, :34], -cache.layers[0].keys[:, :34])


def test_positions_are_those_of_each_row_in_one_line(cache: PagedCache) -> None:
    window = cache.open([row(40, 1, 0, 3), row(0, 3, 1)])
    assert window.positions.tolist() == [[40, 0, 1, 2]]
    assert window.places_N.tolist() == [104, 32, 33, 34]
    assert [(segment.columns, segment.end) for segment in window.segments] == [(slice(0, 1), 41), (slice(1, 4), 3)]
    assert cache.get_mask_sizes(4, 0) == (41, 0) and cache.get_query_offset() is window


@pytest.mark.parametrize(
    ("blocks", "runs"),
    [
        pytest.param((3,), ((96, 32),), id="one block"),
        pytest.param((3, 4, 5), ((96, 96),), id="neighbours"),
        pytest.param((3, 4, 7, 8, 2), ((96, 64), (224, 64), (64, 32)), id="three runs"),
        pytest.param((4, 3), ((128, 32), (96, 32)), id="backwards they are no neighbours"),
    ],
)
def test_runs_are_as_few_as_a_table_allows(blocks: tuple[int, ...], runs: tuple[tuple[int, int], ...]) -> None:
    assert memory_runs(blocks) == runs
    assert [place for start, length in runs for place in range(start, start + length)] == [
        block * BLOCK_TOKENS + i for block in blocks for i in range(BLOCK_TOKENS)
    ]


@pytest.mark.parametrize("skipped", [0, 1, 15, 16, 17, 40])
@pytest.mark.parametrize("count", [1, 16, 23, 40])
def test_clipped_runs_are_a_slice_of_what_they_name(skipped: int, count: int) -> None:
    runs = ((48, 32), (112, 32), (32, 16))
    places = [place for start, length in runs for place in range(start, start + length)]
    parts = clipped(runs, skipped, count)
    assert [place for start, length in parts for place in range(start, start + length)] == places[skipped:][:count]
    assert all(length > 0 for _, length in parts)


def test_room_grows_with_what_is_in_use_and_keeps_what_is_written(cache: PagedCache) -> None:
    write(cache, 1.0, row(0, 32, 0))
    write(cache, 2.0, row(0, 200, *range(1, 8)))
    assert contents(cache, (0, 232)) == [1.0] * 32 + [2.0] * 200
    assert cache.layers[0].keys.shape[1] <= 1.5 * 8 * BLOCK_TOKENS
    write(cache, 3.0, row(0, 32, 40))
    assert contents(cache, (0, 232), (1280, 32)) == [1.0] * 32 + [2.0] * 200 + [3.0] * 32


def test_blocks_are_copied_all_at_once_as_they_were_and_room_is_made_for_them(cache: PagedCache) -> None:
    for block in range(4):
        write(cache, float(block), row(0, 32, block))
    cache.copy([(0, 1), (1, 0), (2, 2), (3, 50)])
    assert contents(cache, (0, 128)) == [1.0] * 32 + [0.0] * 32 + [2.0] * 32 + [3.0] * 32
    assert contents(cache, (50 * BLOCK_TOKENS, 32)) == [3.0] * 32
    written = [*range(128), *range(50 * BLOCK_TOKENS, 51 * BLOCK_TOKENS)]
    assert torch.equal(cache.layers[0].values[:, written], -cache.layers[0].keys[:, written])


def test_an_empty_cache_holds_no_memory(cache: PagedCache) -> None:
    write(cache, 1.0, row(0, 10, 9))
    cache.clear()
    assert cache.layers[0].keys is None
    assert write(cache, 2.0, row(0, 3, 0)).shape[2] <= 2 * BLOCK_TOKENS


def test_room_to_grow_is_not_taken_beyond_the_limit() -> None:
    cache = PagedCache(1, torch.device("cpu"), most_tokens=1000)
    for block in range(31):
        write(cache, float(block), row(0, 32, block))
        assert cache.layers[0].keys.shape[1] <= max(1000, (block + 1) * BLOCK_TOKENS)
    assert contents(cache, *((32 * block, 1) for block in range(31))) == [float(block) for block in range(31)]


def test_memory_that_ran_out_once_is_not_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = PagedCache(2, torch.device("cpu"))
    states = torch.ones(1, HEADS, 16, WIDTH)

    def run(block: int) -> None:
        cache.open([row(0, 16, block)])
        for layer in range(2):
            cache.update(states, states, layer)

    def refuse(tensor: torch.Tensor, tokens: int) -> torch.Tensor:
        if tokens > 1000:
            raise RuntimeError("std::bad_alloc")
        return original(tensor, tokens)

    original = kv_cache._with_room
    run(0)
    monkeypatch.setattr(kv_cache, "_with_room", refuse)
    with pytest.raises(RuntimeError, match="bad_alloc"):
        run(100)
    run(1)
    assert cache.layers[1].keys.shape[1] < 1000
