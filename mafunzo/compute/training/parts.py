"""Parts of a base: each rank reads its own part of every weight from the files, so that none ever holds the whole base.

A weight is cut along its first dimension, as FSDP2 cuts it. The life of one until FSDP2 has it
(ZeRO 3 cuts each anew: zero3.py):

    meta    the network is made without numbers
    part    a DTensor: this rank's rows of the weight, which transformers reads as slices of the file
    meta    fully_shard takes the network, in whose place the parts wait meanwhile
    part    what fully_shard made of the weight gets the part

What has to run with whole weights before that (the proof of a block) gathers those of one module (`gathered_weights`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Shard
from transformers import PreTrainedModel

from mafunzo.compute.model.loading import load_network
from mafunzo.compute.training.ranks import Ranks

BY_ROWS = (Shard(0),)


def load_parts(
    base: Path, ranks: Ranks, dtype: torch.dtype | None, trust_remote_code: bool, attention: str | None
) -> PreTrainedModel:
    """Return a network of whose weights this rank has its part, in the main memory; raises what `load_network` does."""
    mesh = init_device_mesh("cpu", (ranks.size,))
    return load_network(
        base,
        dtype=dtype,
        trust_remote_code=trust_remote_code,
        attention=attention,
        prepared=lambda net: _cut(net, mesh),
    )


def _cut(network: nn.Module, mesh: DeviceMesh) -> None:
    """Put parts without numbers in the place of the weights of a network that has none."""
    for module, name, weight in weights_in(network):
        part = weight.chunk(mesh.size())[mesh.get_local_rank()] if _has_part(weight, mesh) else weight[:0]
        cut = _shared_out(part, mesh, weight)
        module._parameters[name] = nn.Parameter(cut, requires_grad=weight.requires_grad)


def _has_part(weight: Tensor, mesh: DeviceMesh) -> bool:
    return mesh.get_local_rank() < len(weight.chunk(mesh.size()))


def weights_in(network: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Parameter]]:
    """Yield every place of a weight: its module, its name there, and the weight; a tied one has several."""
    for module in network.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                yield module, name, weight


def _shared_out(part: Tensor, mesh: DeviceMesh, whole: Tensor) -> DTensor:
    return DTensor.from_local(
        part, mesh, BY_ROWS, run_check=False, shape=torch.Size(whole.shape), stride=tuple(whole.stride())
    )


@dataclass(frozen=True)
class Parts:
    """The parts of a network's weights, by the weights that stand in their places."""

    of: dict[int, Tensor]
    places: dict[int, nn.Parameter]  # so that none is made anew at the same address


def take_parts(network: nn.Module, device: torch.device) -> Parts:
    """Take the parts out of a network, and put weights without numbers in their places: one for all places of a tied one."""
    parts, places = dict[int, Tensor](), dict[int, nn.Parameter]()
    for module, name, weight in list(weights_in(network)):
        if isinstance(weight, DTensor):
            if id(weight) not in places:
                empty = torch.empty(weight.shape, dtype=weight.dtype, device="meta")
                places[id(weight)] = nn.Parameter(empty, requires_grad=weight.requires_grad)
                parts[id(weight)] = cast(DTensor, weight.data).to_local().to(device)
            module._parameters[name] = places[id(weight)]
        elif weight.device != device:
            weight.data = weight.data.to(device)
    for buffer in network.buffers():
        buffer.data = buffer.data.to(device)
    return Parts(parts, places)


def names_of(network: nn.Module, parts: Parts) -> dict[tuple[nn.Module, str], Tensor]:
    """Return the part of each place in a network."""
    by_place = {id(place): parts.of[key] for key, place in parts.places.items()}
    return {(module, name): by_place[id(w)] for module, name, w in weights_in(network) if id(w) in by_place}


def give_parts(parts: dict[tuple[nn.Module, str], Tensor]) -> None:
    """Put parts into what `fully_shard` has made of the weights in their places."""
    weights = dict[int, nn.Parameter]()
    for (module, name), part in parts.items():
        empty: Any = module._parameters[name]
        if id(empty) not in weights:
            filled = DTensor.from_local(
                part, empty.device_mesh, empty.placements, run_check=False, shape=empty.shape, stride=empty.stride()
            )
            weights[id(empty)] = nn.Parameter(filled, requires_grad=empty.requires_grad)
        module._parameters[name] = weights[id(empty)]


def whole_of(weight: Any) -> nn.Parameter:
    """Return a weight of parts as a whole one, for which all ranks gather it together; any other as it is."""
    if not isinstance(weight, DTensor):
        return cast(nn.Parameter, weight)
    return nn.Parameter(cast(DTensor, weight.data).full_tensor(), requires_grad=weight.requires_grad)


@contextmanager
def gathered_weights(module: nn.Module) -> Iterator[None]:
    """Give a module whole weights while this lasts; all ranks do this together. Nothing where it has no parts."""
    before = [(one, name, weight) for one, name, weight in weights_in(module) if isinstance(weight, DTensor)]
    for one, name, weight in before:
        one._parameters[name] = whole_of(weight)
    try:
        yield
    finally:
        for one, name, weight in before:
            one._parameters[name] = weight
