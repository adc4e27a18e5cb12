"""The layer of a LoRA adapter (low-rank adaptation): a frozen linear layer, and what is trained beside it.

`W` is a frozen weight (out x in); the adapter adds `s B A` to it, with `A` (r x in) and `B` (out x r) trainable, and `s` of
`alpha / r` (Hu et al. 2021, arXiv 2106.09685) or `alpha / sqrt(r)` (rank-stabilized: Kalajdzievski 2023, arXiv 2312.03732).
`A` and `B` are float32; the product is computed in the dtype of `W`.

PiSSA (Meng et al. 2024, arXiv 2404.02948) starts `A` and `B` from the greatest singular values of `W` and trains them beside
what is left of it, `W - s B0 A0`. Here `W` stays as it is, and what they were at their start is subtracted instead:

    x (W - s B0 A0)^T + s x (B A)^T  =  x W^T + s x ([B, -B0] [A; A0])^T

So what is saved is what was trained: a plain adapter of the base, of twice the rank.

DoRA (Liu et al. 2024, arXiv 2402.09353) trains the norm of each row of the sum apart from its direction, as a vector `m`:

    x (W + s B A)^T  becomes  g * x (W + s B A)^T    with g = m / |W + s B A|, the norms of rows, through which no gradient goes
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

PLAIN_START = "true"
"""What peft calls the start of an adapter whose `A` is uniform and whose `B` is zero."""


@dataclass(frozen=True)
class Factors:
    """What an adapter adds to the weight of one layer: `scaling * b a`, with `a` (r x in) and `b` (out x r).

    magnitude: the norms that the rows of the sum are to have (DoRA). gain: what they are multiplied with for that.
    """

    a: Tensor
    b: Tensor
    scaling: float
    magnitude: Tensor | None = None
    gain: Tensor | None = None

    def beside(self, weight: Tensor | None, device: torch.device, dtype: torch.dtype) -> "Factors":
        """Return them as they are computed beside a weight, which is needed where there is a magnitude."""
        gain = self.gain
        if self.magnitude is not None and weight is not None:
            a, b = self.a.to(weight.device), self.b.to(weight.device)
            gain = self.magnitude.to(weight.device) / row_norms(weight, a, b, self.scaling)
        gain = None if gain is None else gain.to(device, dtype)
        return Factors(self.a.to(device, dtype), self.b.to(device, dtype), self.scaling, gain=gain)

    @property
    def rank(self) -> int:
        return int(self.a.shape[0])


def row_norms(weight: Tensor, a: Tensor, b: Tensor, scaling: float, squares: Tensor | None = None) -> Tensor:
    """Return the norms of the rows of `W + s B A`, which isn't made: the roots of `|w|^2 + 2 s w (BA) + s^2 |BA|^2`.

    squares: `|w|^2`, if it is known. No gradient goes through.
    """
    with torch.no_grad(), torch.autocast(weight.device.type, enabled=False):
        squares = row_squares(weight) if squares is None else squares
        mixed = ((weight @ a.t().to(weight.dtype)).float() * b).sum(1)
        own = ((b @ (a @ a.t())) * b).sum(1)
        return (squares + 2 * scaling * mixed + scaling**2 * own).clamp_min(torch.finfo(torch.float32).tiny).sqrt()


def row_squares(weight: Tensor) -> Tensor:
    """Return the squared norms of a weight's rows, in float32."""
    return weight.detach().float().square().sum(1)


class LoraLinear(nn.Module):
    """A frozen `nn.Linear` with an adapter beside it.

    start_A, start_B: what is subtracted of it, if it starts from `W`. lora_magnitude: the norms of the sum's rows, with DoRA.
    """

    start_A: Tensor | None
    start_B: Tensor | None
    lora_magnitude: nn.Parameter | None
    squares: Tensor | None

    def __init__(
        self,
        base: nn.Linear,
        r: int,
        scaling: float,
        dropout: float = 0.0,
        start: str | None = PLAIN_START,
        has_magnitude: bool = False,
    ) -> None:
        """start: as peft's `init_lora_weights` names it; None where the factors are put in later. Each adds nothing to `W`."""
        super().__init__()
        self.base = base.requires_grad_(False)
        self.scaling = scaling
        self.dropout = dropout
        device = base.weight.device
        self.lora_A = nn.Parameter(torch.empty(r, base.in_features, dtype=torch.float32, device=device))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, r, dtype=torch.float32, device=device))
        self.register_buffer("start_A", None, persistent=False)
        self.register_buffer("start_B", None, persistent=False)
        if start is not None:
            self._begin(start)
        self.register_parameter("lora_magnitude", None)
        self.register_buffer("squares", row_squares(base.weight) if has_magnitude else None, persistent=False)
        if has_magnitude:
            self.lora_magnitude = nn.Parameter(
                self._norms() if start is not None else torch.empty_like(self.lora_B[:, 0])
            )

    def _begin(self, start: str) -> None:
        """Draw the factors, with the same random numbers as peft: it makes two linear layers first."""
        r = self.lora_A.shape[0]
        a = _uniform(r, self.base.in_features)
        _uniform(self.base.out_features, r)
        if start.startswith("pissa"):
            self.begin_at(*self._decomposed(int(start.partition("_niter_")[2] or 0)))
            return
        a = a.normal_(std=1 / r) if start == "gaussian" else _uniform(r, self.base.in_features)
        self.lora_A.data.copy_(a)

    def _decomposed(self, rounds: int) -> tuple[Tensor, Tensor]:
        """Return the factors of the weight's greatest singular values; rounds: of the randomized way, 0 for the exact one."""
        weight, r = self.base.weight.detach().float(), self.lora_A.shape[0]
        if rounds:
            u, s, v = torch.svd_lowrank(weight, r, niter=rounds)
            vh = v.t()
        else:
            u, s, vh = torch.linalg.svd(weight, full_matrices=False)
        root = (s[:r] / self.scaling).sqrt()
        return root[:, None] * vh[:r], u[:, :r] * root

    def begin_at(self, a: Tensor, b: Tensor) -> None:
        """Start from factors of the weight, which are subtracted from now on."""
        self.start_A, self.start_B = a.contiguous(), b.contiguous()
        self.lora_A.data.copy_(a)
        self.lora_B.data.copy_(b)

    @property
    def is_at_start(self) -> bool:
        """Whether the adapter adds nothing yet."""
        if self.lora_magnitude is not None and not torch.equal(self.lora_magnitude, self._norms()):
            return False
        if self.start_A is None or self.start_B is None:
            return not bool(self.lora_B.any())
        return torch.equal(self.lora_A, self.start_A) and torch.equal(self.lora_B, self.start_B)

    @property
    def factors(self) -> Factors:
        """What it adds to the weight, with what is subtracted."""
        a, b = self.lora_A.detach(), self.lora_B.detach()
        if self.start_A is not None and self.start_B is not None:
            a, b = torch.cat([a, self.start_A]), torch.cat([b, -self.start_B], dim=1)
        magnitude = None if self.lora_magnitude is None else self.lora_magnitude.detach()
        return Factors(a, b, self.scaling, magnitude)

    def _norms(self) -> Tensor:
        return row_norms(self.base.weight, self.lora_A, self.lora_B, self.scaling, self.squares)

    @property
    def weight(self) -> Tensor:
        """The frozen weight, where an architecture asks its layer for a dtype or device."""
        return self.base.weight

    @property
    def bias(self) -> Tensor | None:
        return self.base.bias

    def forward(self, x: Tensor) -> Tensor:
        x_dropout = nn.functional.dropout(x, self.dropout) if self.training and self.dropout > 0 else None
        if self.lora_magnitude is not None:
            return self._with_magnitude(self.lora_magnitude, x, x_dropout)
        y: Tensor = _LoraProduct.apply(
            x, x_dropout, self.base.weight, self.base.bias, self.lora_A, self.lora_B, self.scaling
        )  # type: ignore[no-untyped-call]
        if self.start_A is None or self.start_B is None:
            return y
        hidden = nn.functional.linear(x, self.start_A.to(x.dtype))
        return y - self.scaling * nn.functional.linear(hidden, self.start_B.to(x.dtype))

    def _with_magnitude(self, magnitude: Tensor, x: Tensor, x_dropout: Tensor | None) -> Tensor:
        """Return `g * x (W + s B A)^T + b`; of a part of the input, as peft does it, with what the whole gives more of `W`."""
        weight, bias = self.base.weight, self.base.bias
        rows = x if x_dropout is None else x_dropout
        sums: Tensor = _LoraProduct.apply(rows, None, weight, None, self.lora_A, self.lora_B, self.scaling)  # type: ignore[no-untyped-call]
        y = sums * (magnitude / self._norms()).to(sums.dtype)
        if x_dropout is None:
            return y if bias is None else y + bias.to(y.dtype)
        return y + nn.functional.linear(x, weight, bias) - nn.functional.linear(x_dropout, weight)

    def merged(self) -> nn.Linear:
        """Return the base layer with the adapter added into its weight; summed in float32, then rounded once."""
        factors, weight = self.factors, self.base.weight
        total = weight.detach().float() + ((factors.b @ factors.a) * self.scaling).to(weight.device)
        if factors.magnitude is not None:
            total *= (factors.magnitude.to(weight.device) / torch.linalg.vector_norm(total, dim=1))[:, None]
        with torch.no_grad():
            weight.copy_(total.to(weight.dtype))
        return self.base


def _uniform(rows: int, columns: int) -> Tensor:
    """Return a matrix as `nn.Linear` starts with (He et al.)."""
    matrix = torch.empty(rows, columns)
    nn.init.kaiming_uniform_(matrix, a=math.sqrt(5))
    return matrix


class _LoraProduct(torch.autograd.Function):
    """`x W^T + b + s (x A^T) B^T` with a backward pass by hand.

    Autograd would store both products and sum them in extra passes over memory; here the matrix multiplication
    accumulates into its output (`addmm`). No gradient of `W` is ever computed, nor of `x` where none is needed.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        x_dropout: Tensor | None,
        weight: Tensor,
        bias: Tensor | None,
        lora_a: Tensor,
        lora_b: Tensor,
        scaling: float,
    ) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        adapter_rows = rows if x_dropout is None else x_dropout.reshape(-1, x.shape[-1])
        a, b = lora_a.to(x.dtype), lora_b.to(x.dtype)
        hidden = adapter_rows @ a.t()
        y = torch.nn.functional.linear(rows, weight, bias)
        y.addmm_(hidden, b.t(), alpha=scaling)
        ctx.save_for_backward(adapter_rows, hidden, weight, a, b)
        ctx.scaling = scaling
        ctx.x_shape = x.shape
        ctx.has_dropout = x_dropout is not None
        ctx.factor_dtype = lora_a.dtype
        return y.view(*x.shape[:-1], weight.shape[0])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        adapter_rows, hidden, weight, a, b = ctx.saved_tensors
        needs_x, needs_x_dropout, _, _, needs_a, needs_b, _ = ctx.needs_input_grad
        dy = grads[0].reshape(-1, weight.shape[0])
        d_hidden = (dy @ b).mul_(ctx.scaling)
        d_a = (d_hidden.t() @ adapter_rows).to(ctx.factor_dtype) if needs_a else None
        d_b = (dy.t() @ hidden).to(ctx.factor_dtype).mul_(ctx.scaling) if needs_b else None
        d_x = dy @ weight if needs_x else None
        d_x_dropout = None
        if ctx.has_dropout and needs_x_dropout:
            d_x_dropout = (d_hidden @ a).view(ctx.x_shape)
        elif d_x is not None and not ctx.has_dropout:
            d_x.addmm_(d_hidden, a)
        return None if d_x is None else d_x.view(ctx.x_shape), d_x_dropout, None, None, d_a, d_b, None
