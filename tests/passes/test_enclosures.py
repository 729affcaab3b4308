"""Functions of intervals hold every exact value, and those of one point are narrow."""

from fractions import Fraction

import numpy as np
import pytest

from aqd_deploy.passes.enclosures import ENCLOSURES, Enclosure, point
from aqd_deploy.passes.functions import FUNCTIONS

POSITIVE = {"Log", "Sqrt", "Reciprocal"}


def parameters_of(name):
    return [Fraction(float(np.float32(v))) for v in FUNCTIONS[name].attributes.values()]


def test_every_function_has_bounds():
    assert ENCLOSURES.keys() == FUNCTIONS.keys()


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("width", [0.0, 1e-9, 0.01, 3.0])
def test_exact_values_lie_within(name, width):
    rng, parameters = np.random.default_rng(3), parameters_of(name)
    low = rng.uniform(0.01, 9, 60) if name in POSITIVE else rng.uniform(-9, 9, 60)
    high = low + width * rng.uniform(0, 1, 60)
    bounds = ENCLOSURES[name](Enclosure(low, high), *map(float, parameters))
    for index, (first, last) in enumerate(zip(low.tolist(), high.tolist(), strict=True)):
        for x in (first, (first + last) / 2, last):
            value = FUNCTIONS[name].apply(Fraction(x), tuple(parameters))
            assert bounds.lo[index] <= value <= bounds.hi[index], (x, float(value))


@pytest.mark.parametrize("name", sorted(FUNCTIONS.keys() - {"Ceil", "Floor", "Round", "Sign"}))
def test_points_stay_narrow(name):
    x = np.linspace(0.3, 7.7, 40)
    bounds = ENCLOSURES[name](Enclosure(x, x), *map(float, parameters_of(name)))
    assert (bounds.hi - bounds.lo <= 1e-11 * (1 + np.abs(bounds.hi))).all()


def test_sums_products_and_quotients_hold_theirs():
    rng = np.random.default_rng(5)
    ends = np.sort(rng.uniform(-3, 3, (2, 2, 200)), axis=1)
    x, y = (Enclosure(*pair) for pair in ends)
    inner = [lo + (hi - lo) * rng.uniform(0, 1, 200) for lo, hi in ends]
    for got, wanted in (
        (x + y, inner[0] + inner[1]),
        (x - y, inner[0] - inner[1]),
        (x * y, inner[0] * inner[1]),
        (x / y, inner[0] / inner[1]),
    ):
        assert ((got.lo <= wanted) & (wanted <= got.hi)).all()


def test_a_number_is_a_point():
    third = point(Fraction(1, 3))
    assert third.lo < Fraction(1, 3) < third.hi and third.hi - third.lo < 1e-13
