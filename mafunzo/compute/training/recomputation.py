"""Recomputation: what a backward pass can make again from its inputs at little cost isn't kept for it.

Autograd keeps each step's result. Of a gated feed-forward block (SwiGLU, GEGLU) that is four tensors of the intermediate
size, of a norm two of the hidden size beside what the next layer keeps; half of each follows from the other half by
elementwise arithmetic, which takes a hundredth of the time of the matrix products around it:

    gate = x W_g     up = x W_u     kept: gate, up           made again: act(gate), act(gate) * up
    y = act(gate) * up W_d          act is SiLU or GELU; W_d with or without an adapter, whose gradient takes the product too
    r = 1 / sqrt(mean(x^2) + eps)   kept: x, r (a number a row)      made again: x r
    y = x r * w                     w counts from 0 or from 1 (Gemma); rounded before or after it

Architectures share these forms without saying so. So a block is taken for one only after it was run both ways, on a few
random rows, and gave the same output and the same gradients (`save_less`); any other keeps its own forward.

The backward passes, with dP = dY W_d^T and g = dy w:

    d up = dP * act(gate)        d gate = act'(gate) * dP * up        d x = r (g - x r mean(g * x r))        d w = sum dy * x r

Where even that is too much, whole layers are run a second time in the backward pass (`recompute_layers`), of which only the
input is kept: a third more work for each, and the same bits.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from mafunzo.compute.model.lora_layer import LoraLinear
from mafunzo.compute.training.parts import gathered_weights
from mafunzo.errors import MafunzoError

logger = logging.getLogger(__name__)

PROBE_ROWS = 5
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.03, torch.float16: 0.01}
"""How far, in the root mean square of what the architecture's own way gives, ours may lie."""


@dataclass(frozen=True)
class Activation:
    """An activation function and its derivative: `slope(d_out, x)` is the gradient by `x`."""

    value: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor, Tensor], Tensor]


ACTIVATIONS = (
    Activation(functional.silu, torch.ops.aten.silu_backward),
    Activation(
        lambda x: functional.gelu(x, approximate="tanh"),
        lambda d_out, x: torch.ops.aten.gelu_backward(d_out, x, approximate="tanh"),
    ),
    Activation(functional.gelu, torch.ops.aten.gelu_backward),
)


@dataclass(frozen=True)
class NormForm:
    """How a root-mean-square norm ends. offset: what the weight counts from. rounds_first: to the input's dtype before it
    is multiplied by the weight, instead of after."""

    offset: float
    rounds_first: bool


NORM_FORMS = (NormForm(0.0, True), NormForm(0.0, False), NormForm(1.0, False))


def save_less(network: nn.Module) -> int:
    """Give the network's gated blocks and norms a forward pass that keeps less, where it proves equal; return how many.

    To be called once the weights that train are chosen: the proof takes their gradients.
    """
    ways: dict[Any, Callable[..., Tensor] | None] = {}
    count = 0
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for module in network.modules():
            if "forward" in vars(module) or not (_is_gated(module) or _is_norm(module)):
                continue
            kind = _kind(module)
            if kind not in ways:
                ways[kind] = _equal_way(module)
            if (way := ways[kind]) is not None:
                module.forward = MethodType(way, module)
                count += 1
    own = sorted({kind[0].__name__ for kind, way in ways.items() if way is None})
    if own:
        logger.info("Keeps its own forward pass: %s", ", ".join(own))
    return count


def recompute_layers(network: PreTrainedModel, count: int) -> None:
    """Have the first `count` layers, and no others, run again in the backward pass (activation checkpointing)."""
    network.activation_checkpointing_enable({"use_reentrant": False})
    for index, layer in enumerate(_layers(network)):
        layer.gradient_checkpointing = index < count


def recomputable_layers(network: PreTrainedModel) -> int:
    """Return how many layers can be run again in the backward pass; 0 for an architecture without this."""
    return len(_layers(network)) if network.supports_gradient_checkpointing else 0


def recomputed_layers(network: PreTrainedModel) -> int:
    """Return how many layers are run again in the backward pass."""
    return sum(layer.gradient_checkpointing for layer in _layers(network))


def _layers(network: nn.Module) -> list[GradientCheckpointingLayer]:
    return [module for module in network.modules() if isinstance(module, GradientCheckpointingLayer)]


def _kind(module: nn.Module) -> tuple[Any, ...]:
    """Return what modules share that are right or wrong together: their code, and what they are made of."""
    parts = tuple((name, type(part)) for name, part in module.named_modules())
    weights = tuple((weight.dtype, weight.requires_grad) for weight in module.parameters())
    settings = tuple(
        (name, value) for name, value in sorted(vars(module).items()) if isinstance(value, int | float | str)
    )
    return type(module), parts, weights, settings


def _is_gated(module: nn.Module) -> bool:
    names = {name for name, _ in module.named_children()}
    is_linear = isinstance(getattr(module, "down_proj", None), nn.Linear | LoraLinear)
    return is_linear and ({"gate_proj", "up_proj"} <= names or "gate_up_proj" in names)


def _is_norm(module: nn.Module) -> bool:
    weights = dict(module.named_parameters())
    is_single = set(weights) == {"weight"} and weights["weight"].dim() == 1
    return is_single and next(module.children(), None) is None and _epsilon(module) is not None


def _epsilon(module: nn.Module) -> float | None:
    epsilon = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    return epsilon if isinstance(epsilon, float) else None


def _equal_way(module: nn.Module) -> Callable[..., Tensor] | None:
    """Return the first way to run a block that gives what its own gives, output and gradients; None if there is none."""
    width = _width(module)
    try:
        with gathered_weights(module):
            weights = list(module.parameters())
            x = torch.randn(1, PROBE_ROWS, width, device=weights[0].device).to(weights[0].dtype)
            expected = _run(module, module.forward, x)
            ways = _ways(module)
            return next((way for way in ways if _is_equal(_run(module, way.__get__(module), x), expected)), None)
    except (MafunzoError, RuntimeError, TypeError, ValueError, AttributeError) as error:
        logger.debug("%s can't be tried: %s", type(module).__name__, error)
        return None


def _ways(module: nn.Module) -> Iterator[Any]:
    if _is_norm(module):
        yield from (_norm_way(form) for form in NORM_FORMS)
    else:
        yield from (_gated_way(activation) for activation in ACTIVATIONS)


def _width(module: nn.Module) -> int:
    if _is_norm(module):
        return int(next(module.parameters()).shape[0])
    first = getattr(module, "gate_up_proj", None) or module.gate_proj
    linear = first.base if isinstance(first, LoraLinear) else first
    assert isinstance(linear, nn.Linear)
    return linear.in_features


def _run(module: nn.Module, forward: Callable[[Tensor], Tensor], x: Tensor) -> list[Tensor]:
    """Return what a forward pass gives, and the gradients of its input and of all weights that train."""
    x = x.detach().clone().requires_grad_()
    weights = [weight for weight in module.parameters() if weight.requires_grad]
    with torch.enable_grad():
        y = forward(x)
        d_y = torch.linspace(-1, 1, y.numel(), dtype=torch.float32, device=y.device).sin().view_as(y).to(y.dtype)
        return [y.detach(), *torch.autograd.grad(y, [x, *weights], d_y)]


def _is_equal(ours: list[Tensor], own: list[Tensor]) -> bool:
    return all(
        mine.dtype == theirs.dtype
        and mine.shape == theirs.shape
        and _distance(mine, theirs) <= _TOLERANCE[own[0].dtype]
        for mine, theirs in zip(ours, own, strict=True)
    )


def _distance(ours: Tensor, own: Tensor) -> float:
    size = float(own.float().square().mean().sqrt())
    difference = float((ours.float() - own.float()).square().mean().sqrt())
    return difference / size if size else difference


def _gated_way(activation: Activation) -> Callable[[Any, Tensor], Tensor]:
    def forward(module: Any, x: Tensor) -> Tensor:
        gate, up = _gate_and_up(module, x)
        layer = module.down_proj
        is_more = isinstance(layer, LoraLinear) and (layer.start_A is not None or layer.lora_magnitude is not None)
        if is_more or any(part._forward_hooks or part._forward_pre_hooks for part in layer.modules()):
            down: Tensor = layer(activation.value(gate) * up)  # its weights may be elsewhere until its hooks fetch them
            return down
        return _gated_product(gate, up, layer, activation)

    return forward


def _gate_and_up(module: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    if hasattr(module, "gate_up_proj"):
        gate, up = module.gate_up_proj(x).chunk(2, dim=-1)
        return gate, up
    return module.gate_proj(x), module.up_proj(x)


def _gated_product(gate: Tensor, up: Tensor, layer: nn.Linear | LoraLinear, activation: Activation) -> Tensor:
    """Return `act(gate) * up` through a linear layer with or without an adapter."""
    base, a, b, scaling, dropout = layer, None, None, 1.0, 0.0
    if isinstance(layer, LoraLinear):
        base, a, b, scaling = layer.base, layer.lora_A, layer.lora_B, layer.scaling
        dropout = layer.dropout if layer.training else 0.0
    with torch.autocast(gate.device.type, enabled=False):
        y: Tensor = _GatedProduct.apply(gate, up, base.weight, base.bias, a, b, activation, scaling, dropout)  # type: ignore[no-untyped-call]
    return y


class _GatedProduct(torch.autograd.Function):
    """`(act(gate) * up) W^T + b + s (dropout(act(gate) * up) A^T) B^T`, of which only `gate` and `up` are kept."""

    @staticmethod
    def forward(
        ctx: Any,
        gate: Tensor,
        up: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        lora_a: Tensor | None,
        lora_b: Tensor | None,
        activation: Activation,
        scaling: float,
        dropout: float,
    ) -> Tensor:
        dtype = gate.dtype
        rows = (activation.value(gate) * up).reshape(-1, weight.shape[1])
        y = functional.linear(rows, weight.to(dtype), None if bias is None else bias.to(dtype))
        hidden, is_kept = None, None
        if lora_a is not None and lora_b is not None:
            if dropout > 0:  # the same numbers that torch's dropout would draw
                is_kept = torch.empty_like(rows).bernoulli_(1 - dropout).bool()
                rows = _dropped(rows, is_kept, dropout)
            hidden = rows @ lora_a.to(dtype).t()
            y.addmm_(hidden, lora_b.to(dtype).t(), alpha=scaling)
        ctx.save_for_backward(gate, up, weight, bias, lora_a, lora_b, hidden, is_kept)
        ctx.options = activation, scaling, dropout
        return y.view(*gate.shape[:-1], weight.shape[0])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        gate, up, weight, bias, lora_a, lora_b, hidden, is_kept = ctx.saved_tensors
        activation, scaling, dropout = ctx.options
        needs_gate, needs_up, needs_weight, needs_bias, needs_a, needs_b = ctx.needs_input_grad[:6]
        dtype = gate.dtype
        dy = grads[0].reshape(-1, weight.shape[0])
        activated = activation.value(gate)
        rows = (activated * up).reshape(-1, weight.shape[1])
        d_rows = dy @ weight.to(dtype)
        d_weight = (dy.t() @ rows).to(weight.dtype) if needs_weight else None
        d_bias = dy.sum(0).to(bias.dtype) if needs_bias else None
        d_a = d_b = None
        if hidden is not None:
            a, b = lora_a.to(dtype), lora_b.to(dtype)
            adapter_rows = rows if is_kept is None else _dropped(rows, is_kept, dropout)
            d_hidden = (dy @ b).mul_(scaling)
            d_a = (d_hidden.t() @ adapter_rows).to(lora_a.dtype) if needs_a else None
            d_b = (dy.t() @ hidden).to(lora_b.dtype).mul_(scaling) if needs_b else None
            if is_kept is None:
                d_rows.addmm_(d_hidden, a)
            else:
                d_rows += _dropped(d_hidden @ a, is_kept, dropout)
        d_rows = d_rows.view_as(activated)
        d_up = activated.mul_(d_rows) if needs_up else None
        d_gate = activation.slope(d_rows.mul_(up), gate) if needs_gate else None
        return d_gate, d_up, d_weight, d_bias, d_a, d_b, None, None, None


def _dropped(rows: Tensor, is_kept: Tensor, dropout: float) -> Tensor:
    return rows * is_kept.to(rows.dtype).div_(1 - dropout)


def _norm_way(form: NormForm) -> Callable[[Any, Tensor], Tensor]:
    def forward(module: Any, x: Tensor) -> Tensor:
        y: Tensor = _Norm.apply(x, module.weight, _epsilon(module), form)  # type: ignore[no-untyped-call]
        return y

    return forward


class _Norm(torch.autograd.Function):
    """`x / sqrt(mean(x^2) + eps)`, computed in float32, times a weight; of which `x` and a number a row are kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float, form: NormForm) -> Tensor:
        exact = x.float()
        scale = torch.rsqrt(exact.pow(2).mean(-1, keepdim=True) + epsilon)
        ctx.save_for_backward(x, scale, weight)
        ctx.form = form
        unit = exact * scale
        if form.rounds_first:
            return weight * unit.to(x.dtype)
        return unit.mul_(form.offset + weight.float()).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, weight = ctx.saved_tensors
        form, dy = ctx.form, grads[0]
        needs_x, needs_weight = ctx.needs_input_grad[:2]
        unit = x.float() * scale
        d_weight = None
        if needs_weight:
            factor = unit.to(x.dtype) if form.rounds_first else unit
            d_weight = (dy * factor).sum(dim=tuple(range(x.dim() - 1))).to(weight.dtype)
        if not needs_x:
            return None, d_weight, None, None
        d_unit = (dy * weight).float() if form.rounds_first else dy.float() * (form.offset + weight.float())
        inner = (d_unit * unit).mean(-1, keepdim=True)
        d_x = d_unit.sub_(unit.mul_(inner)).mul_(scale)
        return d_x.to(x.dtype), d_weight, None, None
