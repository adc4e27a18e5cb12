"""The reference executor: a `transformers` network and a paged cache. Every architecture with keys and values, any device.

A forward is one line of tokens, those of all rows one after another: layers that look at one token at a time don't know
whose it is, and attention is computed row by row (`attention.py`).
This is the one file of the engine that knows a device: what memory it has, and where tensors go.
Shapes: N tokens of all rows, V the vocabulary.
"""

import json
import logging
from collections.abc import Mapping, Sequence, Set
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_utils import PreTrainedModel

from mafunzo import cgroup
from mafunzo.compute.device.memory import free_bytes
from mafunzo.compute.device.precision import half_formats
from mafunzo.compute.inference.adapters import Adapters
from mafunzo.compute.inference.attention import attend_by_rows
from mafunzo.compute.inference.executor import Row, Wanted
from mafunzo.compute.inference.kv_cache import PagedCache
from mafunzo.compute.inference.packing import pack_linears
from mafunzo.compute.model.loading import exact_length, rope_parameters
from mafunzo.compute.model.lora_layer import Factors
from mafunzo.errors import NotSupported

logger = logging.getLogger(__name__)

MEMORY_SHARE = 0.4


class TorchExecutor:
    """Runs a network over the rows of a batch, with their KV cache. Not thread-safe: one thread calls it.

    `max_model_len` is the longest sequence, prompt and reply together. `pack_weights`: on a CPU, lay the weights out for
    speed; nothing else can use the network then. `cache_bytes`: what the KV cache may take; a longer sequence than fits is none
    that is served.
    """

    def __init__(
        self,
        network: PreTrainedModel,
        max_model_len: int | None = None,
        pack_weights: bool = False,
        cache_bytes: int | None = None,
    ) -> None:
        network.eval()
        self.network = network
        attend_by_rows(network)
        self.config = network.config.get_text_config()
        parameter = next(network.parameters())
        self.device: torch.device = parameter.device
        self.dtype: torch.dtype = parameter.dtype
        self.vocab_size: int = network.get_input_embeddings().num_embeddings
        self._bytes_per_token = cache_bytes_per_token(self.config, self.dtype.itemsize)
        longest = min(context_length(self.config), max_model_len or 1 << 30)
        self.max_model_len, most_tokens = cache_limit(cache_bytes, self._bytes_per_token, longest)
        self.parameters: int = sum(p.numel() for p in network.parameters())
        self.cache = PagedCache(self.config.num_hidden_layers, self.device, most_tokens)
        if pack_weights and self.device.type == "cpu":
            pack_linears(network)
        self._adapters = Adapters(network, self.device, self.dtype)
        self._warm_up()

    @torch.inference_mode()
    def forward(self, rows: Sequence[Row]) -> list[Tensor]:
        """Run all rows in one pass; return the logits of each, [as many as wanted, V]."""
        window = self.cache.open(rows)
        self._adapters.select(rows, window.segments)
        columns = [_wanted_columns(row, segment.columns) for row, segment in zip(rows, window.segments, strict=True)]
        index = [column for row_columns in columns for column in row_columns]
        logits_NV = self._run([id for row in rows for id in row.token_ids], window.positions, index or [0])
        ends = accumulate(len(row_columns) for row_columns in columns)
        return [logits_NV[end - len(row_columns) : end] for end, row_columns in zip(ends, columns, strict=True)]

    def copy_blocks(self, copies: Sequence[tuple[int, int]]) -> None:
        """Copy keys and values from blocks to others, all at once."""
        self.cache.copy(copies)

    @property
    def adapter_names(self) -> Set[str]:
        """The adapters that rows may name."""
        return self._adapters.names

    def load_adapter(self, name: str, folder: Path) -> None:
        """Load an adapter (peft's format) beside the others; not during a forward. See `Adapters.load`."""
        self._adapters.load(name, folder)

    def read_adapter(self, folder: Path) -> Mapping[str, Factors]:
        """Read an adapter for this network, on any thread. See `Adapters.read`."""
        return self._adapters.read(folder)

    def add_adapter(self, name: str, factors: Mapping[str, Factors]) -> None:
        """Have rows name an adapter that was read; not during a forward."""
        self._adapters.add(name, factors)

    def remove_adapter(self, name: str) -> None:
        """Forget an adapter that no row names any more; not during a forward."""
        self._adapters.remove(name)

    def clear(self) -> None:
        """Give the memory of all blocks back."""
        self.cache.clear()

    def cache_budget_tokens(self, share: float = MEMORY_SHARE) -> int:
        """Return how many tokens fit into `share` of the memory that is free now, and into the cache's limit; at least one
        full sequence."""
        return cache_budget(self.device, self._bytes_per_token, self.cache.most_tokens, self.max_model_len, share)

    def _run(self, token_ids: list[int], positions: Tensor, index: list[int]) -> Tensor:
        """Run the tokens of all rows in one line; return the logits at `index`, [len(index), V]."""
        output = self.network(
            input_ids=torch.tensor([token_ids], device=self.device),
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=torch.tensor(index, device=self.device),
        )
        logits: Tensor = output.logits
        return logits[0]

    def _warm_up(self) -> None:
        """Warm up with two rows for two steps, so that an unsupported architecture is refused now, not in a request."""
        try:
            self.forward([Row([0, 0], 0, (0,)), Row([0], 0, (1,))])
            logits = self.forward([Row([0], 2, (0,)), Row([0, 0], 1, (1,))])
        except (TypeError, AttributeError, IndexError, RuntimeError) as error:
            name = type(self.network).__name__
            raise NotSupported(f"{name} can't be served in batches: {type(error).__name__}: {error}") from error
        if self.cache.layers[0].keys is None or logits[0].shape[0] != 1:
            raise NotSupported(f"{type(self.network).__name__} can't be served in batches: it ignores the cache.")
        self.clear()


def _wanted_columns(row: Row, columns: slice) -> range:
    """Return at which places in the line of all tokens a row's logits are wanted."""
    match row.wanted:
        case Wanted.ALL:
            return range(columns.start, columns.stop)
        case Wanted.LAST:
            return range(columns.stop - 1, columns.stop)
        case Wanted.NONE:
            return range(columns.stop, columns.stop)


def cache_bytes_per_token(config: Any, item_bytes: int) -> int:
    """Return what a token's keys and values take in all layers."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * width * item_bytes)


def cache_limit(cache_bytes: int | None, bytes_per_token: int, longest: int) -> tuple[int, int | None]:
    """Return how long a sequence may be, at most `longest`, and how many tokens the cache may hold (None: no limit)."""
    if cache_bytes is None:
        return longest, None
    tokens = cache_bytes // bytes_per_token
    if tokens <= longest:
        logger.warning("Serving %d of %d tokens of context: the cache holds no more", tokens - 1, longest)
    return min(longest, tokens - 1), tokens


def cache_budget(
    device: torch.device, bytes_per_token: int, most_tokens: int | None, longest: int, share: float = MEMORY_SHARE
) -> int:
    """Return how many tokens fit into `share` of the memory that is free now, and into `most_tokens`; one sequence at least."""
    tokens = int(share * free_bytes(device)) // bytes_per_token
    return max(min(tokens, most_tokens or tokens), longest + 1)


def context_length(config: Any) -> int:
    """Return the longest sequence that batches exactly: beyond, a long one would change the short ones beside it."""
    longest = int(getattr(config, "max_position_embeddings", 0) or getattr(config, "n_positions", 0))
    if not longest:
        raise NotSupported(f"A '{config.model_type}' network doesn't say how long a sequence may be.")
    length = min(longest, exact_length(config) or longest)
    if length < longest:
        rope = rope_parameters(config)["rope_type"]
        logger.warning("Serving %d of %d tokens of context: beyond, %s isn't exact in a batch", length, longest, rope)
    return length


def serving_dtype(folder: Path, device: torch.device | str) -> torch.dtype | None:
    """Return float32 for bf16 or fp16 weights that this CPU doesn't compute in, else None: the stored dtype.

    It is also None for bf16 weights that are large for the machine's memory, where oneDNN converts them on the way.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    name = config.get("dtype") or config.get("torch_dtype") or (config.get("text_config") or {}).get("dtype")
    if torch.device(device).type != "cpu" or name not in ("bfloat16", "float16"):
        return None
    half_bytes = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    return None if name in half_formats().held(half_bytes, cgroup.usable_memory_bytes()) else torch.float32
