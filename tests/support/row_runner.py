"""Sequences that are run through an executor by hand: their tokens, and blocks for them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from mafunzo.compute.inference.block_pool import BlockPool, block_count
from mafunzo.compute.inference.executor import Executor, Row, Wanted


@dataclass
class RowRunner:
    """Runs tokens of sequences, by id, in one forward; a sequence gets blocks as it grows."""

    executor: Executor
    pool: BlockPool = field(default_factory=lambda: BlockPool(400))
    lengths: dict[int, int] = field(default_factory=dict)
    tables: dict[int, tuple[int, ...]] = field(default_factory=dict)
    adapters: dict[int, str] = field(default_factory=dict)

    def run(self, tokens: dict[int, Sequence[int]], wanted: Wanted = Wanted.LAST) -> dict[int, Tensor]:
        """Run the next tokens of each sequence; return the logits of each."""
        rows = [self.row(id, token_ids, wanted) for id, token_ids in tokens.items()]
        logits = self.executor.forward(rows)
        for id, row in zip(tokens, rows, strict=True):
            self.lengths[id] = row.end
        return dict(zip(tokens, logits, strict=True))

    def row(self, id: int, token_ids: Sequence[int], wanted: Wanted) -> Row:
        start, table = self.lengths.get(id, 0), self.tables.get(id, ())
        missing = block_count(start + len(token_ids)) - len(table)
        if missing:
            self.tables[id] = (*table, *self.pool.take(missing, table[-1] if table else None))
        return Row(token_ids, start, self.tables[id], wanted, self.adapters.get(id))

    def free(self, ids: Iterable[int]) -> None:
        for id in ids:
            self.pool.release(self.tables.pop(id))
            del self.lengths[id]
