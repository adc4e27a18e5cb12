"""Several LoRA adapters on one network, in one batch: each token is computed by its own row's adapter, or by none.

The weights of the base are multiplied once for all tokens of a forward. What an adapter adds is small (`s (x A^T) B^T`, two
thin matrices), and is computed for the columns of its own rows alone, so that rows without one are exactly the base's:

    columns      0  1  2  3  4  5  6  7
    row          A  A  A  B  B  -  C  C        A, C: of adapter 1    B: of adapter 2    -: of none
    base         x  x  x  x  x  x  x  x
    adapter 1    +  +  +              +  +     columns 0, 1, 2, 6, 7
    adapter 2             +  +                 columns 3, 4

Memory grows by the adapters' factors alone. A network that was loaded with an adapter of its own keeps it: when the first other
one comes, its factors become those of all rows that name none.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from mafunzo.compute.inference.executor import Row
from mafunzo.compute.inference.kv_cache import Segment
from mafunzo.compute.inference.packing import PackedLinear, PackedLora
from mafunzo.compute.model.lora import read_factors
from mafunzo.compute.model.lora_layer import Factors, LoraLinear
from mafunzo.errors import Conflict, NotSupported

OWN = ""
"""The name of the adapter that the network was loaded with."""


class Selection:
    """Which columns of the next forward are whose: by an adapter's name, [its columns]. Shared by all layers."""

    def __init__(self) -> None:
        self.columns: dict[str, Tensor] = {}
        self.count = 0


class AdapterLinear(nn.Module):
    """A linear layer with what adapters add to it."""

    def __init__(
        self, base: nn.Linear | PackedLinear, in_features: int, out_features: int, selection: Selection
    ) -> None:
        super().__init__()
        self.base = base
        self.in_features, self.out_features = in_features, out_features
        self.factors: dict[str, Factors] = {}
        self._selection = selection

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        columns_by_name = self._selection.columns
        if not columns_by_name:
            return y
        rows, sums = x.reshape(-1, self.in_features), y.view(-1, self.out_features)
        assert len(rows) == self._selection.count, "a layer of an adapter sees all tokens of a forward"
        for name, columns in columns_by_name.items():
            factors = self.factors.get(name)
            if factors is not None and factors.gain is not None:
                sums[columns] = self._with_gain(rows[columns], sums[columns], factors, factors.gain)
            elif factors is not None:
                sums.index_add_(0, columns, (rows[columns] @ factors.a.t()) @ factors.b.t(), alpha=factors.scaling)
        return y

    def _with_gain(self, rows: Tensor, sums: Tensor, factors: Factors, gain: Tensor) -> Tensor:
        """Return `g * (x W^T + s (x A^T) B^T) + b` of `x W^T + b` (DoRA)."""
        bias = self.base.bias
        product = sums if bias is None else sums - bias
        product = gain * product.addmm(rows @ factors.a.t(), factors.b.t(), alpha=factors.scaling)
        return product if bias is None else product + bias


class Adapters:
    """The adapters of a network, by name."""

    def __init__(self, network: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
        self._network, self._device, self._dtype = network, device, dtype
        self._selection = Selection()
        self._own: str | None = None
        self.names: set[str] = set()

    def load(self, name: str, folder: Path) -> None:
        """Load an adapter from a folder in peft's format; rows may name it from the next forward on.

        Raises what `read` and `add` do.
        """
        self._require_free(name)
        self.add(name, self.read(folder))

    def read(self, folder: Path) -> dict[str, Factors]:
        """Read an adapter (peft's format) by layer, as the network computes it; also during a forward, on another thread.

        Raises what `lora.load_adapter` does, and `NotSupported` for an adapter of the output head, which sees only the tokens
        whose logits are wanted.
        """
        linears = self._linears()
        _, factors = read_factors(folder, linears, type(self._network).__name__)
        head = self._network.get_output_embeddings()  # type: ignore[operator]
        for layer in factors:
            module = self._network.get_submodule(layer)
            if module is head or getattr(module, "base", None) is head:
                raise NotSupported(
                    f"{folder}: {layer} is the output head: an adapter of it can't be served beside others."
                )
        if isinstance(head, LoraLinear | PackedLora):
            raise NotSupported(
                "The network's own adapter is one of the output head too: no other can be served beside it."
            )
        return {
            layer: one.beside(None if one.magnitude is None else _weight_of(linears[layer]), self._device, self._dtype)
            for layer, one in factors.items()
        }

    def add(self, name: str, factors: Mapping[str, Factors]) -> None:
        """Add an adapter that `read` has read; not during a forward. Raises `Conflict` for a name that is taken."""
        self._require_free(name)
        self._separate_own()
        linears = self._linears()
        for layer, layer_factors in factors.items():
            self._wrapped(layer, linears[layer]).factors[name] = layer_factors
        self.names.add(name)

    def remove(self, name: str) -> None:
        """Forget an adapter, and free its memory; not during a forward, nor while there are rows of it."""
        self.names.remove(name)
        for module in self._network.modules():
            if isinstance(module, AdapterLinear):
                module.factors.pop(name, None)

    def select(self, rows: Sequence[Row], segments: Sequence[Segment]) -> None:
        """Announce whose the columns of the next forward are."""
        columns: dict[str, list[int]] = {}
        for row, segment in zip(rows, segments, strict=True):
            assert row.adapter is None or row.adapter in self.names, "the engine has checked the name"
            name = self._own if row.adapter is None else row.adapter
            if name is not None:
                columns.setdefault(name, []).extend(range(segment.columns.start, segment.columns.stop))
        self._selection.columns = {name: torch.tensor(index, device=self._device) for name, index in columns.items()}
        self._selection.count = segments[-1].columns.stop

    def _require_free(self, name: str) -> None:
        if name in self.names:
            raise Conflict(f"There is an adapter '{name}' already. Choose another name.")

    def _linears(self) -> "Mapping[str, nn.Linear | PackedLinear | AdapterLinear]":
        """Return the layers that an adapter can be on, by name."""
        kinds = nn.Linear | PackedLinear | AdapterLinear
        layers = {
            name: module.base if isinstance(module, LoraLinear) else module
            for name, module in self._network.named_modules()
        }
        return {name: layer for name, layer in layers.items() if isinstance(layer, kinds)}

    def _separate_own(self) -> None:
        """Take the network's own adapter, if it has one, out of its layers: from now on it is an adapter as others are."""
        for name, module in list(self._network.named_modules()):
            if isinstance(module, LoraLinear):
                dtype = module.base.weight.dtype
                factors = module.factors.beside(module.base.weight, module.base.weight.device, dtype)
                self._put(name, module.base).factors[OWN] = factors
            elif isinstance(module, PackedLora):
                plain, factors = module.separated()
                self._put(name, plain).factors[OWN] = factors
            else:
                continue
            self._own = OWN

    def _wrapped(self, name: str, linear: "nn.Linear | PackedLinear | AdapterLinear") -> AdapterLinear:
        """Return the layer that has adapters, which takes the plain one's place the first time."""
        return linear if isinstance(linear, AdapterLinear) else self._put(name, linear)

    def _put(self, name: str, linear: nn.Linear | PackedLinear) -> AdapterLinear:
        layer = AdapterLinear(linear, linear.in_features, linear.out_features, self._selection)
        parent, _, attribute = name.rpartition(".")
        setattr(self._network.get_submodule(parent), attribute, layer)
        return layer


def _weight_of(linear: "nn.Linear | PackedLinear | AdapterLinear") -> Tensor:
    """Return the weight of a layer, packed or not."""
    if isinstance(linear, AdapterLinear):
        return _weight_of(linear.base)
    return linear.unpacked() if isinstance(linear, PackedLinear) else linear.weight
