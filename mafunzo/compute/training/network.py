"""How a network is run on packed sequences: proven on itself before it is used.

A line of several sequences is right only if none sees another, and a head in chunks only if it is the network's own
head. Both are tried at the start on a few tokens; an architecture that fails is run sequence by sequence, or by its own
forward, which is slower and always right:

    packed, own head in chunks      batch -> one pass -> hidden states at targets -> head_loss
    packed, the network's head      batch -> one pass -> logits at targets        -> cross entropy
    sequence by sequence            batch -> a pass for each sequence, and the same from there

Legend: T tokens of a line, N of them with a target, H width of the network, V vocabulary.
"""

import importlib.util
import itertools
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from mafunzo.compute.chat.examples import IGNORED
from mafunzo.compute.model.loading import exact_length
from mafunzo.compute.training import attention
from mafunzo.compute.training.batch import Batch
from mafunzo.compute.training.embedding_noise import announce
from mafunzo.compute.training.head_loss import CHUNK, Head, chunk_of, head_loss
from mafunzo.compute.training.proof import Place, Proof
from mafunzo.errors import MafunzoError

logger = logging.getLogger(__name__)

PROBE_LENGTHS = (7, 1, 12, 5)
_KNOWN_LAYERS = {"full_attention", "sliding_attention"}


@dataclass(frozen=True)
class PackedNetwork:
    """A network and how it may be run over the sequences of a batch.

    packs: whether sequences may share a line. longest_packed: a longer sequence gets a line of its own (0: no limit).
    head: the head that is computed in chunks, or None to use the network's own.
    """

    network: PreTrainedModel
    packs: bool
    longest_packed: int
    head: Head | None

    @property
    def head_of_now(self) -> Head | None:
        """The head with the weights that the network has now: who shards weights puts others in their place."""
        layer = self.network.get_output_embeddings()
        return None if self.head is None else replace(self.head, weight_VH=layer.weight, bias_V=layer.bias)

    @property
    def device(self) -> torch.device:
        device: torch.device = self.network.device
        return device

    def forward(self, batch: Batch) -> Iterator["Outputs"]:
        """Run all sequences of a batch, in one forward pass where they may share a line, else in one each."""
        for low, high in _lines(self, batch):
            yield _outputs(self, batch, low, high)


@dataclass(frozen=True)
class Outputs:
    """What one forward pass gave at its N positions that have a target, sequence after sequence.

    states_N: hidden states, of which `head` makes logits, or the network's own logits where there is none. targets_N: the
    token that follows. bounds: sequence i of the pass has the positions `[bounds[i], bounds[i + 1])`. head_chunk: positions of
    which logits are made at a time.
    """

    states_N: Tensor
    targets_N: Tensor
    bounds: tuple[int, ...]
    head: Head | None
    head_chunk: int = CHUNK

    def loss(self, sequence: int | None = None) -> tuple[Tensor, int]:
        """Return the summed loss in nats, of all targets or those of one sequence, and how many were the likeliest token."""
        states_N, targets_N = self.states_N, self.targets_N
        if sequence is not None:
            part = slice(self.bounds[sequence], self.bounds[sequence + 1])
            states_N, targets_N = states_N[part], targets_N[part]
        if self.head is not None:
            loss, correct = head_loss(states_N, self.head, targets_N, self.head_chunk)
            return loss, int(correct)
        loss = torch.nn.functional.cross_entropy(states_N, targets_N, reduction="sum")
        return loss, int((states_N.argmax(-1) == targets_N).sum())


def attention_for(device: torch.device) -> str:
    """Return the name of the attention that packed rows use on a device."""
    if device.type == "cuda" and importlib.util.find_spec("flash_attn") is not None:
        return "flash_attention_2"
    attention.register()
    return attention.PACKED


def prepare(network: PreTrainedModel, place: Place | None = None) -> PackedNetwork:
    """Find out how `network` (in eval mode) may be run, by running it both ways.

    place: of the proof, which is read there, or else written.
    """
    proof = place.read() if place is not None else None
    if proof is None:
        proof = _prove(network)
        if place is not None:
            place.write(proof)
    if proof.reason:
        logger.info("Rows aren't packed: %s", proof.reason)
        _use_own_attention(network)
    else:
        network.set_attn_implementation(attention_for(network.device))
    head = _head(network) if proof.has_head else None
    return PackedNetwork(network, not proof.reason, exact_length(network.config.get_text_config()) or 0, head)


def _prove(network: PreTrainedModel) -> Proof:
    has_head = _is_head_equal(network)
    return Proof(_reason_not_to_pack(network), has_head)


def _lines(packed: PackedNetwork, batch: Batch) -> list[tuple[int, int]]:
    """Return the parts of a batch, as indices of its bounds, that go through the network together."""
    lengths = [end - start for start, end in itertools.pairwise(batch.bounds)]
    is_too_long = 0 < packed.longest_packed < max(lengths, default=0)
    if packed.packs and not is_too_long:
        return [(0, len(lengths))] if lengths else []
    return [(i, i + 1) for i in range(len(lengths))]


def _outputs(packed: PackedNetwork, batch: Batch, low: int, high: int) -> Outputs:
    network = packed.network
    start, end = batch.bounds[low], batch.bounds[high]
    targets_T = batch.targets_T[start:end]
    places_N = torch.nonzero(targets_T != IGNORED).flatten()
    targets_N = targets_T[places_N].to(network.device)
    cuts = torch.tensor(batch.bounds[low : high + 1]) - start
    bounds = tuple(torch.searchsorted(places_N, cuts).tolist())
    places_N = places_N.to(network.device)
    inputs = _inputs(batch, low, high, network.device, packed.packs)
    announce(network, [after - before for before, after in itertools.pairwise(batch.bounds[low : high + 1])])
    head = packed.head_of_now
    if head is not None:
        hidden_TH = network.base_model(**inputs).last_hidden_state[0]
        return Outputs(hidden_TH.index_select(0, places_N), targets_N, bounds, head, chunk_of(network))
    logits_NV = network(**inputs, logits_to_keep=places_N).logits[0].float()
    return Outputs(logits_NV, targets_N, bounds, None)


def _inputs(batch: Batch, low: int, high: int, device: torch.device, packs: bool) -> dict[str, Any]:
    """Return the network's arguments; where sequences share a line, with their bounds for variable-length attention."""
    start, end = batch.bounds[low], batch.bounds[high]
    inputs: dict[str, Any] = {"input_ids": batch.ids_T[start:end].unsqueeze(0).to(device), "use_cache": False}
    if packs:
        bounds = [bound - start for bound in batch.bounds[low : high + 1]]
        on_device = torch.tensor(bounds, dtype=torch.int32, device=device)
        longest = max(b - a for a, b in itertools.pairwise(bounds))
        inputs |= {
            "position_ids": batch.positions_T[start:end].unsqueeze(0).to(device),
            "cu_seq_lens_q": on_device,
            "cu_seq_lens_k": on_device,
            "max_length_q": longest,
            "max_length_k": longest,
        }
    return inputs


def _reason_not_to_pack(network: PreTrainedModel) -> str:
    """Return why sequences may not share a row, or an empty text once a row of several gave what each gave alone."""
    config = network.config.get_text_config()
    name = type(network).__name__
    foreign = set(getattr(config, "layer_types", None) or ()) - _KNOWN_LAYERS
    if foreign:
        return f"{name} has layers of the kind {', '.join(sorted(foreign))}."
    ids = _probe_ids(network)
    inputs = _inputs(_probe_batch(ids), 0, len(ids), network.device, True)
    packed = attention_for(network.device)
    try:
        with torch.no_grad(), attention.recorded(packed) as (recording, calls):
            network.set_attn_implementation(recording)
            _run_as_in_training(network, inputs)
            together = network(**inputs).logits[0].float()
            _use_own_attention(network)
            alone = torch.cat([network(row.unsqueeze(0), use_cache=False).logits[0] for row in ids]).float()
    except (MafunzoError, RuntimeError, TypeError, ValueError) as error:
        return f"{name} can't run them: {error}"
    network.set_attn_implementation(packed)
    if any(call.dropout for call in calls):
        return f"{name} drops attention weights."
    if _has_window(config) and not any(call.sliding_window for call in calls):
        return f"{name} doesn't tell its attention function about its sliding window."
    tolerance = 1e-3 if network.dtype == torch.float32 else 0.05
    distance = float((together - alone).square().mean().sqrt()) / (float(alone.std()) or 1.0)
    return (
        "" if distance <= tolerance else f"{name} gave other logits in a shared row ({distance:.2g} deviations away)."
    )


def _run_as_in_training(network: PreTrainedModel, inputs: dict[str, Any]) -> None:
    """Run a forward pass in training mode, in which alone an architecture drops out; random numbers are put back."""
    devices = [network.device] if network.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        network.train()
        try:
            network(**inputs)
        finally:
            network.eval()


def _has_window(config: Any) -> bool:
    kinds = getattr(config, "layer_types", None)
    if kinds:
        return "sliding_attention" in kinds
    return bool(getattr(config, "sliding_window", None)) and getattr(config, "use_sliding_window", True)


def _head(network: PreTrainedModel) -> Head | None:
    """Return the network's head as `head_loss` computes it; None where it isn't a linear layer."""
    layer = network.get_output_embeddings()
    config = network.config.get_text_config()
    if not isinstance(layer, torch.nn.Linear):
        return None
    divisor = getattr(config, "logits_scaling", None) or 1.0
    return Head(
        layer.weight,
        layer.bias,
        multiplier=float(getattr(config, "logit_scale", None) or 1.0) / float(divisor),
        softcap=float(getattr(config, "final_logit_softcapping", None) or 0.0),
    )


def _is_head_equal(network: PreTrainedModel) -> bool:
    """Return whether the head as `head_loss` computes it gives the network's own loss on a few tokens."""
    head = _head(network)
    if head is None:
        return False
    ids = _probe_ids(network)[0].unsqueeze(0)
    try:
        with torch.no_grad():
            logits = network(ids, use_cache=False).logits[0, :-1].float()
            hidden = network.base_model(ids, use_cache=False).last_hidden_state[0, :-1]
            ours = float(head_loss(hidden, head, ids[0, 1:])[0])
    except (MafunzoError, RuntimeError, TypeError, ValueError) as error:
        logger.info("The network's own head is used: %s", error)
        return False
    own = float(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum"))
    is_equal = abs(ours - own) <= 1e-3 * abs(own) * (1 if network.dtype == torch.float32 else 20)
    if not is_equal:
        logger.info("The network's own head is used: in chunks it gave %g instead of %g.", ours, own)
    return is_equal


def _probe_ids(network: PreTrainedModel) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    vocabulary = network.get_input_embeddings().weight.shape[0]
    return [torch.randint(0, vocabulary, (n,), generator=generator).to(network.device) for n in PROBE_LENGTHS]


def _probe_batch(ids: list[Tensor]) -> Batch:
    bounds = tuple(itertools.accumulate(map(len, ids), initial=0))
    positions = torch.cat([torch.arange(len(row)) for row in ids])
    joined = torch.cat(ids).cpu()
    return Batch(joined, positions, torch.full_like(joined, IGNORED), bounds, 0, len(joined))


def _use_own_attention(network: PreTrainedModel) -> None:
    network.set_attn_implementation("sdpa" if getattr(network, "_supports_sdpa", False) else "eager")
