"""Trainable layers of an AQD network: convolution, linear, batch norm (Eq. 5-6) and skip addition (Eq. 7-8).

Blocks pass on a `Stream`: the float values and, where fixed-point arithmetic is simulated, the scale per
channel of the integers they stand for. The simulation (`set_fixed_point`) rounds what the integer program
rounds; training leaves it off, since its effect is far below that of the quantizers.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aqd_deploy.qat.distributed import synchronized_statistics
from aqd_deploy.qat.quantizer_kinds import AQD, QUANTIZERS
from aqd_deploy.qat.quantizers import ActivationQuantizer, WeightQuantizer, round_half_even

LARGEST_SHIFT = 2.0**31


class Stream(NamedTuple):
    """float32 [N, C, H, W] and, in fixed-point simulation, the scale of the integers, float32 [C]."""

    value: Tensor
    scale: Tensor | None = None


class _QuantizedLayer(nn.Module):
    """What convolution and linear layer share: their quantizers and the integers of their weight."""

    weight: nn.Parameter
    bias: nn.Parameter | None
    weight_quantizer: WeightQuantizer | None
    activation_quantizer: ActivationQuantizer | None

    def __init__(self, quantizer: str = AQD, leak: float = 0.0) -> None:
        super().__init__()
        self.fixed_point = False
        self.quantizer_kind, self.leak = QUANTIZERS[quantizer], leak

    def _make_quantizers(
        self, weight_bits: int | None, activation_bits: int | None, standardize: bool
    ) -> None:
        kind = self.quantizer_kind
        self.weight_quantizer = None if weight_bits is None else kind.weight(weight_bits, standardize)
        self.activation_quantizer = (
            None if activation_bits is None else kind.activation(activation_bits, self.leak)
        )

    def set_bits(self, weight_bits: int | None, activation_bits: int | None) -> None:
        """Other bits than the layer was made with, None for float; its weight is standardised as before."""
        standardize = self.weight_quantizer is not None and self.weight_quantizer.standardize
        self._make_quantizers(weight_bits, activation_bits, standardize)

    @property
    def quantized(self) -> bool:
        """Whether the weight or the input is quantized."""
        return self.weight_quantizer is not None or self.activation_quantizer is not None

    def quantized_weight(self) -> Tensor:
        """The weight that enters the arithmetic, float32: q · step, or the weight itself in a float layer."""
        return self.weight if self.weight_quantizer is None else self.weight_quantizer(self.weight)

    def integer_weight(self) -> tuple[Tensor, Tensor]:
        """The odd integers (int16, weight's shape) of a quantized layer and their step (float32 scalar)."""
        if self.weight_quantizer is None:
            raise ValueError("a float layer has no integer weight")
        return self.weight_quantizer.integer(self.weight), self.weight_quantizer.step()

    def quantized_input(self, x: Tensor) -> Tensor:
        """`x` behind the activation quantizer, where there is one."""
        return x if self.activation_quantizer is None else self.activation_quantizer(x)

    def alpha(self) -> Tensor | None:
        """α_conv, the scale of the accumulators (float32 scalar): step_x · step_w; None in a float layer.

        The stem has no activation quantizer: its input is the image's integers, of step 1.
        """
        if self.weight_quantizer is None:
            return None
        step = self.weight_quantizer.step()
        return step if self.activation_quantizer is None else step * self.activation_quantizer.step()

    def effective_bias(self) -> Tensor | None:
        """The bias, rounded to whole accumulator steps when fixed point is simulated."""
        alpha = self.alpha() if self.fixed_point else None
        if self.bias is None or alpha is None:
            return self.bias
        return round_half_even(self.bias / alpha) * alpha


class QuantConv2d(_QuantizedLayer):
    """A convolution whose input and weight are quantized; zero padding comes after quantization.

    `weight_bits` / `activation_bits` of None leave that side in float. `quantizer` is a kind of
    `aqd_deploy.qat.quantizer_kinds`; `leak` is the slope of the leaky ReLU in front.
    `weight` is [out, in / groups, k, k].
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int | None = None,
        *,
        groups: int = 1,
        dilation: int = 1,
        bias: bool = False,
        weight_bits: int | None = None,
        activation_bits: int | None = None,
        standardize: bool = False,
        quantizer: str = AQD,
        leak: float = 0.0,
    ) -> None:
        super().__init__(quantizer, leak)
        self.in_channels, self.out_channels, self.kernel_size = in_channels, out_channels, kernel_size
        self.stride, self.groups, self.dilation = stride, groups, dilation
        self.padding = dilation * (kernel_size // 2) if padding is None else padding
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels // groups, kernel_size, kernel_size))
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self._make_quantizers(weight_bits, activation_bits, standardize)

    def convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        """Quantizes `x` [N, C, H, W] and convolves it with an already quantized `weight`."""
        return F.conv2d(
            self.quantized_input(x),
            weight,
            self.effective_bias(),
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.convolve(x, self.quantized_weight())

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, bias={self.bias is not None}"
        )


class QuantLinear(_QuantizedLayer):
    """A linear layer whose input and weight are quantized; `weight` is [out, in]."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = True,
        weight_bits: int | None = None,
        activation_bits: int | None = None,
        standardize: bool = False,
        quantizer: str = AQD,
    ) -> None:
        super().__init__(quantizer)
        self.in_features, self.out_features = in_features, out_features
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        nn.init.kaiming_uniform_(self.weight, nonlinearity="relu")
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None
        self._make_quantizers(weight_bits, activation_bits, standardize)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.quantized_input(x), self.quantized_weight(), self.effective_bias())


class BatchNorm(nn.BatchNorm2d):
    """Batch norm that can simulate Eq. 5-6 and can take its statistics over all processes.

    Eq. 6: z = (η_conv + s)·α_z with s = (β·√(σ²+ε)/γ - μ)/α_conv rounded, α_z = α_conv·γ/√(σ²+ε). Where γ = 0
    or s would leave int32, the channel stays float: the integer program makes it a constant channel.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.fixed_point = False
        self.synchronized = False

    def forward(self, x: Tensor, alpha: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """Normalises x [N, C, H, W]; `alpha` is the scale of its accumulators, where they have one."""
        simulate = self.fixed_point and alpha is not None
        if not simulate and not (self.synchronized and self.training):
            return super().forward(x)
        mean, variance = self._statistics(x)
        deviation = torch.sqrt(variance + self.eps)
        if not simulate:
            factor = self.weight / deviation
            return x * _channels(factor) + _channels(self.bias - mean * factor)
        assert alpha is not None
        factor = self.weight / deviation
        shift = (self.bias * deviation / self.weight - mean) / alpha
        usable = torch.isfinite(shift) & (shift.abs() < LARGEST_SHIFT)
        rounded = round_half_even(torch.where(usable, shift, torch.zeros_like(shift))) * alpha
        exact = (x - _channels(mean)) * _channels(factor) + _channels(self.bias)
        return torch.where(_channels(usable), (x + _channels(rounded)) * _channels(factor), exact)

    def output_scale(self, alpha: Tensor) -> Tensor:
        """|α_z| per channel, float32 [C], from the running statistics; 0 where γ = 0."""
        assert self.running_var is not None
        deviation = torch.sqrt(self.running_var + torch.tensor(self.eps))
        return (alpha * self.weight / deviation).abs().detach()

    def _statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if not self.training:
            assert self.running_mean is not None and self.running_var is not None
            return self.running_mean, self.running_var
        mean, variance, count = synchronized_statistics(x, self.synchronized)
        with torch.no_grad():
            momentum = self.momentum if self.momentum is not None else 0.1
            assert self.running_mean is not None and self.running_var is not None
            assert self.num_batches_tracked is not None
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, momentum)
            self.running_var.lerp_(variance * (count / max(count - 1, 1)), momentum)
        return mean, variance


def _channels(values: Tensor) -> Tensor:
    return values.reshape(1, -1, 1, 1)


class MultiLevelBatchNorm(nn.Module):
    """One batch norm a pyramid level (`levels[i]`), for a head convolution whose weights all levels share; or
    one for all of them, `levels[0]`, where `shared` is set.

    A shared one normalises each level by that level's statistics while it is trained, and its running
    statistics mix those of all levels: what heads of common detectors do, and what multi-level batch norm
    mends.
    """

    def __init__(self, channels: int, levels: int, *, shared: bool = False) -> None:
        super().__init__()
        self.levels = nn.ModuleList(BatchNorm(channels) for _ in range(1 if shared else levels))
        self.shared = shared

    def of(self, level: int) -> BatchNorm:
        """The batch norm of a level."""
        norm = self.levels[0 if self.shared else level]
        assert isinstance(norm, BatchNorm)
        return norm

    def forward(self, x: Tensor, level: int, alpha: Tensor | None = None) -> Tensor:
        return self.of(level)(x, alpha)


class ConvBatchNorm(nn.Module):
    """`conv`, then `bn`, then ReLU where `relu` is set, leaky where it has a slope (`leak`)."""

    def __init__(self, conv: QuantConv2d, *, relu: bool, leak: float = 0.0) -> None:
        super().__init__()
        self.conv = conv
        self.bn = BatchNorm(conv.out_channels)
        self.relu, self.leak = relu, leak

    def forward(self, stream: Stream) -> Stream:
        alpha = self.conv.alpha() if self.bn.fixed_point else None
        value = self.bn(self.conv(stream.value), alpha)
        if self.relu and self.leak:
            # Its integers have no scale of their own: steps of both slopes differ.
            return Stream(F.leaky_relu(value, self.leak, inplace=True))
        if self.relu:
            value = F.relu(value, inplace=True)
        return Stream(value, None if alpha is None else self.bn.output_scale(alpha))


class ConvBias(nn.Module):
    """`conv` with its bias and nothing behind it: a pyramid's convolution in float networks of others."""

    def __init__(self, conv: QuantConv2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, stream: Stream) -> Stream:
        return Stream(self.conv(stream.value))


class SharedConv(nn.Module):
    """A `conv` with bias, group norm where `groups` are given, ReLU, the same for all levels: a tower's
    convolution in networks of others. Its weight is quantized once.
    """

    def __init__(self, conv: QuantConv2d, groups: int | None) -> None:
        super().__init__()
        self.conv = conv
        self.norm = None if groups is None else nn.GroupNorm(groups, conv.out_channels)

    def forward(self, values: list[Tensor]) -> list[Tensor]:
        weight = self.conv.quantized_weight()
        convolved = [self.conv.convolve(value, weight) for value in values]
        if self.norm is not None:
            convolved = [self.norm(value) for value in convolved]
        return [F.relu(value, inplace=True) for value in convolved]


class MultiLevelConvBatchNorm(nn.Module):
    """A shared `conv`, one batch norm a level (`bn.levels[i]`) or one for all levels (`shared_norm`), ReLU;
    the weight is quantized once.
    """

    def __init__(self, conv: QuantConv2d, levels: int, *, shared_norm: bool = False) -> None:
        super().__init__()
        self.conv = conv
        self.bn = MultiLevelBatchNorm(conv.out_channels, levels, shared=shared_norm)
        self.fixed_point = False

    def forward(self, values: list[Tensor]) -> list[Tensor]:
        alpha = self.conv.alpha() if self.fixed_point else None
        weight = self.conv.quantized_weight()
        return [
            F.relu(self.bn(self.conv.convolve(value, weight), level, alpha), inplace=True)
            for level, value in enumerate(values)
        ]


def fixed_point_ratio(ratio: Tensor, bits: int = 31) -> tuple[Tensor, Tensor]:
    """c and d (int64, shape of `ratio`), c/2^d nearest to `ratio` ≥ 1, c below 2^bits, d from 0 to 62."""
    wide = ratio.to(torch.float64)
    _, exponent = torch.frexp(wide)
    shift = (bits - exponent.to(torch.int64)).clamp(0, 62)
    multiplier = torch.round(torch.ldexp(wide, shift)).to(torch.int64)
    overflow = multiplier >= 2**bits
    shift = torch.where(overflow & (shift > 0), shift - 1, shift)
    multiplier = torch.round(torch.ldexp(wide, shift)).to(torch.int64)
    return multiplier.clamp(max=2**bits - 1), shift


class SkipAdd(nn.Module):
    """Eq. 7-8: the sum of two streams on the smaller of their scales.

    Per channel the operand of larger scale becomes (η·c + 2^(d-1)) >> d with c/2^d ≈ larger/smaller (the
    paper does not state the rounding: here to nearest, halves up). Without scales (float, or no simulation)
    it is a plain addition. A scale of 0 (a constant channel, γ = 0) leaves that channel in float.
    """

    def __init__(self, bits: int = 31) -> None:
        super().__init__()
        self.bits = bits

    def forward(self, a: Stream, b: Stream) -> Stream:
        if a.scale is None or b.scale is None:
            return Stream(a.value + b.value)
        scale = torch.minimum(a.scale, b.scale)
        value = self._rescaled(a, scale) + self._rescaled(b, scale)
        return Stream(value, torch.where(scale > 0, scale, torch.maximum(a.scale, b.scale)))

    def _rescaled(self, stream: Stream, scale: Tensor) -> Tensor:
        """The operand in units of `scale`: exact integers in the forward pass, identity gradient."""
        assert stream.scale is not None
        with torch.no_grad():
            safe = torch.where(scale > 0, scale, torch.ones_like(scale)).to(torch.float64)
            own = torch.where(scale > 0, stream.scale, torch.ones_like(scale)).to(torch.float64)
            multiplier, shift = fixed_point_ratio(own / safe, self.bits)
            eta = torch.round(stream.value.to(torch.float64) / _channels(own)).to(torch.int64)
            half = torch.where(
                shift > 0, torch.ones_like(shift) << (shift - 1).clamp(min=0), torch.zeros_like(shift)
            )
            product = (eta * _channels(multiplier) + _channels(half)) >> _channels(shift)
            scaled = torch.where(_channels(own > safe), product, eta)
            exact = (scaled.to(torch.float64) * _channels(safe)).to(stream.value.dtype)
            correction = torch.where(_channels(scale > 0), exact - stream.value, torch.zeros_like(exact))
        return stream.value + correction


def set_fixed_point(model: nn.Module, enabled: bool) -> None:
    """Switches the simulation of the fixed-point roundings (Eq. 5-8) in every layer of `model`."""
    for module in model.modules():
        if isinstance(module, (_QuantizedLayer, BatchNorm, MultiLevelConvBatchNorm)):
            module.fixed_point = enabled


def synchronize_batch_norm(model: nn.Module) -> None:
    """Makes every batch norm of `model` take its training statistics over all processes."""
    for module in model.modules():
        if isinstance(module, BatchNorm):
            module.synchronized = True
