"""The KV cache: keys and values in blocks, as a `transformers` cache, so that a step is one forward for many sequences.

Each layer holds K and V as [heads, tokens, D], where block `b` is the tokens from `b * BLOCK_TOKENS` on. Whose a block is
isn't known here: a forward comes with the block table of each of its rows (`open`).

    tokens     0    16   32   48   64   80
               [ b0 ][ b1 ][ b2 ][ b3 ][ b4 ]
    table A    0, 1          one run: a view of K, nothing is copied
    table B    3, 4, 1       two runs: attention reads both and adds up, or they are concatenated first

Why heads come first, and blocks aren't gathered: on a CPU, reading a sequence where it lies costs what reading it must, and
gathering the blocks of sixteen sequences at each step took five to seven times as long as the attention itself (264 tokens
each, one core with AVX-512, float32). So the pool places a sequence's blocks one after another where it can (`block_pool.py`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from mafunzo.compute.inference.block_pool import BLOCK_TOKENS
from mafunzo.compute.inference.executor import Row

Run = tuple[int, int]
"""Tokens that follow one another in memory: the first, and how many."""


@dataclass(frozen=True)
class Segment:
    """A row in the line of all tokens that a forward runs: `columns` of it, positions `start` on, and where its tokens lie."""

    columns: slice
    start: int
    runs: tuple[Run, ...]

    @property
    def count(self) -> int:
        return int(self.columns.stop - self.columns.start)

    @property
    def end(self) -> int:
        """How many tokens it has, those of this forward included."""
        return self.start + self.count


class Window:
    """What the next forward reads and writes, shared by all layers.

    places_N: where each of its tokens is written. positions: [1, N].
    """

    def __init__(self, rows: Sequence[Row], device: torch.device) -> None:
        segments: list[Segment] = []
        places: list[int] = []
        positions: list[int] = []
        for row in rows:
            first, count = len(places), len(row.token_ids)
            runs = clipped(memory_runs(row.blocks), 0, row.end)
            for start, length in clipped(runs, row.start, count):
                places += range(start, start + length)
            positions += range(row.start, row.end)
            segments.append(Segment(slice(first, first + count), row.start, runs))
        self.segments = tuple(segments)
        self.places_N = torch.tensor(places, device=device)
        self.positions = torch.tensor([positions], device=device)

    @property
    def longest(self) -> int:
        return max(segment.end for segment in self.segments)


class PagedLayer(CacheLayerMixin):  # type: ignore[misc]
    """One layer's K and V. What hasn't been written is never read."""

    is_sliding = False
    keys: Any  # Tensor, or None while the cache is empty
    values: Any

    def __init__(self) -> None:
        super().__init__()
        self.window: Window | None = None
        self.tokens = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.keys = key_states.new_empty((key_states.shape[1], 0, key_states.shape[3]))
        self.values = value_states.new_empty((value_states.shape[1], 0, value_states.shape[3]))
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write the window's tokens; return all that the layer holds, [1, heads, tokens, D]."""
        window = self.window
        assert window is not None
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.keys = _with_room(self.keys, self.tokens)
        self.values = _with_room(self.values, self.tokens)
        self.keys.index_copy_(1, window.places_N, key_states[0])
        self.values.index_copy_(1, window.places_N, value_states[0])
        return self.keys[None], self.values[None]

    def copy(self, sources_N: Tensor, targets_N: Tensor, tokens: int) -> None:
        """Copy tokens from places to others, all at once, in a layer with room for so many."""
        self.keys, self.values = _with_room(self.keys, tokens), _with_room(self.values, tokens)
        self.keys.index_copy_(1, targets_N, self.keys.index_select(1, sources_N))
        self.values.index_copy_(1, targets_N, self.values.index_select(1, sources_N))

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return how many tokens the longest row sees, and the first one's position."""
        assert self.window is not None
        return self.window.longest, 0

    def get_seq_length(self) -> int:
        """Return the longest row's length before the forward."""
        return 0 if self.window is None else max(segment.start for segment in self.window.segments)

    def get_max_length(self) -> int:
        """Return that there is no maximum, in transformers' convention."""
        return -1

    def clear(self) -> None:
        """Give the memory back."""
        self.keys = self.values = None
        self.is_initialized = False


class PagedCache(Cache):  # type: ignore[misc]
    """The blocks of all layers. A forward is announced by `open`, then run.

    most_tokens: what the blocks have room for, None for no limit. Memory is taken as blocks are used, the lowest first.
    """

    def __init__(self, layers: int, device: torch.device, most_tokens: int | None = None) -> None:
        super().__init__(layers=[PagedLayer() for _ in range(layers)])
        self.device = device
        self.most_tokens = most_tokens
        self._window: Window | None = None

    def open(self, rows: Sequence[Row]) -> Window:
        """Announce the tokens of some sequences; each table has blocks for them."""
        window = self._window = Window(rows, self.device)
        tokens = self._room((max(max(row.blocks) for row in rows) + 1) * BLOCK_TOKENS)
        for layer in self.layers:
            layer.window, layer.tokens = window, tokens
        return window

    def copy(self, copies: Sequence[tuple[int, int]]) -> None:
        """Copy blocks, (source, target) each; a source has been written. All at once: each is copied as it was before."""
        tokens = self._room((max(target for _, target in copies) + 1) * BLOCK_TOKENS)
        sources_N, targets_N = (_places(blocks).to(self.device) for blocks in zip(*copies, strict=True))
        for layer in self.layers:
            layer.copy(sources_N, targets_N, tokens)

    def clear(self) -> None:
        """Give all memory back."""
        for layer in self.layers:
            layer.clear()

    def get_query_offset(self, layer_idx: int = 0) -> Window:
        """Return what our mask function (`attention.py`) needs, in the place of one position for all rows."""
        assert self._window is not None
        return self._window

    def _room(self, needed: int) -> int:
        """Return how many tokens a layer is to have room for: what all have already, or what is needed and room to grow.

        What they have is looked up, not remembered: where memory ran out half-way, later ones ask for what they need.
        """
        held = min((layer.keys.shape[1] for layer in self.layers if layer.is_initialized), default=0)
        if needed <= held:
            return int(held)
        room = needed + needed // 2
        return room if self.most_tokens is None else max(needed, min(room, self.most_tokens))


@lru_cache(maxsize=1024)
def memory_runs(blocks: tuple[int, ...]) -> tuple[Run, ...]:
    """Return where the tokens of a block table lie, in their order, in as few runs as there are."""
    runs: list[Run] = []
    for block in blocks:
        start = block * BLOCK_TOKENS
        if runs and sum(runs[-1]) == start:
            runs[-1] = (runs[-1][0], runs[-1][1] + BLOCK_TOKENS)
        else:
            runs.append((start, BLOCK_TOKENS))
    return tuple(runs)


def clipped(runs: Iterable[Run], skipped: int, count: int) -> tuple[Run, ...]:
    """Return the runs of `count` tokens after the first `skipped`."""
    parts = []
    for start, length in runs:
        first, last = min(skipped, length), min(skipped + count, length)
        if first < last:
            parts.append((start + first, last - first))
        skipped, count = skipped - first, count - (last - first)
    return tuple(parts)


def _places(blocks: Sequence[int]) -> Tensor:
    """Return the places of all tokens of some blocks."""
    return torch.tensor(
        [place for block in blocks for place in range(block * BLOCK_TOKENS, (block + 1) * BLOCK_TOKENS)]
    )


def _with_room(states: Tensor, tokens: int) -> Tensor:
    if states.shape[1] >= tokens:
        return states
    larger = states.new_empty((states.shape[0], tokens, states.shape[2]))
    larger[:, : states.shape[1]] = states
    return larger
