"""The KV cache: keys and values of many sequences as a `transformers` cache, so that a decode step is one batched forward.

Each layer holds K and V as [slots, heads, T, D]. The sequences are dense in rows 0..B-1, a row that is freed is filled
from the end, and the last row stays the last: it may be one that is still being prefilled, while those before it decode.
A forward runs in one of two windows: *prefill* writes the next tokens of one row, *decode* writes one token to each of
the first rows, each at its own length.
"""

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

BLOCK_TOKENS = 128


class Window:
    """Where the next forward reads and writes, shared by all layers.

    starts: the length so far of each of its rows, which are consecutive from `first_row`; it writes `count` tokens to each.
    end: how many tokens of a row the forward can see. positions: [rows, count].
    """

    def __init__(self, first_row: int, starts: list[int], count: int, device: torch.device) -> None:
        self.starts, self.count = starts, count
        self.end = max(starts) + count
        self.rows = slice(first_row, first_row + len(starts))
        self.starts_B = torch.tensor(starts, device=device)
        self.rows_B = torch.arange(len(starts), device=device) + first_row
        self.positions = self.starts_B[:, None] + torch.arange(count, device=device)

    @property
    def is_one_row(self) -> bool:
        return len(self.starts) == 1


class SlotLayer(CacheLayerMixin):  # type: ignore[misc]
    """One layer's K and V. Unwritten entries are zero: a masked NaN would still propagate through the softmax."""

    is_sliding = False
    keys: Any  # Tensor, or None while the cache is empty
    values: Any

    def __init__(self) -> None:
        super().__init__()
        self.window: Window | None = None
        self.capacity = (0, 0)

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.keys = key_states.new_zeros((0, key_states.shape[1], 0, key_states.shape[3]))
        self.values = value_states.new_zeros((0, value_states.shape[1], 0, value_states.shape[3]))
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write the window's tokens; return what its rows hold, [rows, heads, end, D], as views."""
        window = self.window
        assert window is not None
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.keys = _resized(self.keys, self.capacity)
        self.values = _resized(self.values, self.capacity)
        if window.is_one_row:
            self.keys[window.rows, :, window.starts[0] : window.end] = key_states
            self.values[window.rows, :, window.starts[0] : window.end] = value_states
        else:
            self.keys[window.rows_B, :, window.starts_B] = key_states[:, :, 0]
            self.values[window.rows_B, :, window.starts_B] = value_states[:, :, 0]
        return self.keys[window.rows, :, : window.end], self.values[window.rows, :, : window.end]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return how many tokens the queries see, and the first one's position."""
        assert self.window is not None
        return self.window.end, 0

    def get_seq_length(self) -> int:
        """Return the longest row's length before the forward."""
        return max(self.window.starts) if self.window is not None else 0

    def get_max_length(self) -> int:
        """Return that there is no maximum, in transformers' convention."""
        return -1

    def move(self, source: int, target: int, length: int) -> None:
        """Copy a row's first `length` tokens over another row."""
        if self.is_initialized:
            self.keys[target, :, :length] = self.keys[source, :, :length]
            self.values[target, :, :length] = self.values[source, :, :length]

    def clear(self) -> None:
        """Give the memory back."""
        self.keys = self.values = None
        self.is_initialized = False


class SlotCache(Cache):  # type: ignore[misc]
    """The rows, by sequence id. A forward is announced (`open_...`), run, and counted (`advance`).

    most_tokens: rows x longest row that it may have memory for, None for no limit; what it holds always fits into that.
    """

    def __init__(self, layers: int, device: torch.device, most_tokens: int | None = None) -> None:
        super().__init__(layers=[SlotLayer() for _ in range(layers)])
        self.device = device
        self.most_tokens = most_tokens
        self.ids: list[int] = []
        self.lengths: list[int] = []
        self._window: Window | None = None
        self._capacity = (0, 0)

    def open_prefill(self, id: int, count: int) -> Tensor:
        """Announce `count` further tokens of a sequence, which takes a new last row if it has none; return positions."""
        if id not in self.ids:
            self.ids.append(id)
            self.lengths.append(0)
        row = self.ids.index(id)
        return self._open(Window(row, [self.lengths[row]], count, self.device))

    def open_decode(self, rows: int) -> Tensor:
        """Announce one token for each of the first rows, in the order of `ids`; return positions, [rows, 1]."""
        return self._open(Window(0, self.lengths[:rows], 1, self.device))

    def advance(self) -> None:
        """Count the tokens of the forward that has run. Without it, the next forward writes over them."""
        window = self._window
        assert window is not None
        for row in range(window.rows.start, window.rows.stop):
            self.lengths[row] += window.count

    def free(self, id: int) -> None:
        """Take a sequence out. Rows stay dense, and the last row stays the last. An empty cache holds no memory."""
        if id not in self.ids:
            return
        row, last = self.ids.index(id), len(self.ids) - 1
        if row < last - 1:
            self._move(last - 1, row)
        if row < last:
            self._move(last, last - 1)
        self.ids.pop()
        self.lengths.pop()
        if not self.ids:
            self._capacity = (0, 0)
            for layer in self.layers:
                layer.clear()

    def get_query_offset(self, layer_idx: int = 0) -> int | Tensor:
        """Return where the queries start: a number for one row, [rows, 1] for rows that each have their own length."""
        assert self._window is not None
        return self._window.starts[0] if self._window.is_one_row else self._window.starts_B[:, None]

    def _open(self, window: Window) -> Tensor:
        self._window = window
        slots, tokens = self._capacity
        if len(self.ids) > slots or window.end > tokens:
            longest = max(window.end, *self.lengths)
            slots = len(self.ids) if len(self.ids) <= slots else 1 << (len(self.ids) - 1).bit_length()
            tokens = _round_up(longest + longest // 4, BLOCK_TOKENS)
            self._capacity = self._within_limit(slots, tokens, longest)
        for layer in self.layers:
            layer.window, layer.capacity = window, self._capacity
        return window.positions

    def _within_limit(self, slots: int, tokens: int, longest: int) -> tuple[int, int]:
        """Return room for the rows as they are where room to grow would take more than there may be."""
        if self.most_tokens is None or slots * tokens <= self.most_tokens:
            return slots, tokens
        rows = len(self.ids)
        return rows, max(longest, min(tokens, self.most_tokens // rows))

    def _move(self, source: int, target: int) -> None:
        for layer in self.layers:
            layer.move(source, target, self.lengths[source])
        self.ids[target], self.lengths[target] = self.ids[source], self.lengths[source]


def _resized(rows: Tensor, capacity: tuple[int, int]) -> Tensor:
    """Return `rows` with room for `capacity` (slots, tokens), keeping what fits both."""
    if (rows.shape[0], rows.shape[2]) == capacity:
        return rows
    slots, tokens = min(rows.shape[0], capacity[0]), min(rows.shape[2], capacity[1])
    larger = rows.new_zeros((capacity[0], rows.shape[1], capacity[1], rows.shape[3]))
    larger[:slots, :, :tokens] = rows[:slots, :, :tokens]
    return larger


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
