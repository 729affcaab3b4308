"""Functions in exact numbers, beside those of Python's math."""

import math
from fractions import Fraction

import numpy as np
import pytest

from aqd_deploy.passes.functions import (
    FUNCTIONS,
    error_function,
    exponential,
    hyperbolic_tangent,
    logarithm,
    sigmoid,
    softplus,
    square_root,
)


@pytest.mark.parametrize(
    ("exact", "known"),
    [
        (exponential, math.exp),
        (hyperbolic_tangent, math.tanh),
        (error_function, math.erf),
        (softplus, lambda x: math.log1p(math.exp(x))),
        (sigmoid, lambda x: 1 / (1 + math.exp(-x))),
    ],
)
def test_transcendental_functions(exact, known):
    """math's are right to a few units in the last of 53 bits; the difference is relative to 1 or more."""
    for x in np.random.default_rng(1).uniform(-8, 8, 40).tolist():
        assert abs(float(exact(Fraction(x))) - known(x)) <= 1e-14 * max(1, abs(known(x)))


def test_logarithms_and_roots():
    for x in np.random.default_rng(1).uniform(0.001, 50, 40).tolist():
        assert float(logarithm(Fraction(x))) == pytest.approx(math.log(x), abs=1e-14)
        assert abs(square_root(Fraction(x)) ** 2 - Fraction(x)) < Fraction(1, 1 << 180)


def test_rational_values_are_exact():
    assert (
        exponential(Fraction(0)) == 1
        and logarithm(Fraction(1)) == 0
        and sigmoid(Fraction(0)) == Fraction(1, 2)
    )
    assert square_root(Fraction(9, 4)) == Fraction(3, 2) and hyperbolic_tangent(Fraction(0)) == 0
    assert error_function(Fraction(0)) == 0 and FUNCTIONS["Round"].apply(Fraction(5, 2), ()) == 2


def test_they_agree_to_forty_digits_by_other_ways():
    x = Fraction(7, 3)
    assert abs(exponential(x) * exponential(-x) - 1) < Fraction(1, 10**50)
    assert abs(logarithm(exponential(x)) - x) < Fraction(1, 10**50)
    assert abs(error_function(x) + error_function(-x)) == 0


@pytest.mark.parametrize(("name", "x"), [("Log", 0), ("Log", -1), ("Sqrt", -1), ("Reciprocal", 0)])
def test_no_finite_value_is_an_arithmetic_error(name, x):
    with pytest.raises(ArithmeticError):
        FUNCTIONS[name].apply(Fraction(x), ())


@pytest.mark.parametrize("name", ["Sigmoid", "Tanh", "Exp", "Gelu", "Mish", "Softplus", "Selu"])
def test_far_arguments_end(name):
    parameters = tuple(Fraction(v) for v in FUNCTIONS[name].attributes.values())
    for x in (-1e30, 1e30):
        FUNCTIONS[name].apply(Fraction(x), parameters)
