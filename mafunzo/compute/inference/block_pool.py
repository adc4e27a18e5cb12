"""The blocks of the KV cache: which are free, which sequences hold them, and which hold a prefix that a later prompt may share.

A block is room for the keys and values of `BLOCK_TOKENS` tokens, in all layers. This is bookkeeping alone: what is in a block
is the executor's.

*Prefix cache.* What attention stores of a token depends on the tokens before it and on nothing else. So the tokens of a
sequence have a key every `SHARE_TOKENS`, the hash of these tokens and of the key before: equal keys mean equal prefixes.
A block is known by the key of its end once it is full, and by those within it:

    keys         a   b   c   d   e   f   g   h   i        (here two tokens a key, and four keys a block)
    tokens     T T T T T T T T T T T T T T T T T T T
    blocks    [       3       ][       4       ][  7           3 is known by a, b, c and d; 7 by i

A prompt that begins with full blocks that are here shares them, with a reference each, instead of computing them again. Of
the next block it may have some keys only: who holds a block may write to what is left of it, so that this one isn't shared,
but copied to a block of the prompt's own (copy-on-write).

    free    nobody's, and nothing worth keeping in it
    held    by one sequence or several: as many references
    idle    held by none, but a key of it is known: the first to be taken when no block is free is the one that was left first

*Neighbours.* Attention reads a sequence fastest where its blocks follow one another, so that they are one stretch of memory.
A new sequence is put where it has `GROWTH_BLOCKS` before it, for the sequence that ends there to grow into:

    [A A A A . . . . B B . . . . C C C . . . .]        . free
             ^ A grows here

That is a preference. Where there is no such place, blocks come from wherever they are, and every answer stays the same.
"""

from array import array
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

BLOCK_TOKENS = 32
"""As OpenVINO's attention has them (`executor_openvino.py`)."""
SHARE_TOKENS = 8
"""Prefixes are shared in multiples of so many tokens; `BLOCK_TOKENS` is a multiple of it.

How much of a prompt was found is told to its sender (`cached_tokens`, and the time to the first token). Were it told token by
token, whoever tries prompts could complete another's one token at a time, by as many tries as the vocabulary has tokens. So he
has to have the next eight right at once. A least number of tokens alone wouldn't do: beyond it there'd be one at a time again.
Sixteen would be safer still, but a system prompt of 200 tokens, which is 25 times 8, would be computed from 192 on.
"""
KEYS_PER_BLOCK = BLOCK_TOKENS // SHARE_TOKENS
GROWTH_BLOCKS = 16
FREE, TAKEN = 1, 0


@dataclass(frozen=True)
class Prefix:
    """What needn't be computed of a sequence that comes in: `tokens`, from its beginning on.

    blocks: full ones, that it shares. source: the block that the rest is copied from, to the sequence's own next one; None
    where there is no rest.
    """

    blocks: tuple[int, ...] = ()
    source: int | None = None
    tokens: int = 0


class BlockPool:
    """`size` blocks, numbered from 0. keeps_prefixes: whether what is in them can serve later sequences."""

    def __init__(self, size: int, keeps_prefixes: bool = True) -> None:
        self.size = size
        self._growth = min(GROWTH_BLOCKS, size // 16)
        self._keeps_prefixes = keeps_prefixes
        self._map = bytearray([FREE]) * size
        self._free_count = size
        self._references: Counter[int] = Counter()
        self._keys: dict[int, list[bytes]] = {}
        self._blocks: dict[bytes, int] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()

    @property
    def available(self) -> int:
        """How many blocks can be taken: those that are free, and those that only a later prompt might have use for."""
        return self._free_count + len(self._idle)

    @property
    def is_empty(self) -> bool:
        """Whether no block holds anything."""
        return self._free_count == self.size

    def references(self, block: int) -> int:
        """Return how many sequences hold a block."""
        return self._references[block]

    def match(self, keys: Sequence[bytes]) -> Prefix:
        """Return the longest prefix that is here of the tokens that have these keys (`prefix_keys`)."""
        blocks: list[int] = []
        for key in keys[KEYS_PER_BLOCK - 1 :: KEYS_PER_BLOCK]:
            if key not in self._blocks:
                break
            blocks.append(self._blocks[key])
        first = len(blocks) * KEYS_PER_BLOCK
        rest = keys[first : first + KEYS_PER_BLOCK]
        count = next((count for count in range(len(rest), 0, -1) if rest[count - 1] in self._blocks), 0)
        source = self._blocks[rest[count - 1]] if count else None
        return Prefix(tuple(blocks), source, (first + count) * SHARE_TOKENS)

    def share(self, blocks: Iterable[int]) -> None:
        """Count one more sequence that holds these blocks, which are full."""
        for block in blocks:
            self._references[block] += 1
            self._idle.pop(block, None)

    def renew(self, block: int) -> None:
        """Have an idle block be the last to be taken, as one that was left just now: it has been of use."""
        if block in self._idle:
            self._idle.move_to_end(block)

    def take(self, count: int, after: int | None = None) -> tuple[int, ...]:
        """Return `count` blocks that were free or idle, which now have one holder; if possible those that follow `after`."""
        assert count <= self.available
        while self._free_count < count or (self._idle and self._free_count < count + self._growth):
            self._forget_oldest()
        start = None if after is None else after + 1
        if start is None or self._map[start : start + count] != bytearray([FREE]) * count:
            start = self._place(count)
        if start is not None:
            return self._hold(range(start, start + count))
        return self._hold(self._pieces(count))

    def publish(self, block: int, key: bytes) -> None:
        """Say that a block has the tokens up to this key. Where another one is known by it, this one isn't."""
        if self._keeps_prefixes and key not in self._blocks:
            self._keys.setdefault(block, []).append(key)
            self._blocks[key] = block

    def release(self, blocks: Sequence[int]) -> None:
        """Count one sequence less that holds these blocks. The end of a prefix is taken before its beginning."""
        for block in reversed(blocks):
            self._references[block] -= 1
            if self._references[block]:
                continue
            del self._references[block]
            if block in self._keys:
                self._idle[block] = None
            else:
                self._map[block] = FREE
                self._free_count += 1

    def _forget_oldest(self) -> None:
        block, _ = self._idle.popitem(last=False)
        for key in self._keys.pop(block):
            del self._blocks[key]
        self._map[block] = FREE
        self._free_count += 1

    def _place(self, count: int) -> int | None:
        """Return the first of `count` free neighbours with room before them, or as much of it as there is, or None."""
        for room in (self._growth, self._growth // 4, 0):
            start = self._map.find(bytearray([FREE]) * (room + count))
            if start >= 0:
                return start + room if start else 0
        return None

    def _pieces(self, count: int) -> list[int]:
        """Return free blocks in as few pieces as a simple search finds."""
        blocks: list[int] = []
        length = count
        while len(blocks) < count:
            length = min(length, count - len(blocks))
            start = self._map.find(bytearray([FREE]) * length, blocks[-1] + 1 if blocks else 0)
            if start >= 0:
                blocks += range(start, start + length)
            elif length > 1:
                length //= 2
            else:
                blocks += self._pieces_before(blocks, count - len(blocks))
        return blocks

    def _pieces_before(self, blocks: Sequence[int], count: int) -> list[int]:
        """Return free blocks from the beginning of the pool on, beside those that are chosen already."""
        chosen = set(blocks)
        free = (block for block in range(self.size) if self._map[block] == FREE and block not in chosen)
        return [next(free) for _ in range(count)]

    def _hold(self, blocks: Sequence[int]) -> tuple[int, ...]:
        for block in blocks:
            self._map[block] = TAKEN
            self._references[block] = 1
        self._free_count -= len(blocks)
        return tuple(blocks)


def prefix_keys(root: bytes, token_ids: Sequence[int], keys: Sequence[bytes] = ()) -> tuple[bytes, ...]:
    """Return a sequence's keys, one for each `SHARE_TOKENS` that are full, of which the first `keys` are known.

    root: what else decides what attention stores, or who may share it: the adapter, a salt.
    """
    all_keys = list(keys)
    for end in range((len(keys) + 1) * SHARE_TOKENS, len(token_ids) + 1, SHARE_TOKENS):
        before = all_keys[-1] if all_keys else root
        tokens = array("q", token_ids[end - SHARE_TOKENS : end]).tobytes()
        all_keys.append(blake2b(before + tokens, digest_size=16).digest())
    return tuple(all_keys)


def block_count(tokens: int) -> int:
    """Return how many blocks so many tokens need."""
    return -(-tokens // BLOCK_TOKENS)
