"""Blocks: taken, shared, forgotten in their order, and never held twice."""

import random

import pytest

from mafunzo.compute.inference.block_pool import BLOCK_TOKENS, BlockPool, block_count, block_keys


def published(pool: BlockPool, *keys: bytes) -> tuple[int, ...]:
    """Take a block for each key, publish it, and leave it."""
    blocks = pool.take(len(keys))
    for block, key in zip(blocks, keys, strict=True):
        pool.publish(block, key)
    pool.release(blocks)
    return blocks


def test_a_key_tells_the_whole_prefix_and_who_may_share_it() -> None:
    tokens = list(range(3 * BLOCK_TOKENS + 5))
    keys = block_keys(b"", tokens)
    assert len(keys) == 3
    assert block_keys(b"", tokens[: 2 * BLOCK_TOKENS]) == keys[:2]
    assert block_keys(b"", tokens, keys[:1]) == keys
    assert block_keys(b"", [9, *tokens[1:]])[2] != keys[2]
    assert not set(block_keys(b"an adapter", tokens)) & set(keys)
    assert block_keys(b"", tokens[: BLOCK_TOKENS - 1]) == ()


@pytest.mark.parametrize(("tokens", "blocks"), [(0, 0), (1, 1), (32, 1), (33, 2), (320, 10)])
def test_tokens_need_so_many_blocks(tokens: int, blocks: int) -> None:
    assert block_count(tokens) == blocks


def test_a_prefix_is_there_as_far_as_each_of_its_blocks_is() -> None:
    pool = BlockPool(10)
    blocks = published(pool, b"a", b"b", b"c")
    assert pool.match([b"a", b"b", b"x", b"c"]) == blocks[:2]
    assert pool.match([b"x", b"a"]) == ()


def test_a_shared_block_is_held_until_the_last_has_left_it() -> None:
    pool = BlockPool(2)
    [block] = published(pool, b"a")
    pool.share([block])
    pool.share([block])
    assert (pool.references(block), pool.available) == (2, 1)
    pool.release([block])
    assert pool.available == 1
    pool.release([block])
    assert pool.available == 2 and pool.match([b"a"]) == (block,)


def test_the_one_that_was_left_first_is_forgotten_first_and_an_end_before_its_beginning() -> None:
    pool = BlockPool(5)
    published(pool, b"a", b"b")
    published(pool, b"x", b"y")
    pool.share(blocks := pool.match([b"a"]))
    pool.release(blocks)
    forgotten = []
    for _ in range(4):
        known = {key for key in (b"a", b"b", b"x", b"y") if pool.match([key])}
        pool.take(2 if not forgotten else 1)
        forgotten += [key for key in (b"a", b"b", b"x", b"y") if key in known and not pool.match([key])]
    assert forgotten == [b"b", b"y", b"x", b"a"]


def test_a_second_block_of_the_same_content_is_nobodys_once_it_is_left() -> None:
    pool = BlockPool(4)
    first, second = pool.take(1), pool.take(1)
    pool.publish(first[0], b"a")
    pool.publish(second[0], b"a")
    pool.release(first)
    pool.release(second)
    assert pool.match([b"a"]) == first
    published(pool, b"b", b"c", b"d")
    assert pool.match([b"b"]) and pool.match([b"d"])


def test_a_pool_that_keeps_no_prefixes_is_empty_when_all_have_left() -> None:
    pool = BlockPool(4, keeps_prefixes=False)
    published(pool, b"a", b"b")
    assert pool.is_empty and pool.match([b"a"]) == ()


def test_sequences_that_grow_beside_one_another_stay_in_one_piece() -> None:
    pool = BlockPool(1024)
    tables = [list(pool.take(13)) for _ in range(8)]
    for _ in range(12):
        for table in tables:
            table += pool.take(1, table[-1])
    assert all(table == list(range(table[0], table[0] + 25)) for table in tables)


def test_where_no_neighbours_are_free_blocks_come_from_anywhere() -> None:
    pool = BlockPool(9)
    everything = pool.take(9)
    pool.release(everything[1::2])
    assert sorted(pool.take(4)) == [1, 3, 5, 7]
    assert pool.available == 0


def test_a_table_goes_on_after_its_last_block_where_it_can() -> None:
    pool = BlockPool(64)
    first = pool.take(3)
    assert pool.take(2, first[-1]) == (3, 4)


@pytest.mark.parametrize("seed", range(30))
def test_whatever_is_taken_and_left_no_block_is_held_twice_or_lost(seed: int) -> None:
    draw = random.Random(seed)
    pool = BlockPool(draw.randrange(1, 200))
    tables: list[tuple[int, ...]] = []
    for number in range(300):
        if tables and (draw.random() < 0.45 or not pool.available):
            pool.release(tables.pop(draw.randrange(len(tables))))
        else:
            count = draw.randrange(1, min(pool.available, 40) + 1)
            after = tables[-1][-1] if tables and draw.random() < 0.3 else None
            tables.append(pool.take(count, after))
            assert len(tables[-1]) == count
            for block in tables[-1]:
                if draw.random() < 0.5:
                    pool.publish(block, b"%d %d" % (number, block))
        held = [block for table in tables for block in table]
        assert len(set(held)) == len(held) and all(0 <= block < pool.size for block in held)
        assert pool.available == pool.size - len(held)
    for table in tables:
        pool.release(table)
    assert pool.available == pool.size
