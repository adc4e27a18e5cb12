"""The data loader: the packed batches of each optimizer step, made ahead of the training loop by threads if there are any."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from mafunzo.compute.training.batch import Batch, Rows, pack
from mafunzo.compute.training.data_order import DataOrder, split


def load_steps(rows: Rows, order: DataOrder, first: int, batch_rows: int, n_threads: int) -> Iterator[list[Batch]]:
    """Yield the batches of each step from `first` on, each of at most `batch_rows` rows; threads never change what comes."""

    def make(step: int) -> list[Batch]:
        return [pack([rows.row(int(index)) for index in part]) for part in split(order.rows_of(step), batch_rows)]

    steps = range(first, order.total_steps)
    if n_threads == 0:
        yield from map(make, steps)
        return
    ahead = 2 * n_threads
    with ThreadPoolExecutor(n_threads) as pool:
        queue = [pool.submit(make, step) for step in steps[:ahead]]
        for step in steps:
            batches = queue.pop(0).result()
            if step + ahead in steps:
                queue.append(pool.submit(make, step + ahead))
            yield batches
