"""The OpenVINO executor: the same rows as `executor_torch.py`, faster on x86-64 processors; for architectures that convert.

The runtime's attention takes what the engine has anyway: the tokens of all rows in one line, and a block table a row. Keys and
values are tensors of blocks, [blocks, heads, BLOCK_TOKENS, D] each, one pair a layer, that the graph reads and writes. Their
memory is only taken as blocks are used: they are made as large as they can get, and the system gives pages at the first write.
The runtime doesn't check token ids: ids outside the vocabulary are refused by the engine.
"""

from collections.abc import Mapping, Sequence, Set
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mafunzo.compute.inference.block_pool import BLOCK_TOKENS, block_count
from mafunzo.compute.inference.executor import Row, Wanted
from mafunzo.compute.inference.executor_torch import cache_budget, cache_bytes_per_token, cache_limit, context_length
from mafunzo.compute.inference.openvino_graph import (
    IDS,
    POSITIONS,
    WANTED,
    import_openvino,
    page_attention,
    runtime,
    sliding_windows,
)
from mafunzo.compute.model.lora_layer import Factors
from mafunzo.errors import NotFound, NotSupported

CPU = torch.device("cpu")
PRECISIONS = {torch.float32: "f32", torch.bfloat16: "bf16"}


class OpenVinoExecutor:
    """Runs a converted network over the rows of a batch, with their KV cache. Not thread-safe: one thread calls it.

    graph_file: as `openvino_graph.stateful_graph` was saved. config: the network's. dtype: in which it computes, and keeps keys
    and values, float32 or bfloat16. Others as of `TorchExecutor`.
    """

    def __init__(
        self,
        graph_file: Path,
        config: Any,
        vocab_size: int,
        dtype: torch.dtype = torch.float32,
        max_model_len: int | None = None,
        cache_bytes: int | None = None,
    ) -> None:
        self._openvino = import_openvino()
        self.config = config.get_text_config()
        self.dtype, self.vocab_size = dtype, vocab_size
        self._bytes_per_token = cache_bytes_per_token(self.config, dtype.itemsize)
        longest = min(context_length(self.config), max_model_len or 1 << 30)
        self.max_model_len, self.most_tokens = cache_limit(cache_bytes, self._bytes_per_token, longest)
        core = runtime()
        try:
            graph = core.read_model(graph_file)
            page_attention(graph)
            self.sliding_windows = sliding_windows(graph)
            self._request = core.compile_model(graph, "CPU", _options(dtype)).create_infer_request()
        except RuntimeError as error:
            raise NotSupported(f"OpenVINO can't load it: {str(error)[:300]}") from error
        self._caches = [port for port in self._request.model_inputs if "_cache." in port.any_name]
        self._require_blocks()
        self._blocks = 0

    @property
    def adapter_names(self) -> Set[str]:
        """The adapters that rows may name: none."""
        return frozenset()

    def read_adapter(self, folder: Path) -> Mapping[str, Factors]:
        """Raise `NotSupported`: the graph has no place for an adapter."""
        raise NotSupported(
            f"openvino serves no adapters, so that {folder.name} isn't loaded: deploy with --engine torch."
        )

    def add_adapter(self, name: str, factors: Mapping[str, Factors]) -> None:
        """Raise `NotSupported`, as `read_adapter`."""
        raise NotSupported(f"openvino serves no adapters, so that '{name}' isn't loaded: deploy with --engine torch.")

    def remove_adapter(self, name: str) -> None:
        """Raise `NotFound`: there is none."""
        raise NotFound(f"There is no adapter '{name}'.")

    def forward(self, rows: Sequence[Row]) -> list[Tensor]:
        """Run all rows in one pass; return the logits of each, [as many as wanted, V]."""
        self._make_room(1 + max(block for row in rows for block in row.blocks))
        counts = [len(row.token_ids) for row in rows]
        ends = list(accumulate(counts))
        columns = [_wanted(row, end) for row, end in zip(rows, ends, strict=True)]
        wanted = [column for row_columns in columns for column in row_columns]
        tables = [row.blocks[: block_count(row.end)] for row in rows]
        values: dict[str, Any] = {
            IDS: np.array([id for row in rows for id in row.token_ids], dtype=np.int64),
            POSITIONS: np.concatenate([np.arange(row.start, row.end, dtype=np.int64) for row in rows]),
            WANTED: np.array(wanted or [0], dtype=np.int64),
            "past_lens": np.array([row.start for row in rows], dtype=np.int32),
            "subsequence_begins": np.array([0, *ends], dtype=np.int32),
            "block_indices": np.array([block for table in tables for block in table], dtype=np.int32),
            "block_indices_begins": np.array([0, *accumulate(map(len, tables))], dtype=np.int32),
            "max_context_len": np.array(max(row.end for row in rows), dtype=np.int32),
        }
        for name, value in values.items():
            self._request.set_tensor(name, self._openvino.Tensor(value))
        self._request.infer()
        logits_NV = torch.from_numpy(np.array(self._request.get_output_tensor(0).data)).view(-1, self.vocab_size)
        stops = accumulate(len(row_columns) for row_columns in columns)
        return [logits_NV[stop - len(own) : stop] for stop, own in zip(stops, columns, strict=True)]

    def copy_blocks(self, copies: Sequence[tuple[int, int]]) -> None:
        """Copy keys and values from blocks to others, all at once."""
        sources, targets = (list(blocks) for blocks in zip(*copies, strict=True))
        self._make_room(1 + max(targets))
        for port in self._caches:
            blocks = np.asarray(self._request.get_tensor(port).data)
            blocks[targets] = blocks[sources]

    def cache_budget_tokens(self) -> int:
        """Return how many tokens fit into a share of the memory that is free now, and into the cache's limit."""
        return cache_budget(CPU, self._bytes_per_token, self.most_tokens, self.max_model_len)

    def clear(self) -> None:
        """Give the memory of all blocks back."""
        self._blocks = 0
        for port in self._caches:
            self._request.set_tensor(port, self._tensor(port, 0))

    def _make_room(self, needed: int) -> None:
        """Have tensors with `needed` blocks at least; what is in the blocks stays."""
        if needed <= self._blocks:
            return
        most = block_count(self.cache_budget_tokens()) if self._blocks == 0 else 2 * self._blocks
        blocks = max(needed, most)
        for port in self._caches:
            larger = self._tensor(port, blocks)
            if self._blocks:
                held = self._request.get_tensor(port)
                np.asarray(larger.data)[: self._blocks] = np.asarray(held.data)
            self._request.set_tensor(port, larger)
        self._blocks = blocks

    def _tensor(self, port: Any, blocks: int) -> Any:
        shape = [blocks, *(dimension.get_length() for dimension in list(port.partial_shape)[1:])]
        return self._openvino.Tensor(port.element_type, self._openvino.Shape(shape))

    def _require_blocks(self) -> None:
        sizes = {port.partial_shape[2].get_length() for port in self._caches}
        if sizes != {BLOCK_TOKENS}:
            raise NotSupported(f"OpenVINO's blocks have {sorted(sizes)} tokens, expected {BLOCK_TOKENS}.")


def _options(dtype: torch.dtype) -> dict[str, Any]:
    precision = PRECISIONS[dtype]
    return {
        "INFERENCE_PRECISION_HINT": precision,
        "KV_CACHE_PRECISION": precision,
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "ENABLE_CPU_PINNING": False,
    }


def _wanted(row: Row, end: int) -> range:
    """Return at which places in the line of all tokens a row's logits are wanted; its tokens end before `end`."""
    count = {Wanted.ALL: len(row.token_ids), Wanted.LAST: 1, Wanted.NONE: 0}[row.wanted]
    return range(end - count, end)
