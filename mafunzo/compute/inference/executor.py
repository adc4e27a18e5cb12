"""What the engine asks of an executor: a paged batch in, logits out.

A batch has tokens of several sequences, each with its block table: block `i` has room for the keys and values of its tokens
`i * BLOCK_TOKENS` to `(i + 1) * BLOCK_TOKENS - 1`. Which blocks those are is the engine's; how a block is stored, and how
attention reads it, is the executor's. Blocks may be in several tables: what is in a full one is only read. A sequence that
begins like a block, but goes on otherwise, has a copy of it (`copy_blocks`), and writes over the rest.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from torch import Tensor

from mafunzo.compute.model.lora_layer import Factors


class Wanted(StrEnum):
    """Which logits of a row are computed: of no token, of the last, or of each."""

    NONE = "none"
    LAST = "last"
    ALL = "all"


@dataclass(frozen=True)
class Row:
    """The next tokens of a sequence. start: the position of the first, and how many tokens are in its blocks already.

    adapter: the name of the one that computes it, None for the base.
    """

    token_ids: Sequence[int]
    start: int
    blocks: tuple[int, ...]
    wanted: Wanted = Wanted.LAST
    adapter: str | None = None

    @property
    def end(self) -> int:
        """How many tokens are in its blocks afterwards."""
        return self.start + len(self.token_ids)


class Executor(Protocol):
    """Runs the network's forward passes; one thread calls it.

    vocab_size: how many token ids there are. max_model_len: the longest sequence that it runs, prompt and reply together.
    """

    vocab_size: int
    max_model_len: int

    @property
    def adapter_names(self) -> Set[str]:
        """The adapters that rows may name."""
        ...

    def read_adapter(self, folder: Path) -> Mapping[str, Factors]:
        """Read an adapter (peft's format) for this network, on any thread; raises what is wrong with it."""
        ...

    def add_adapter(self, name: str, factors: Mapping[str, Factors]) -> None:
        """Have rows name an adapter that was read; not during a forward. Raises `Conflict` for a name that is taken."""
        ...

    def remove_adapter(self, name: str) -> None:
        """Forget an adapter that no row names any more; not during a forward."""
        ...

    def forward(self, rows: Sequence[Row]) -> list[Tensor]:
        """Run all rows in one pass; return the logits of each, [as many as wanted, V]. Running a row again changes nothing."""
        ...

    def copy_blocks(self, copies: Sequence[tuple[int, int]]) -> None:
        """Copy keys and values from blocks to others, (source, target) each; not during a forward.

        All at once: a source that is also a target is copied as it was before.
        """
        ...

    def cache_budget_tokens(self) -> int:
        """Return how many tokens the blocks may have room for."""
        ...

    def clear(self) -> None:
        """Give the memory of all blocks back; nothing is in them any more."""
        ...
