"""The quantizers of AQD (Eq. 1-3): what a value becomes before it enters a convolution.

Both keep one learned clip value ν, are trained by the straight-through estimator, and give their integers
exactly: `value == integer * step` holds bit for bit in float32, which is what the exporter relies on.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from aqd_deploy.errors import ScaleError

MIN_BITS, MAX_BITS = 2, 8
SAMPLES_PER_BATCH = 4096


def check_bits(bits: int) -> int:
    """Returns `bits` if AQD knows that width (2 to 8), raises ValueError otherwise."""
    if not isinstance(bits, int) or not MIN_BITS <= bits <= MAX_BITS:
        raise ValueError(f"bits must be a whole number from {MIN_BITS} to {MAX_BITS}, got {bits!r}")
    return bits


class _RoundHalfEven(torch.autograd.Function):
    """Rounds to the nearest integer, ties to even; the gradient passes unchanged (straight-through)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.round(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class _Quantize(torch.autograd.Function):
    """A quantizer's codes, `codes(x, step)` (a new tensor), times the step, with the gradients of LSQ.

    With step = |ν| / top_code, d out/d x is 1 inside the clip range and 0 outside, and d out/d ν times ν is
    out - x inside and out outside: Σ (g·out - g·inside·x) / ν. That is multiplied by `factor`, and needs only
    input and output. Bounds are compared in steps, so that on a card nothing waits for a number.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, nu: Tensor, codes: Callable[[Tensor, Tensor], Tensor], low: int, top: int,
        factor: float,
    ) -> Tensor:  # fmt: skip
        step = nu.abs() / top
        out = codes(x, step).mul_(step)
        ctx.low, ctx.top, ctx.factor = low, top, factor
        ctx.save_for_backward(x, nu, out, step)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, nu, out, step = ctx.saved_tensors
        inside = torch.ops.aten.hardtanh_backward(gradient, x / step, ctx.low, ctx.top)
        if not ctx.needs_input_grad[1]:
            return inside, None, None, None, None, None
        moved = (gradient * out).addcmul_(inside, x, value=-1).sum() / nu
        return inside, moved * ctx.factor, None, None, None, None


def round_half_even(x: Tensor) -> Tensor:
    """Nearest integer with a straight-through gradient, any shape."""
    return _RoundHalfEven.apply(x)


def _best_clip(values: Tensor, top: int, zero_point: int | None) -> float:
    """The clip value ν with the smallest squared error on `values` (1-D), by search over 80 candidates; codes
    go from -zero_point to `top`, or are the odd ones from -top to `top`.
    """
    largest = float(values.abs().max()) if values.numel() else 0.0
    if largest <= 0 or not math.isfinite(largest):
        return 1.0
    clips = [largest * fraction for fraction in torch.linspace(1.0, 0.05, 80).tolist()]
    errors = []
    for clip in clips:
        step = clip / top
        if zero_point is None:
            q = 2 * torch.round((torch.clamp(values / clip, -1, 1) + 1) * (top / 2)) - top
        else:
            q = torch.round(torch.clamp(values / step, -zero_point, top))
        errors.append(((q * step - values) ** 2).mean())
    # Compared together: on a card each number that the host looks at is a wait.
    return clips[min(enumerate(torch.stack(errors).tolist()), key=lambda each: each[1])[0]]


class _Quantizer(nn.Module):
    """What both quantizers share: the bit width and the learned clip value `nu` (float32, used as |ν|), which
    `top` steps reach.
    """

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = check_bits(bits)
        self.top_code = self.top = 2**bits - 1
        self.nu = nn.Parameter(torch.tensor(1.0))

    def step(self) -> Tensor:
        """The step |ν| / top, a float32 scalar; ScaleError where it is not positive and finite."""
        step = self.nu.detach().abs() / self.top
        if not bool(torch.isfinite(step)) or float(step) <= 0:
            raise ScaleError(
                "a quantizer's step must be a positive finite number",
                received=f"ν = {float(self.nu.detach())}",
            )
        return step

    def _gradient_factor(self, numel: int) -> float:
        """By which ν's gradient is scaled: SGD then moves ν as LSQ's 1/√(numel·top_code) moves the step."""
        return self.top_code**2 / math.sqrt(max(numel, 1) * self.top_code)

    def extra_repr(self) -> str:
        return f"bits={self.bits}"


class ActivationQuantizer(_Quantizer):
    """Eq. 2: q = round_half_even(clamp(x / step, 0, 2^b - 1)), step = |ν| / (2^b - 1), value q · step.

    Behind a leaky ReLU, whose slope is `leak`, codes have a zero point z (ours; the paper has ReLU only): the
    share of the codes that values have below 0 where they reach as far on both sides in front of it, rounded.
    Then q = round_half_even(clamp(x / step, -z, 2^b - 1 - z)) and step = |ν| / (2^b - 1 - z). With a slope
    of 0.1, z is 23 at 8 bits, 1 at 4 and 3, and 0 at 2: there what is negative becomes 0.

    While `observing` is set it passes its input on and keeps samples of it, from which `calibrate` picks ν.
    """

    def __init__(self, bits: int, leak: float = 0.0) -> None:
        super().__init__(bits)
        self.zero_point = round(self.top_code * leak / (1 + leak))
        self.top = self.top_code - self.zero_point
        self.observing = False
        self._samples: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        if self.observing:
            self._observe(x)
            return x
        factor = self._gradient_factor(x[0].numel() if x.dim() else 1)
        return _Quantize.apply(x, self.nu, self._codes, -self.zero_point, self.top, factor)

    def _codes(self, x: Tensor, step: Tensor) -> Tensor:
        """A new tensor."""
        return torch.div(x, step).clamp_(-self.zero_point, self.top).round_()

    def integer(self, x: Tensor) -> Tensor:
        """The codes of `x`, q + z, uint8, the same shape."""
        q = torch.round(torch.clamp(x.detach() / self.step(), -self.zero_point, self.top))
        return (q + self.zero_point).to(torch.uint8)

    def _observe(self, x: Tensor) -> None:
        flat = x.detach().flatten()
        stride = max(1, flat.numel() // SAMPLES_PER_BATCH)
        self._samples.append(flat[::stride].clone())

    def clip_of(self, values: Tensor) -> float:
        """The ν of least squared error on values, 1-D."""
        return _best_clip(values, self.top, self.zero_point)

    def calibrate(self) -> None:
        """Sets ν from the observed samples (`clip_of`) and ends the observation."""
        if self._samples:
            values = torch.cat(self._samples)
            with torch.no_grad():
                self.nu.fill_(self.clip_of(values if self.zero_point else values.clamp(min=0)))
        self._samples = []
        self.observing = False


class WeightQuantizer(_Quantizer):
    """Eq. 3: η = round_half_even((clip(w/ν, -1, 1) + 1)/2 · N), q = 2η - N odd, value q · |ν|/N, N = 2^b - 1.

    With `standardize` the layer's weights are first brought to mean 0 and deviation 1, and stay so.
    """

    def __init__(self, bits: int, standardize: bool = False) -> None:
        super().__init__(bits)
        self.standardize = standardize

    def prepared(self, weight: Tensor) -> Tensor:
        """`weight` as it is quantized: standardised where the layer is."""
        if not self.standardize:
            return weight
        return (weight - weight.mean()) / weight.std().clamp(min=1e-12)

    def _odd(self, weight: Tensor, clip: Tensor) -> Tensor:
        """A new tensor."""
        eta = (weight / clip).clamp_(-1, 1).add_(1).mul_(self.top_code / 2).round_()
        return eta.mul_(2).sub_(self.top_code)

    def forward(self, weight: Tensor) -> Tensor:
        factor = self._gradient_factor(weight.numel())
        prepared = self.prepared(weight)
        return _Quantize.apply(prepared, self.nu, self._codes, -self.top_code, self.top_code, factor)

    def _codes(self, weight: Tensor, _: Tensor) -> Tensor:
        return self._odd(weight, self.nu.detach().abs())

    def integer(self, weight: Tensor) -> Tensor:
        """The odd integers q of `weight`, int16 in [-N, N], the same shape."""
        with torch.no_grad():
            return self._odd(self.prepared(weight), self.nu.abs()).to(torch.int16)

    def clip_of(self, values: Tensor) -> float:
        """The ν of least squared error on prepared weights, 1-D."""
        return _best_clip(values, self.top_code, None)

    def initialize(self, weight: Tensor) -> None:
        """Sets ν to the clip value (`clip_of`) of `weight`."""
        with torch.no_grad():
            self.nu.fill_(self.clip_of(self.prepared(weight).flatten()))

    def extra_repr(self) -> str:
        return f"bits={self.bits}, standardize={self.standardize}"
