"""How a network is run on packed rows: proven on itself before it is used.

A row of several sequences is right only if none sees another, and a head in chunks only if it is the network's own
head. Both are tried at the start on a few tokens; an architecture that fails is run sequence by sequence, or by its own
forward, which is slower and always right.
"""

import importlib.util
import itertools
import logging
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from mafunzo.errors import MafunzoError
from mafunzo.training import attention
from mafunzo.training.batch import Batch
from mafunzo.training.head_loss import IGNORED, Head, head_loss

logger = logging.getLogger(__name__)

PROBE_LENGTHS = (7, 1, 12, 5)
_KNOWN_LAYERS = {"full_attention", "sliding_attention"}


@dataclass(frozen=True)
class Runner:
    """A network and how it may be run.

    packs: whether sequences may share a row. longest_packed: a longer sequence gets a row of its own (0: no limit).
    head: the head that is computed in chunks, or None to use the network's own.
    """

    network: PreTrainedModel
    packs: bool
    longest_packed: int
    head: Head | None


def attention_for(device: torch.device) -> str:
    """Return the name of the attention that packed rows use on a device."""
    if device.type == "cuda" and importlib.util.find_spec("flash_attn") is not None:
        return "flash_attention_2"
    attention.register()
    return attention.PACKED


def prepare(network: PreTrainedModel) -> Runner:
    """Find out how `network` (in eval mode) may be run, by running it both ways."""
    head = _head_if_equal(network)
    reason = _reason_not_to_pack(network)
    if reason:
        logger.info("Rows aren't packed: %s", reason)
        _use_own_attention(network)
    return Runner(network, not reason, _longest_packed(network), head)


def batch_loss(runner: Runner, batch: Batch) -> tuple[Tensor, int]:
    """Return the summed loss of a batch in nats, and how many of its targets were the likeliest token."""
    device = runner.network.device
    total = torch.zeros((), dtype=torch.float32, device=device)
    correct = 0
    for low, high in _rows(runner, batch):
        part_loss, part_correct = _row_loss(runner, batch, low, high)
        total = total + part_loss
        correct += part_correct
    return total, correct


def _rows(runner: Runner, batch: Batch) -> list[tuple[int, int]]:
    """Return the parts of a batch, as indices of its bounds, that go through the network together."""
    count = len(batch.bounds) - 1
    if not runner.packs:
        return [(i, i + 1) for i in range(count)]
    longest = max((batch.bounds[i + 1] - batch.bounds[i] for i in range(count)), default=0)
    if runner.longest_packed and longest > runner.longest_packed:
        return [(i, i + 1) for i in range(count)]
    return [(0, count)] if count else []


def _row_loss(runner: Runner, batch: Batch, low: int, high: int) -> tuple[Tensor, int]:
    network = runner.network
    start, end = batch.bounds[low], batch.bounds[high]
    targets = batch.targets_T[start:end]
    places = torch.nonzero(targets != IGNORED).flatten()
    chosen = targets[places].to(network.device)
    places = places.to(network.device)
    given = _arguments(batch, low, high, network.device, runner.packs)
    if runner.head is not None:
        hidden = network.base_model(**given).last_hidden_state[0]
        loss, correct = head_loss(hidden.index_select(0, places), runner.head, chosen)
        return loss, int(correct)
    logits = network(**given, logits_to_keep=places).logits[0].float()
    loss = torch.nn.functional.cross_entropy(logits, chosen, reduction="sum")
    return loss, int((logits.argmax(-1) == chosen).sum())


def _arguments(batch: Batch, low: int, high: int, device: torch.device, packs: bool) -> dict[str, Any]:
    start, end = batch.bounds[low], batch.bounds[high]
    given: dict[str, Any] = {"input_ids": batch.ids_T[start:end].unsqueeze(0).to(device), "use_cache": False}
    if packs:
        bounds = [bound - start for bound in batch.bounds[low : high + 1]]
        on_device = torch.tensor(bounds, dtype=torch.int32, device=device)
        longest = max(b - a for a, b in itertools.pairwise(bounds))
        given |= {
            "position_ids": batch.positions_T[start:end].unsqueeze(0).to(device),
            "cu_seq_lens_q": on_device,
            "cu_seq_lens_k": on_device,
            "max_length_q": longest,
            "max_length_k": longest,
        }
    return given


def _reason_not_to_pack(network: PreTrainedModel) -> str:
    """Return why sequences may not share a row, or an empty text once a row of several gave what each gave alone."""
    config = network.config.get_text_config()
    name = type(network).__name__
    foreign = set(getattr(config, "layer_types", None) or ()) - _KNOWN_LAYERS
    if foreign:
        return f"{name} has layers of the kind {', '.join(sorted(foreign))}."
    if getattr(config, "attention_dropout", 0.0):
        return f"{name} drops attention weights."
    ids = _probe_ids(network)
    given = _arguments(_probe_batch(ids), 0, len(ids), network.device, True)
    chosen = attention_for(network.device)
    try:
        with torch.no_grad(), attention.recorded(chosen) as (recording, windows):
            network.set_attn_implementation(recording)
            together = network(**given).logits[0].float()
            _use_own_attention(network)
            alone = torch.cat([network(row.unsqueeze(0), use_cache=False).logits[0] for row in ids]).float()
    except (MafunzoError, RuntimeError, TypeError, ValueError) as error:
        return f"{name} can't run them: {error}"
    network.set_attn_implementation(chosen)
    if _has_window(config) and not any(windows):
        return f"{name} doesn't tell its attention function about its sliding window."
    tolerance = 1e-3 if network.dtype == torch.float32 else 0.05
    distance = float((together - alone).square().mean().sqrt()) / (float(alone.std()) or 1.0)
    return (
        "" if distance <= tolerance else f"{name} gave other logits in a shared row ({distance:.2g} deviations away)."
    )


def _has_window(config: Any) -> bool:
    kinds = getattr(config, "layer_types", None)
    if kinds:
        return "sliding_attention" in kinds
    return bool(getattr(config, "sliding_window", None)) and getattr(config, "use_sliding_window", True)


def _head_if_equal(network: PreTrainedModel) -> Head | None:
    """Return the network's head as `head_loss` computes it, if that gives the network's own loss on a few tokens."""
    layer = network.get_output_embeddings()
    config = network.config.get_text_config()
    if not isinstance(layer, torch.nn.Linear):
        return None
    divisor = getattr(config, "logits_scaling", None) or 1.0
    head = Head(
        layer.weight,
        layer.bias,
        multiplier=float(getattr(config, "logit_scale", None) or 1.0) / float(divisor),
        softcap=float(getattr(config, "final_logit_softcapping", None) or 0.0),
    )
    ids = _probe_ids(network)[0].unsqueeze(0)
    try:
        with torch.no_grad():
            logits = network(ids, use_cache=False).logits[0, :-1].float()
            hidden = network.base_model(ids, use_cache=False).last_hidden_state[0, :-1]
            ours = float(head_loss(hidden, head, ids[0, 1:])[0])
    except (MafunzoError, RuntimeError, TypeError, ValueError) as error:
        logger.info("The network's own head is used: %s", error)
        return None
    own = float(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum"))
    is_equal = abs(ours - own) <= 1e-3 * abs(own) * (1 if network.dtype == torch.float32 else 20)
    if not is_equal:
        logger.info("The network's own head is used: in chunks it gave %g instead of %g.", ours, own)
    return head if is_equal else None


def _probe_ids(network: PreTrainedModel) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    vocabulary = network.get_input_embeddings().weight.shape[0]
    return [torch.randint(0, vocabulary, (n,), generator=generator).to(network.device) for n in PROBE_LENGTHS]


def _probe_batch(ids: list[Tensor]) -> Batch:
    bounds = [0]
    for row in ids:
        bounds.append(bounds[-1] + len(row))
    positions = torch.cat([torch.arange(len(row)) for row in ids])
    joined = torch.cat(ids).cpu()
    return Batch(joined, positions, torch.full_like(joined, IGNORED), tuple(bounds), 0, len(joined))


def _use_own_attention(network: PreTrainedModel) -> None:
    network.set_attn_implementation("sdpa" if getattr(network, "_supports_sdpa", False) else "eager")


def _longest_packed(network: PreTrainedModel) -> int:
    """Return the length up to which positions don't depend on the longest sequence of a row, or 0 without such a limit."""
    config = network.config.get_text_config()
    scaling = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    kind = scaling.get("rope_type", "default")
    if kind not in ("longrope", "dynamic"):
        return 0
    original = scaling.get("original_max_position_embeddings") or getattr(
        config, "original_max_position_embeddings", None
    )
    return int(original or config.max_position_embeddings)
