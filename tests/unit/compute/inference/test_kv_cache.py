"""Rows of the cache: who is where, and how much memory they take."""

import pytest
import torch

from mafunzo.compute.inference.kv_cache import BLOCK_TOKENS, SlotCache

HEADS, WIDTH = 2, 4


def write(cache: SlotCache, value: float, rows: int, count: int) -> torch.Tensor:
    """Write tokens of one value as a network would; return the keys that it would see."""
    states = torch.full((rows, HEADS, count, WIDTH), value)
    keys, values = cache.update(states, -states, 0)
    assert torch.equal(keys, -values)
    cache.advance()
    return keys


def prefill(cache: SlotCache, id: int, count: int) -> torch.Tensor:
    positions = cache.open_prefill(id, count)
    start = cache.lengths[cache.ids.index(id)]
    assert positions.tolist() == [list(range(start, start + count))]
    return write(cache, float(id), 1, count)


def contents(cache: SlotCache) -> dict[int, list[float]]:
    """Return the value of each token of each sequence, by id."""
    keys = cache.layers[0].keys
    return {
        id: keys[row, 0, :length, 0].tolist()
        for row, (id, length) in enumerate(zip(cache.ids, cache.lengths, strict=True))
    }


@pytest.fixture
def cache() -> SlotCache:
    return SlotCache(1, torch.device("cpu"))


def test_a_prefill_sees_its_own_row_only(cache: SlotCache) -> None:
    prefill(cache, 1, 5)
    prefill(cache, 2, 3)
    keys = prefill(cache, 2, 4)
    assert keys.shape == (1, HEADS, 7, WIDTH)
    assert (keys == 2).all()


def test_a_decode_step_writes_to_each_row_at_its_own_length(cache: SlotCache) -> None:
    prefill(cache, 1, 5)
    prefill(cache, 2, 3)
    assert cache.open_decode(2).tolist() == [[5], [3]]
    assert cache.get_mask_sizes(1, 0) == (6, 0)
    assert cache.get_query_offset() is not None
    write(cache, 9.0, 2, 1)
    assert contents(cache) == {1: [1.0] * 5 + [9.0], 2: [2.0] * 3 + [9.0]}


def test_what_was_not_counted_is_written_over(cache: SlotCache) -> None:
    prefill(cache, 1, 5)
    cache.open_prefill(1, 2)
    cache.update(torch.full((1, HEADS, 2, WIDTH), 7.0), torch.zeros(1, HEADS, 2, WIDTH), 0)
    prefill(cache, 1, 1)
    assert contents(cache) == {1: [1.0] * 6}


@pytest.mark.parametrize("leaves", [1, 2, 3, 4, 5])
def test_whoever_leaves_the_rows_stay_dense_and_the_last_stays_the_last(cache: SlotCache, leaves: int) -> None:
    for id in (1, 2, 3, 4, 5):
        prefill(cache, id, 2 * id)
    cache.free(leaves)
    assert contents(cache) == {id: [float(id)] * (2 * id) for id in cache.ids}
    assert set(cache.ids) == {1, 2, 3, 4, 5} - {leaves}
    assert cache.ids[-1] == (4 if leaves == 5 else 5)


def test_freeing_a_stranger_changes_nothing(cache: SlotCache) -> None:
    prefill(cache, 1, 2)
    cache.free(99)
    assert cache.ids == [1]


def test_room_grows_with_what_is_in_use_and_keeps_what_is_written(cache: SlotCache) -> None:
    for id in range(1, 6):
        prefill(cache, id, 100)
    slots, _, tokens, _ = cache.layers[0].keys.shape
    assert (slots, tokens) == (8, BLOCK_TOKENS)
    prefill(cache, 3, 500)
    assert contents(cache)[3] == [3.0] * 600
    assert contents(cache)[5] == [5.0] * 100
    assert cache.layers[0].keys.shape[2] < 600 * 1.25 + BLOCK_TOKENS


def test_a_long_row_that_left_does_not_make_new_rows_long(cache: SlotCache) -> None:
    prefill(cache, 1, 5000)
    prefill(cache, 2, 10)
    cache.free(1)
    for id in range(3, 8):
        prefill(cache, id, 10)
    slots, _, tokens, _ = cache.layers[0].keys.shape
    assert slots * tokens <= 8 * BLOCK_TOKENS
    assert contents(cache) == {id: [float(id)] * 10 for id in cache.ids}


def test_an_empty_cache_holds_no_memory(cache: SlotCache) -> None:
    prefill(cache, 1, 10)
    cache.free(1)
    assert cache.layers[0].keys is None
    assert (prefill(cache, 2, 3) == 2).all()


def test_room_to_grow_is_not_taken_beyond_the_limit() -> None:
    cache = SlotCache(1, torch.device("cpu"), most_tokens=1000)
    for id in range(1, 6):
        prefill(cache, id, 180)
        slots, _, tokens, _ = cache.layers[0].keys.shape
        assert slots * tokens <= 1000
    assert (slots, tokens) == (5, 200)
    prefill(cache, 5, 20)
    assert cache.layers[0].keys.shape[0] * cache.layers[0].keys.shape[2] == 1000
    assert contents(cache) == {id: [float(id)] * (200 if id == 5 else 180) for id in range(1, 6)}
