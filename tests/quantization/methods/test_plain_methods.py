"""The methods that look at one tensor, on values whose best range is known; and the registry."""

import numpy as np
import pytest

from aqd_deploy.errors import RecipeError
from aqd_deploy.quantization.methods import METHODS, method_named
from aqd_deploy.quantization.methods.contract import Lifted
from aqd_deploy.quantization.methods.entropy import Entropy
from aqd_deploy.quantization.methods.minmax import MinMax
from aqd_deploy.quantization.methods.percentile import Percentile
from aqd_deploy.quantization.methods.power_of_two import PowerOfTwo
from aqd_deploy.quantization.observe import BINS, Observations

RNG = np.random.default_rng(0)
METHODS_OF_TENSORS = [MinMax(), Percentile(99.9), Entropy(), PowerOfTwo()]
SHAPES = {
    "one-sided": np.abs(RNG.normal(size=50_000)),
    "two-sided": RNG.laplace(size=50_000) + 0.3,
    "with a spike at 0": np.maximum(RNG.normal(size=50_000) - 1, 0),
    "with an outlier": np.append(np.abs(RNG.normal(size=50_000)), 40.0),
    "nothing but 0": np.zeros(100),
    "negative": -np.abs(RNG.normal(size=50_000)),
}


def observed(values):
    low, high = values.min(), values.max()
    counts, edges = np.histogram(values, BINS, (low, high if high > low else low + 1))
    return Observations(np.array([low]), np.array([high]), counts, edges)


@pytest.mark.parametrize("method", METHODS_OF_TENSORS, ids=lambda each: type(each).__name__)
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("name", SHAPES)
def test_every_quantizer_is_sound(method, signed, bits, name):
    found = method.activation(observed(SHAPES[name]), bits, signed)
    assert (found.bits, found.signed, found.scale.shape, found.scale.dtype) == (bits, signed, (), np.float32)
    assert found.scale > 0 and found.low <= found.zero_point <= found.high
    assert found.rounded(np.zeros(1)) == 0
    if signed or SHAPES[name].min() >= 0:
        assert found.zero_point == 0


@pytest.mark.parametrize("method", METHODS_OF_TENSORS, ids=lambda each: type(each).__name__)
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_weights(method, axis):
    weights = np.random.default_rng(1).normal(size=(4, 5, 3, 3)).astype(np.float32)
    weights[1] *= 10
    weights[:, 2] = 0
    found = method.weight(weights, 4, axis)
    assert found.scale.shape == (() if axis is None else (weights.shape[axis],))
    assert found.signed and (found.scale > 0).all()
    error = ((found.rounded(weights, axis) - weights) ** 2).mean()
    assert error <= (weights**2).mean() / 16  # 12 dB; 4 bits reach 20 on one normal density


def test_minmax_clips_nothing():
    values = SHAPES["with an outlier"]
    found = MinMax().activation(observed(values), 4, False)
    assert float(found.scale) * 15 == pytest.approx(values.max())


@pytest.mark.parametrize("name", ["one-sided", "two-sided"])
def test_percentile_is_that_of_the_values(name):
    values = SHAPES[name]
    found = Percentile(99).activation(observed(values), 8, False)
    top = float(found.scale) * (found.high - found.zero_point)
    assert top == pytest.approx(np.quantile(values, 0.99), rel=0.02)
    if name == "two-sided":
        bottom = float(found.scale) * (found.low - found.zero_point)
        assert bottom == pytest.approx(np.quantile(values, 0.01), rel=0.02)


@pytest.mark.parametrize(
    "method", [Percentile(99.9), Entropy(), PowerOfTwo()], ids=lambda each: type(each).__name__
)
def test_an_outlier_is_clipped(method):
    """At 4 bits a range up to 40 would leave nearly all values two codes."""
    values = SHAPES["with an outlier"]
    whole = MinMax().activation(observed(values), 4, False)
    found = method.activation(observed(values), 4, False)
    errors = [((each.rounded(values) - values) ** 2).mean() for each in (found, whole)]
    assert errors[0] < errors[1]


@pytest.mark.parametrize("name", ["one-sided", "with a spike at 0"])
def test_entropy_keeps_most_of_the_range_at_8_bits(name):
    values = SHAPES[name]
    found = Entropy().activation(observed(values), 8, False)
    assert float(found.scale) * 255 > 0.5 * values.max()


def test_powers_of_two():
    exponents = [
        np.log2(PowerOfTwo().activation(observed(SHAPES["two-sided"]), bits, False).scale) for bits in (3, 8)
    ] + list(np.log2(PowerOfTwo().weight(np.random.default_rng(1).normal(size=(6, 9)), 4, 0).scale))
    assert all(each == round(each) for each in exponents)


def test_a_power_of_two_is_the_best_of_them():
    values = SHAPES["one-sided"]
    found = PowerOfTwo().activation(observed(values), 4, False)
    error = ((found.rounded(values) - values) ** 2).mean()
    for factor in (0.5, 2):
        other = type(found)(found.scale * np.float32(factor), 4, False)
        assert error <= ((other.rounded(values) - values) ** 2).mean()


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_made_with_its_defaults(name):
    entry = METHODS[name]
    assert all(each.low <= each.default <= each.high for each in entry.parameters.values())
    assert hasattr(method_named(name, {}), "choose")


def test_parameters_reach_the_method():
    assert method_named("percentile", {"percent": 99.0}) == Lifted(Percentile(99.0))


@pytest.mark.parametrize(
    ("name", "parameters", "told"),
    [
        ("maxmin", {}, "there is no such method; got 'maxmin'; valid: .*minmax, percentile"),
        ("minmax", {"percent": 99}, "minmax has no parameter percent; valid: none"),
        ("percentile", {"percent": 101}, "percent of the method percentile is out of its bounds; got 101"),
    ],
)
def test_refused(name, parameters, told):
    with pytest.raises(RecipeError, match=told):
        method_named(name, parameters)
