"""The blocks of the KV cache: which are free, which sequences hold them, and which hold a prefix that a later prompt may share.

A block is room for the keys and values of `BLOCK_TOKENS` tokens, in all layers. This is bookkeeping alone: what is in a block
is the executor's.

*Prefix cache.* What attention stores of a token depends on the tokens before it and on nothing else. So a full block is known
by a key, the hash of its tokens and of the key of the block before: equal keys mean equal prefixes. A prompt that begins with
blocks that are here shares them, with a reference each, instead of computing them again.

    free    nobody's, and nothing worth keeping in it
    held    by one sequence or several: as many references
    idle    held by none, but its key is known: the first to be taken when no block is free is the one that was left first

*Neighbours.* Attention reads a sequence fastest where its blocks follow one another, so that they are one stretch of memory.
A new sequence is put where it has `GROWTH_BLOCKS` before it, for the sequence that ends there to grow into:

    [A A A A . . . . B B . . . . C C C . . . .]        . free
             ^ A grows here

That is a preference. Where there is no such place, blocks come from wherever they are, and every answer stays the same.
"""

from array import array
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from hashlib import blake2b

BLOCK_TOKENS = 32
"""As OpenVINO's attention has them (`executor_openvino.py`)."""
GROWTH_BLOCKS = 16
FREE, TAKEN = 1, 0


class BlockPool:
    """`size` blocks, numbered from 0. keeps_prefixes: whether full blocks can be shared with later sequences."""

    def __init__(self, size: int, keeps_prefixes: bool = True) -> None:
        self.size = size
        self._growth = min(GROWTH_BLOCKS, size // 16)
        self._keeps_prefixes = keeps_prefixes
        self._map = bytearray([FREE]) * size
        self._free_count = size
        self._references: Counter[int] = Counter()
        self._keys: dict[int, bytes] = {}
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

    def match(self, keys: Sequence[bytes]) -> tuple[int, ...]:
        """Return the blocks of the longest prefix of `keys` that is here."""
        blocks = []
        for key in keys:
            if key not in self._blocks:
                break
            blocks.append(self._blocks[key])
        return tuple(blocks)

    def share(self, blocks: Iterable[int]) -> None:
        """Count one more sequence that holds these blocks, which `match` has returned."""
        for block in blocks:
            self._references[block] += 1
            self._idle.pop(block, None)

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
        """Say that a block is full, and by which key it is known. Where another one is known by it, this one isn't."""
        if self._keeps_prefixes and key not in self._blocks:
            self._keys[block], self._blocks[key] = key, block

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
        del self._blocks[self._keys.pop(block)]
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


def block_keys(root: bytes, token_ids: Sequence[int], keys: Sequence[bytes] = ()) -> tuple[bytes, ...]:
    """Return the keys of the full blocks of a sequence, of which the first `keys` are known.

    root: what else decides what attention stores, or who may share it: the adapter, a salt.
    """
    all_keys = list(keys)
    for end in range((len(keys) + 1) * BLOCK_TOKENS, len(token_ids) + 1, BLOCK_TOKENS):
        before = all_keys[-1] if all_keys else root
        tokens = array("q", token_ids[end - BLOCK_TOKENS : end]).tobytes()
        all_keys.append(blake2b(before + tokens, digest_size=16).digest())
    return tuple(all_keys)


def block_count(tokens: int) -> int:
    """Return how many blocks so many tokens need."""
    return -(-tokens // BLOCK_TOKENS)
