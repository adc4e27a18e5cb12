"""The reference executor: a `transformers` network and a slot cache. Every architecture, any device.

This is the one file of the engine that knows a device: what memory it has, and where tensors go.
Shapes: B rows, Q tokens of a prompt, V the vocabulary.
"""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_utils import PreTrainedModel

from mafunzo import cgroup
from mafunzo.compute.device.memory import free_bytes
from mafunzo.compute.device.precision import half_formats
from mafunzo.compute.inference.attention import attend_by_rows
from mafunzo.compute.inference.kv_cache import SlotCache
from mafunzo.compute.inference.packing import pack_linears
from mafunzo.compute.model.loading import exact_length, rope_parameters
from mafunzo.errors import NotSupported

logger = logging.getLogger(__name__)

MEMORY_SHARE = 0.4


class TorchExecutor:
    """Runs a network over sequences by id, with their KV cache. Not thread-safe: one thread calls it.

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
        self.max_model_len = min(_context_length(self.config), max_model_len or 1 << 30)
        self.parameters: int = sum(p.numel() for p in network.parameters())
        self.cache = SlotCache(self.config.num_hidden_layers, self.device, self._limit(cache_bytes))
        if pack_weights and self.device.type == "cpu":
            pack_linears(network)
        self._warm_up()

    @torch.inference_mode()
    def prefill(self, id: int, token_ids: Sequence[int], all_logits: bool = False) -> Tensor:
        """Run the next chunk of a prompt; return the logits after its last token, [1, V], or after each, [Q, V]."""
        positions = self.cache.open_prefill(id, len(token_ids))
        logits_QV = self._forward([list(token_ids)], positions, 0 if all_logits else 1)[0]
        self.cache.advance()
        return logits_QV

    @torch.inference_mode()
    def decode(self, tokens: dict[int, int]) -> dict[int, Tensor]:
        """Run one token of each sequence; return its logits, [V], by id. All fully prefilled sequences must take part."""
        ids = self.cache.ids[: len(tokens)]
        assert set(ids) == set(tokens), "the decoding sequences must be the first rows"
        positions = self.cache.open_decode(len(ids))
        logits_BV = self._forward([[tokens[id]] for id in ids], positions, 1)[:, 0]
        self.cache.advance()
        return dict(zip(ids, logits_BV, strict=True))

    @torch.inference_mode()
    def free(self, id: int) -> None:
        """Free a sequence's row of the KV cache."""
        self.cache.free(id)

    def cache_budget_tokens(self, share: float = MEMORY_SHARE) -> int:
        """Return how many tokens fit into `share` of the memory that is free now, and into the cache's limit; at least one
        full sequence."""
        tokens = int(share * free_bytes(self.device)) // self._bytes_per_token()
        return max(min(tokens, self.cache.most_tokens or tokens), self.max_model_len + 1)

    def _limit(self, cache_bytes: int | None) -> int | None:
        """Return how many tokens the cache may hold; no sequence may be longer."""
        if cache_bytes is None:
            return None
        tokens = cache_bytes // self._bytes_per_token()
        if tokens <= self.max_model_len:
            logger.warning(
                "Serving %d of %d tokens of context: the cache holds no more", tokens - 1, self.max_model_len
            )
            self.max_model_len = tokens - 1
        return tokens

    def _forward(self, token_ids: list[list[int]], positions: Tensor, logits_to_keep: int) -> Tensor:
        output = self.network(
            input_ids=torch.tensor(token_ids, device=self.device),
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=logits_to_keep,
        )
        logits: Tensor = output.logits
        return logits

    def _bytes_per_token(self) -> int:
        config = self.config
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return int(2 * config.num_hidden_layers * heads * width * self.dtype.itemsize)

    def _warm_up(self) -> None:
        """Warm up with two rows for a step, so that an unsupported architecture is refused now, not in a request."""
        try:
            for id in (0, 1):
                self.prefill(id, [0] * (id + 1))
            self.decode({0: 0, 1: 0})
        except (TypeError, AttributeError, IndexError, RuntimeError) as error:
            name = type(self.network).__name__
            raise NotSupported(f"{name} can't be served in batches: {type(error).__name__}: {error}") from error
        for id in (0, 1):
            self.free(id)


def _context_length(config: Any) -> int:
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
