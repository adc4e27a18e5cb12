"""Log-likelihood of reference tokens under the network, row by row (teacher forcing).

Shapes: B rows of a batch, T positions, K positions with logits, N positions of all rows in one line, V vocabulary.
"""

import inspect
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from mafunzo.compute.chat.examples import IGNORED
from mafunzo.compute.evaluation.metrics import LIKELIHOOD_COLUMNS, Floats
from mafunzo.compute.evaluation.tasks import EncodedRow, batches_by_length

LOGITS_CELLS = 128 * 2**20
CPU_TOKENS = 1024  # a CPU is as fast with these as with more, and spends less on padding and unused logits
POSITIONS_AT_ONCE = 256


@torch.inference_mode()
def likelihood_sums(
    network: PreTrainedModel, rows: Sequence[EncodedRow], batch_size: int, on_progress: Callable[[int], None]
) -> Floats:
    """Return sums over each row's assistant tokens (loss, tokens, correct ones), shaped (rows, `LIKELIHOOD_COLUMNS`)."""
    sums = np.zeros((len(rows), len(LIKELIHOOD_COLUMNS)))
    label_positions = [[t for t, label in enumerate(row.labels) if t > 0 and label != IGNORED] for row in rows]
    token_ids = [row.input_ids[: positions[-1]] for row, positions in zip(rows, label_positions, strict=True)]
    count = 0
    for batch in batches_by_length([len(ids) for ids in token_ids], batch_size, tokens_at_once(network)):
        logits = reply_logits(network, [token_ids[i] for i in batch], [label_positions[i] for i in batch])
        for i, logits_NV in zip(batch, logits, strict=True):
            labels_N = torch.tensor([rows[i].labels[t] for t in label_positions[i]], device=logits_NV.device)
            sums[i] = _row_sums(logits_NV, labels_N)
        count += len(batch)
        on_progress(count)
    return sums


def reply_logits(
    network: PreTrainedModel, token_ids: Sequence[Sequence[int]], positions: Sequence[Sequence[int]]
) -> list[Tensor]:
    """Return for each row the logits (N, V) that predict its tokens at `positions`, in one forward pass.

    Positions count from 0, and are 1 or more; one beyond the last token gives the next-token prediction.
    """
    ids_BT = pad_sequence([torch.tensor(list(ids), dtype=torch.long) for ids in token_ids], batch_first=True)
    mask_BT = pad_sequence([torch.ones(len(ids), dtype=torch.long) for ids in token_ids], batch_first=True)
    positions_K = sorted({t - 1 for row in positions for t in row})
    place = {t: k for k, t in enumerate(positions_K)}
    can_keep = "logits_to_keep" in inspect.signature(network.forward).parameters
    options = {"logits_to_keep": torch.tensor(positions_K, device=network.device)} if can_keep else {}
    logits_BKV = network(
        input_ids=ids_BT.to(network.device), attention_mask=mask_BT.to(network.device), use_cache=False, **options
    ).logits
    column = place if can_keep else {t: t for t in positions_K}
    return [logits_BKV[b, [column[t - 1] for t in row]] for b, row in enumerate(positions)]


def tokens_at_once(network: PreTrainedModel) -> int:
    """Return how many padded tokens a forward may hold, so that its logits stay below `LOGITS_CELLS`."""
    room = max(1, LOGITS_CELLS // vocabulary_size(network))
    return min(room, CPU_TOKENS) if network.device.type == "cpu" else room


def vocabulary_size(network: PreTrainedModel) -> int:
    """Return how many logits a position has."""
    return int(network.get_input_embeddings().weight.shape[0])


def chunks(rows_N: Tensor) -> tuple[Tensor, ...]:
    """Return views of at most `POSITIONS_AT_ONCE` positions each, so that work in float32 stays small."""
    return torch.split(rows_N, POSITIONS_AT_ONCE)


def _row_sums(logits_NV: Tensor, labels_N: Tensor) -> tuple[float, float, float]:
    loss_sum, correct = 0.0, 0
    for logits, labels in zip(chunks(logits_NV), chunks(labels_N), strict=True):
        loss_sum += F.cross_entropy(logits.float(), labels, reduction="sum").item()
        correct += int((logits.argmax(dim=-1) == labels).sum())
    return loss_sum, float(len(labels_N)), float(correct)
