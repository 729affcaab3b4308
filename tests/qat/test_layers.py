"""Layers: convolution, batch norm with Eq. 5-6, skip addition with Eq. 7-8, multi-level batch norm."""

import copy
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aqd_deploy.qat.layers import (
    BatchNorm,
    ConvBatchNorm,
    MultiLevelConvBatchNorm,
    QuantConv2d,
    QuantLinear,
    SkipAdd,
    Stream,
    fixed_point_ratio,
    set_fixed_point,
)


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _conv(bits: int = 4, **options) -> QuantConv2d:
    torch.manual_seed(0)
    conv = QuantConv2d(6, 5, 3, weight_bits=bits, activation_bits=bits, **options)
    conv.weight_quantizer.initialize(conv.weight)
    with torch.no_grad():
        conv.activation_quantizer.nu.fill_(2.0)
    return conv


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("options", [{}, {"stride": 2}, {"bias": True}])
def test_convolution_is_integer_convolution_times_alpha(bits, options):
    """η_conv·α in float64 from the layer's own integers; float32 sums of 54 products leave 1e-5 of the
    largest.
    """
    conv = _conv(bits, **options)
    x = torch.rand(2, 6, 7, 7, generator=_generator()) * 3
    q, _ = conv.integer_weight()
    eta = conv.activation_quantizer.integer(x)
    accumulators = torch.nn.functional.conv2d(
        eta.double(), q.double(), stride=conv.stride, padding=conv.padding
    )
    expected = accumulators * conv.alpha().double()
    got = conv(x).double()
    if conv.bias is not None:
        got = got - conv.bias.double().reshape(1, -1, 1, 1)
    assert torch.allclose(got, expected, atol=1e-5 * float(expected.abs().max()), rtol=0)


def test_float_convolution_has_no_quantizers():
    conv = QuantConv2d(3, 4, 3)
    assert conv.activation_quantizer is None and conv.weight_quantizer is None and conv.alpha() is None
    x = torch.randn(1, 3, 5, 5, generator=_generator())
    assert torch.equal(conv(x), torch.nn.functional.conv2d(x, conv.weight, padding=1))
    with pytest.raises(ValueError, match="no integer weight"):
        conv.integer_weight()


def test_linear_quantizes_both_sides():
    torch.manual_seed(0)
    layer = QuantLinear(8, 3, weight_bits=4, activation_bits=4)
    x = torch.rand(2, 8, generator=_generator())
    q, step = layer.integer_weight()
    eta = layer.activation_quantizer.integer(x)
    expected = eta.double() @ q.double().T * (step * layer.activation_quantizer.step()).double()
    assert torch.allclose(layer(x).double(), expected, atol=1e-6, rtol=0)


def _trained_norm(channels: int, seed: int = 0) -> BatchNorm:
    norm = BatchNorm(channels).eval()
    generator = _generator(seed)
    with torch.no_grad():
        norm.weight.copy_(torch.randn(channels, generator=generator))
        norm.bias.copy_(torch.randn(channels, generator=generator))
        norm.running_mean.copy_(torch.randn(channels, generator=generator))
        norm.running_var.copy_(torch.rand(channels, generator=generator) + 0.1)
    return norm


def test_batch_norm_without_simulation_is_torch_batch_norm():
    norm = _trained_norm(5)
    x = torch.randn(2, 5, 3, 3, generator=_generator(4))
    expected = torch.nn.functional.batch_norm(
        x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps
    )
    assert torch.equal(norm(x), expected)
    assert torch.equal(norm(x, torch.tensor(0.1)), expected)


def test_batch_norm_output_is_whole_multiples_of_its_scale():
    """Eq. 6: with integer accumulators z/α_z = η_conv + round(s) is whole, for negative γ too."""
    norm, alpha = _trained_norm(5), torch.tensor(0.0371)
    norm.fixed_point = True
    eta = torch.randint(-500, 500, (1, 5, 4, 4), generator=_generator(1)).float()
    z = norm(eta * alpha, alpha).detach()
    ratio = z / norm.output_scale(alpha).reshape(1, -1, 1, 1)
    assert float((ratio - ratio.round()).abs().max()) < 1e-2  # float32 of values up to 600
    plain = _trained_norm(5)(eta * alpha)
    bound = (norm.output_scale(alpha) * 0.51).reshape(1, -1, 1, 1)
    assert bool(((z - plain).abs() <= bound).all())


def test_vanishing_gamma_gives_a_constant_channel_in_fixed_point():
    norm, alpha = _trained_norm(3), torch.tensor(0.01)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.0, 1e-30, -0.5]))
    norm.fixed_point = True
    z = norm(torch.randn(1, 3, 2, 2, generator=_generator()), alpha)
    assert torch.isfinite(z).all()
    assert torch.equal(z[0, 0], norm.bias[0].expand(2, 2))
    assert torch.allclose(z[0, 1], norm.bias[1].expand(2, 2))


def test_fixed_point_batch_norm_trains():
    norm = BatchNorm(3).train()
    norm.fixed_point = True
    x = torch.randn(4, 3, 5, 5, generator=_generator(), requires_grad=True)
    (norm(x, torch.tensor(0.01)) ** 3).sum().backward()
    for gradient in (x.grad, norm.weight.grad, norm.bias.grad):
        assert torch.isfinite(gradient).all() and float(gradient.abs().sum()) > 0
    assert int(norm.num_batches_tracked) == 1


@given(st.floats(1.0, 1e6))
def test_fixed_point_ratio_is_the_nearest_in_its_budget(value):
    ratio = torch.tensor([value], dtype=torch.float64)
    c, d = (int(t) for t in fixed_point_ratio(ratio))
    assert 2**29 < c < 2**31 and 0 <= d <= 62
    error = abs(Fraction(c, 2**d) - Fraction(value))
    assert error <= Fraction(1, 2 ** (d + 1)) or c == 2**31 - 1


def test_skip_add_is_the_papers_integer_sum():
    """Eq. 7 in Python integers, channel by channel, either operand having the larger scale."""
    generator = _generator(7)
    a = torch.randint(-3000, 3000, (1, 3, 4, 4), generator=generator)
    b = torch.randint(-3000, 3000, (1, 3, 4, 4), generator=generator)
    alpha_a = torch.tensor([0.5, 0.25, 0.125])
    alpha_b = torch.tensor([0.375, 0.75, 0.125])
    value, scale = SkipAdd()(
        Stream(a * alpha_a.reshape(1, 3, 1, 1), alpha_a), Stream(b * alpha_b.reshape(1, 3, 1, 1), alpha_b)
    )
    assert torch.equal(scale, torch.minimum(alpha_a, alpha_b))
    c, d = fixed_point_ratio(torch.maximum(alpha_a, alpha_b) / scale)
    for channel in range(3):
        multiplier, shift = int(c[channel]), int(d[channel])
        for ours, x, y in zip(
            value[0, channel].flatten().tolist(),
            a[0, channel].flatten().tolist(),
            b[0, channel].flatten().tolist(),
            strict=True,
        ):
            large, small = (x, y) if alpha_a[channel] > alpha_b[channel] else (y, x)
            if alpha_a[channel] != alpha_b[channel]:
                large = (large * multiplier + (1 << (shift - 1))) >> shift
            assert ours == (large + small) * float(scale[channel])


def test_skip_add_without_scales_is_a_sum_and_passes_gradients():
    a = torch.randn(1, 2, 3, 3, generator=_generator(), requires_grad=True)
    assert torch.equal(SkipAdd()(Stream(a), Stream(a)).value, a + a)
    scales = torch.tensor([0.1, 0.0]), torch.tensor([0.3, 0.2])
    value, scale = SkipAdd()(Stream(a, scales[0]), Stream(a, scales[1]))
    assert torch.equal(scale, torch.tensor([0.1, 0.2]))
    assert torch.equal(value[:, 1], (a + a)[:, 1])
    value.sum().backward()
    assert torch.equal(a.grad, torch.full_like(a, 2.0))


def test_shared_convolution_equals_one_convolution_a_level():
    shared = MultiLevelConvBatchNorm(_conv(), levels=2)
    for level, norm in enumerate(shared.bn.levels):
        norm.load_state_dict(_trained_norm(5, seed=level).state_dict())
    shared.eval()
    values = [
        torch.rand(1, 6, 8, 8, generator=_generator(1)),
        torch.rand(1, 6, 4, 4, generator=_generator(2)),
    ]
    for level, (got, value) in enumerate(zip(shared(values), values, strict=True)):
        assert torch.equal(got, torch.relu(shared.bn.levels[level](shared.conv(value))))
    weights = [name for name, _ in shared.named_parameters() if name.endswith("conv.weight")]
    assert len(weights) == 1


def test_one_norm_for_all_levels_counts_each_of_them():
    """Trained, it normalises a level by that level's own statistics, and remembers all levels."""
    shared = MultiLevelConvBatchNorm(_conv(), levels=2, shared_norm=True)
    assert [name for name in shared.state_dict() if name.endswith("running_mean")] == [
        "bn.levels.0.running_mean"
    ]
    values = [torch.rand(2, 6, side, side, generator=_generator(side)) for side in (8, 4)]
    expected = []
    alone = copy.deepcopy(shared.bn.levels[0])
    for value in values:
        expected.append(torch.relu(alone(shared.conv(value))))
    for got, wanted in zip(shared(values), expected, strict=True):
        assert torch.equal(got, wanted)
    assert torch.equal(shared.bn.of(1).running_mean, alone.running_mean)
    assert int(shared.bn.of(0).num_batches_tracked) == 2


def test_fixed_point_reaches_every_layer_and_stays_close():
    """In a block the simulation moves the output by no more than half an accumulator step of each operand."""
    block = ConvBatchNorm(_conv(), relu=True)
    block.bn.load_state_dict(_trained_norm(5).state_dict())
    block.eval()
    x = Stream(torch.rand(1, 6, 6, 6, generator=_generator(3)) * 2)
    plain = block(x)
    assert plain.scale is None
    set_fixed_point(block, True)
    simulated = block(x)
    assert simulated.scale is not None
    bound = (simulated.scale * 0.51).reshape(1, -1, 1, 1)
    assert bool(((simulated.value - plain.value).abs() <= bound).all())
    assert not torch.equal(simulated.value, plain.value)
