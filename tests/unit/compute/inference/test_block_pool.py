"""Blocks: taken, shared, forgotten in their order, and never held twice."""

import random

import pytest

from mafunzo.compute.inference.block_pool import (
    BLOCK_TOKENS,
    KEYS_PER_BLOCK,
    SHARE_TOKENS,
    BlockPool,
    Prefix,
    block_count,
    prefix_keys,
)


def keys(*names: bytes) -> list[bytes]:
    """Return all keys of full blocks, by the names of the blocks."""
    return [b"%s %d" % (name, i) for name in names for i in range(KEYS_PER_BLOCK)]


def published(pool: BlockPool, *names: bytes) -> tuple[int, ...]:
    """Take a block for each name, publish all of its keys, and leave it."""
    blocks = pool.take(len(names))
    for block, name in zip(blocks, names, strict=True):
        for key in keys(name):
            pool.publish(block, key)
    pool.release(blocks)
    return blocks


def test_a_key_tells_the_whole_prefix_and_who_may_share_it() -> None:
    tokens = list(range(3 * SHARE_TOKENS + 5))
    all_keys = prefix_keys(b"", tokens)
    assert len(all_keys) == 3
    assert prefix_keys(b"", tokens[: 2 * SHARE_TOKENS]) == all_keys[:2]
    assert prefix_keys(b"", tokens, all_keys[:1]) == all_keys
    assert prefix_keys(b"", [9, *tokens[1:]])[2] != all_keys[2]
    assert not set(prefix_keys(b"an adapter", tokens)) & set(all_keys)
    assert prefix_keys(b"", tokens[: SHARE_TOKENS - 1]) == ()


def test_a_block_ends_where_a_key_does() -> None:
    assert BLOCK_TOKENS == KEYS_PER_BLOCK * SHARE_TOKENS


@pytest.mark.parametrize(("tokens", "blocks"), [(0, 0), (1, 1), (32, 1), (33, 2), (320, 10)])
def test_tokens_need_so_many_blocks(tokens: int, blocks: int) -> None:
    assert block_count(tokens) == blocks


def test_a_prefix_is_there_as_far_as_each_of_its_blocks_is() -> None:
    pool = BlockPool(10)
    blocks = published(pool, b"a", b"b", b"c")
    assert pool.match(keys(b"a", b"b", b"x", b"c")) == Prefix(blocks[:2], None, 2 * BLOCK_TOKENS)
    assert pool.match(keys(b"x", b"a")) == Prefix()
    assert pool.match([]) == Prefix()


def test_of_a_block_that_isnt_wanted_whole_its_beginning_is_copied() -> None:
    pool = BlockPool(10)
    first, second = published(pool, b"a", b"b")
    for count in range(1, KEYS_PER_BLOCK):
        more = count * SHARE_TOKENS
        assert pool.match(keys(b"a", b"b")[: KEYS_PER_BLOCK + count]) == Prefix((first,), second, BLOCK_TOKENS + more)
        assert pool.match([*keys(b"a")[:count], *keys(b"x")[count:], *keys(b"b")]) == Prefix((), first, more)


def test_a_block_that_isnt_full_is_a_source_while_it_is_held_and_when_it_was_left() -> None:
    pool = BlockPool(10)
    [block] = pool.take(1)
    for key in keys(b"a")[:2]:
        pool.publish(block, key)
    found = Prefix((), block, 2 * SHARE_TOKENS)
    assert pool.match(keys(b"a")) == found
    pool.release([block])
    assert pool.match(keys(b"a")) == found
    assert (pool.available, pool.is_empty) == (10, False)
    pool.take(10)
    assert pool.match(keys(b"a")) == Prefix()


def test_the_source_is_the_block_that_has_most() -> None:
    pool = BlockPool(10)
    blocks = pool.take(KEYS_PER_BLOCK - 1)
    for i, block in enumerate(blocks):
        for key in keys(b"a")[: i + 1]:
            pool.publish(block, key)
    for count in range(1, KEYS_PER_BLOCK):
        assert pool.match(keys(b"a")[:count]) == Prefix((), blocks[count - 1], count * SHARE_TOKENS)


def test_a_source_that_was_of_use_is_forgotten_last() -> None:
    pool = BlockPool(3)
    blocks = [published(pool, name)[0] for name in (b"a", b"b", b"c")]
    pool.renew(blocks[0])
    held = pool.take(2)
    assert set(held) == {blocks[1], blocks[2]} and pool.match(keys(b"a")).blocks == (blocks[0],)
    pool.renew(held[0])
    assert pool.available == 1, "one that is held stays so"


def test_a_shared_block_is_held_until_the_last_has_left_it() -> None:
    pool = BlockPool(2)
    [block] = published(pool, b"a")
    pool.share([block])
    pool.share([block])
    assert (pool.references(block), pool.available) == (2, 1)
    pool.release([block])
    assert pool.available == 1
    pool.release([block])
    assert pool.available == 2 and pool.match(keys(b"a")).blocks == (block,)


def test_the_one_that_was_left_first_is_forgotten_first_and_an_end_before_its_beginning() -> None:
    pool, names = BlockPool(5), (b"a", b"b", b"x", b"y")
    published(pool, b"a", b"b")
    published(pool, b"x", b"y")
    pool.share(blocks := pool.match(keys(b"a")).blocks)
    pool.release(blocks)
    forgotten = []
    for _ in range(4):
        known = {name for name in names if pool.match(keys(name)).tokens}
        pool.take(2 if not forgotten else 1)
        forgotten += [name for name in names if name in known and not pool.match(keys(name)).tokens]
    assert forgotten == [b"b", b"y", b"x", b"a"]


def test_a_second_block_of_the_same_content_is_nobodys_once_it_is_left() -> None:
    pool = BlockPool(4)
    first, second = pool.take(1), pool.take(1)
    for block in (*first, *second):
        for key in keys(b"a"):
            pool.publish(block, key)
    pool.release(first)
    pool.release(second)
    assert pool.match(keys(b"a")).blocks == first
    published(pool, b"b", b"c", b"d")
    assert pool.match(keys(b"b")).blocks and pool.match(keys(b"d")).blocks


def test_a_pool_that_keeps_no_prefixes_is_empty_when_all_have_left() -> None:
    pool = BlockPool(4, keeps_prefixes=False)
    published(pool, b"a", b"b")
    assert pool.is_empty and pool.match(keys(b"a")) == Prefix()


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
