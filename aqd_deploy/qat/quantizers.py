"""The quantizers of AQD (Eq. 1-3): what a value becomes before it enters a convolution.

Both keep one learned clip value ν, are trained by the straight-through estimator, and give their integers
exactly: `value == integer * step` holds bit for bit in float32, which is what the exporter relies on.
"""

from __future__ import annotations

import math
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


class _ScaleGradient(torch.autograd.Function):
    """The identity whose gradient is multiplied by a constant (the value itself must not be re-rounded)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.factor, None


class _QuantizeActivation(torch.autograd.Function):
    """round_half_even(clamp(x / step, 0, top_code)) * step with the gradients of LSQ.

    d out/d x is 1 inside (0, top_code * step) and 0 outside; d out/d step is q - x/step inside and q outside,
    which needs only the input and the output: Σ g·q - Σ g·inside·x/step. On a card nothing waits for a number.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Tensor, top_code: int) -> Tensor:
        out = torch.div(x, step).clamp_(0, top_code).round_().mul_(step)
        ctx.top_code = top_code
        ctx.save_for_backward(x, step, out)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        x, step, out = ctx.saved_tensors
        inside = _inside(gradient, x, step * ctx.top_code)
        step_gradient = ((gradient * out).sum() - (inside * x).sum()) / step
        return inside, step_gradient, None


def _inside(gradient: Tensor, x: Tensor, upper: Tensor) -> Tensor:
    """The gradient where x is inside (0, upper), 0 elsewhere; `upper` is a scalar."""
    if x.is_cuda:
        return torch.where((x > 0) & (x < upper), gradient, 0.0)
    return torch.ops.aten.hardtanh_backward(gradient, x, 0.0, float(upper))


def round_half_even(x: Tensor) -> Tensor:
    """Nearest integer with a straight-through gradient, any shape."""
    return _RoundHalfEven.apply(x)


def _best_clip(values: Tensor, bits: int, *, odd: bool) -> float:
    """The clip value ν with the smallest squared error on `values` (1-D), by search over 80 candidates."""
    top_code = 2**bits - 1
    largest = float(values.abs().max()) if values.numel() else 0.0
    if largest <= 0 or not math.isfinite(largest):
        return 1.0
    best, best_error = largest, math.inf
    for fraction in torch.linspace(1.0, 0.05, 80).tolist():
        clip = largest * fraction
        step = clip / top_code
        if odd:
            q = 2 * torch.round((torch.clamp(values / clip, -1, 1) + 1) * (top_code / 2)) - top_code
        else:
            q = torch.round(torch.clamp(values / step, 0, top_code))
        error = float(((q * step - values) ** 2).mean())
        if error < best_error:
            best, best_error = clip, error
    return best


class _Quantizer(nn.Module):
    """What both quantizers share: the bit width and the learned clip value `nu` (float32, used as |ν|)."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = check_bits(bits)
        self.top_code = 2**bits - 1
        self.nu = nn.Parameter(torch.tensor(1.0))

    def step(self) -> Tensor:
        """The step |ν| / (2^b - 1), a float32 scalar; ScaleError where it is not positive and finite."""
        step = self.nu.detach().abs() / self.top_code
        if not bool(torch.isfinite(step)) or float(step) <= 0:
            raise ScaleError(
                "a quantizer's step must be a positive finite number",
                received=f"ν = {float(self.nu.detach())}",
            )
        return step

    def _trained_nu(self, numel: int) -> Tensor:
        """|ν| with the gradient scaled so that SGD moves ν as LSQ's 1/√(numel·top_code) moves the step."""
        factor = self.top_code**2 / math.sqrt(max(numel, 1) * self.top_code)
        return _ScaleGradient.apply(self.nu, factor).abs()

    def extra_repr(self) -> str:
        return f"bits={self.bits}"


class ActivationQuantizer(_Quantizer):
    """Eq. 2: q = round_half_even(clamp(x / step, 0, 2^b - 1)), step = |ν| / (2^b - 1), value q · step.

    While `observing` is set it passes its input on and keeps samples of it, from which `calibrate` picks ν.
    """

    def __init__(self, bits: int) -> None:
        super().__init__(bits)
        self.observing = False
        self._samples: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        if self.observing:
            self._observe(x)
            return x
        step = self._trained_nu(x[0].numel() if x.dim() else 1) / self.top_code
        return _QuantizeActivation.apply(x, step, self.top_code)

    def integer(self, x: Tensor) -> Tensor:
        """The integers of `x`, uint8, the same shape."""
        return torch.round(torch.clamp(x.detach() / self.step(), 0, self.top_code)).to(torch.uint8)

    def _observe(self, x: Tensor) -> None:
        flat = x.detach().flatten()
        stride = max(1, flat.numel() // SAMPLES_PER_BATCH)
        self._samples.append(flat[::stride].clone())

    def calibrate(self) -> None:
        """Sets ν from the observed samples (least squared error) and ends the observation."""
        if self._samples:
            values = torch.cat(self._samples).clamp(min=0)
            with torch.no_grad():
                self.nu.fill_(_best_clip(values, self.bits, odd=False))
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
        eta = round_half_even((torch.clamp(weight / clip, -1, 1) + 1) * (self.top_code / 2))
        return 2 * eta - self.top_code

    def forward(self, weight: Tensor) -> Tensor:
        prepared = self.prepared(weight)
        clip = self._trained_nu(weight.numel())
        return self._odd(prepared, clip) * (clip / self.top_code)

    def integer(self, weight: Tensor) -> Tensor:
        """The odd integers q of `weight`, int16 in [-N, N], the same shape."""
        with torch.no_grad():
            return self._odd(self.prepared(weight), self.nu.abs()).to(torch.int16)

    def initialize(self, weight: Tensor) -> None:
        """Sets ν to the clip value of least squared error for `weight`."""
        with torch.no_grad():
            self.nu.fill_(_best_clip(self.prepared(weight).flatten(), self.bits, odd=True))

    def extra_repr(self) -> str:
        return f"bits={self.bits}, standardize={self.standardize}"
