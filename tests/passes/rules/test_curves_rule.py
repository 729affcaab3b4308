"""Functions whose values go on without a quantizer: streams within their bound of the float64 meaning."""

import numpy as np
import pytest
from island_agreement import assert_islands_agree
from odd_graphs import quantize
from qdq_graphs import QdqBuilder
from small_lowerings import chain, operators
from test_foreign_rules import ALONE, q8

from aqd_deploy.errors import UnsupportedModelError
from aqd_deploy.passes.pipeline import lower


def silu(b, x):
    return b.node("Mul", [x, b.node("Sigmoid", [x])])


FUNCTIONS = {
    "SiLU": silu,
    "HardSwish": lambda b, x: b.node("HardSwish", [x]),
    "Sigmoid": lambda b, x: b.node("Sigmoid", [x]),
    "Tanh": lambda b, x: b.node("Tanh", [x]),
    "Mish": lambda b, x: b.node("Mish", [x]),
    "Abs": lambda b, x: b.node("Abs", [x]),
    "Gelu": lambda b, x: b.node("Gelu", [x]),
    "a square": lambda b, x: b.node("Mul", [b.node("Sigmoid", [x]), b.node("Sigmoid", [x])]),
}


def convolved(b, x, scales=True):
    return b.conv(q8(b, x), 4, 7, odd=False, bias=True, per_channel=scales)


ARGUMENTS = {
    "codes": q8,
    "accumulators": convolved,
    "accumulators of one scale": lambda b, x: b.conv(q8(b, x), 4, 7, odd=False),
    "a sum": lambda b, x: b.node("Add", [convolved(b, x), x]),
}


def quantized(b, y):
    """A constant a channel keeps the function from being the quantizer's own; behind it nothing is a tail."""
    return b.conv(quantize(b, ALONE["a number from all"](b, y), 0.031, 90), 4, 7, odd=False)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("argument", ARGUMENTS)
def test_a_stream_of_a_function(function, argument):
    result = assert_islands_agree(
        chain(lambda b, x: quantized(b, FUNCTIONS[function](b, ARGUMENTS[argument](b, x)))), exact=False
    )
    assert "Pieces" in operators(result.model)
    assert result.report["largest_input_error_steps"] < 0.01


USES = {
    "a sum": lambda b, x, y: b.node("Add", [x, y]),
    "a difference from codes": lambda b, x, y: b.node("Sub", [q8(b, y), x]),
    "a concat": lambda b, x, y: b.concat(x, y),
    "an average": lambda b, x, y: ALONE["average"](b, x),
    "a linear resize": lambda b, x, y: ALONE["linear, half_pixel"](b, x),
    "a max-pool and a sum": lambda b, x, y: b.node("Add", [b.max_pool(x, 3, 1, 1), y]),
    "a batch norm": lambda b, x, y: b.batch_norm(x, "positive"),
    "a bias a channel, then another function": lambda b, x, y: b.node(
        "Tanh", [ALONE["a number from all"](b, x)]
    ),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("argument", ["codes", "accumulators"])
def test_what_reads_it_takes_it_as_a_stream(use, argument):
    def body(b, x):
        y = USES[use](b, silu(b, ARGUMENTS[argument](b, x)), x)
        channels = b.shape[y][0]
        return b.conv(quantize(b, y, 0.031, 30), channels, 7, odd=False)

    result = assert_islands_agree(chain(body), exact=False)
    assert result.report["largest_input_error_steps"] < 0.5


def test_a_concat_leaves_the_function_its_exact_codes():
    def body(b, x):
        y = b.concat(silu(b, convolved(b, x)), b.max_pool(silu(b, convolved(b, x)), 3, 1, 1))
        return b.conv(quantize(b, y, 0.031, 30), 8, 7, odd=False)

    result = assert_islands_agree(chain(body), exact=False)
    assert operators(result.model).count("Steps") == 2 and "Pieces" not in operators(result.model)
    assert result.report["largest_input_error_steps"] == 0


def test_a_function_that_is_quantized_and_read_as_it_is():
    """Its code is exact by thresholds; beside it there is a stream."""

    def body(b, x):
        y = silu(b, convolved(b, x))
        return b.node("Add", [b.conv(q8(b, y), 4, 7, odd=False), y])

    result = assert_islands_agree(chain(body), exact=False)
    assert {"Steps", "Pieces"} <= set(operators(result.model))


def test_a_function_of_a_constant_channel():
    """One integer is all that can occur."""
    b = QdqBuilder(1, 4, 4, 1)
    x = b.conv(b.image(), 1, 7, kernel=1, odd=False)
    x = b.node("Clip", [x, *(b.constant("bound", np.float32(0)) for _ in range(2))])
    y = b.node("Add", [b.node("Sigmoid", [x]), b.batch_norm(x, "positive")])
    b.output(b.conv(q8(b, y, 0.01, 0), 1, 7, odd=False), "out")
    assert "Pieces" in operators(assert_islands_agree(b.build(), exact=False).model)


def test_of_a_code_that_has_no_logarithm():
    model = chain(lambda b, x: q8(b, ALONE["a number from all"](b, b.node("Log", [q8(b, x)]))))
    with pytest.raises(UnsupportedModelError, match="Log isn't known to be finite") as caught:
        lower(model)
    assert caught.value.next_command


def test_a_narrow_peak_is_not_overlooked():
    """1 / (|x| + 0.001), a thousandth of the range wide at its half."""

    def body(b, x):
        near = b.node("Add", [b.node("Abs", [convolved(b, x)]), b.constant("e", np.float32(0.001))])
        return q8(b, ALONE["a number from all"](b, b.node("Reciprocal", [near])), step=4.0)

    assert "Pieces" in operators(assert_islands_agree(chain(body), exact=False).model)


@pytest.mark.parametrize("slopes", [[0.25], [0.1, 0.3, -0.2, 1.5]])
@pytest.mark.parametrize("argument", ["codes", "accumulators"])
def test_a_prelu_with_a_slope_a_channel(slopes, argument):
    def body(b, x):
        slope = b.constant("slope", np.array(slopes, np.float32).reshape(-1, 1, 1))
        return quantized(b, b.node("PRelu", [ARGUMENTS[argument](b, x), slope]))

    assert_islands_agree(chain(body), exact=False)


@pytest.mark.parametrize(
    ("function", "match"),
    [
        (lambda b, x: b.node("Log", [x]), "isn't known to be finite"),
        (lambda b, x: b.node("Reciprocal", [x]), "isn't known to be finite"),
        (
            lambda b, x: b.node("Floor", [b.node("Mul", [x, b.constant("k", np.float32(1000))])]),
            "bends too often",
        ),
        (lambda b, x: b.node("PRelu", [x, b.constant("s", np.ones((4, 8, 8), np.float32))]), "slopes"),
    ],
)
def test_what_no_pieces_follow_is_refused_with_the_next_step(function, match):
    with pytest.raises(UnsupportedModelError, match=match) as caught:
        lower(chain(lambda b, x: q8(b, b.node("Add", [function(b, convolved(b, x)), x]))))
    assert caught.value.next_command
