"""Which form a plan's multiply-shifts get, and from which intervals."""

import numpy as np
import pytest

from aqd_deploy.compiler.arithmetic import specialise
from aqd_deploy.compiler.plan import Conv, MaxPool, Plan, Pointwise
from aqd_deploy.integer.types import TensorType
from aqd_deploy.kernels.contract.spec import (
    GENERAL,
    ConvSpec,
    Epilogue,
    MultiplyShift,
    Relu,
    SkipAdd,
    StoreRequantize,
    StoreStream,
)

CHANNELS = 4


def constants(c: int, b: int, d: int, rows: int = CHANNELS) -> list[np.ndarray]:
    return [np.full(rows, c, np.int32), np.full(rows, b, np.int64), np.full(rows, d, np.int32)]


def plan_of(*operations: Conv | Pointwise | MaxPool, **tensors: str) -> Plan:
    """A plan on 2x2 maps; weights are all ones, 1x1."""
    types = {name: TensorType(2, 2, CHANNELS, dtype) for name, dtype in tensors.items()}
    weights = {"w": np.ones((CHANNELS, CHANNELS, 1, 1), np.int8)}
    return Plan(["x"], ["y"], list(operations), types, weights)


def convolution(epilogue: Epilogue, operands: list, outputs: tuple[str, ...] = ("y",), **spec) -> Conv:
    spec = ConvSpec(2, 2, CHANNELS, CHANNELS, (1, 1), **spec)
    return Conv("conv", "x", "w", spec, epilogue, tuple(operands), outputs)


def rewritten(*operations: Conv | Pointwise | MaxPool, **tensors: str) -> Conv | Pointwise | MaxPool:
    """The last operation of the specialised plan."""
    return specialise(plan_of(*operations, **tensors)).operations[-1]


def test_accumulators_come_from_the_weights():
    """Four inputs up to 255 and weights of 1: levels up to 1020 >> 4 clip at 15 only."""
    end = Epilogue((), (StoreRequantize(0, 15),))
    op = rewritten(convolution(end, constants(1, 0, 4)), x="uint8", y="uint8")
    scaling = op.epilogue.stores[0].scaling
    assert (scaling.form, scaling.lower, scaling.upper) == ("narrow", False, True)
    assert op.operands[0][3].tolist() == [255] * CHANNELS


def test_odd_weights_are_three():
    """2·1 + 1, so accumulators reach 3060 and 255 is clipped."""
    end = Epilogue((), (StoreRequantize(0, 255),))
    plain = rewritten(convolution(end, constants(1, 0, 3)), x="uint8", y="uint8")
    odd = rewritten(convolution(end, constants(1, 0, 3), odd=True), x="uint8", y="uint8")
    assert not plain.epilogue.stores[0].scaling.upper
    assert odd.epilogue.stores[0].scaling.upper


def test_padding_widens_the_interval():
    end = Epilogue((), (StoreRequantize(0, 255),))
    spec = {"pads": (1, 1, 1, 1), "pad_values": (-128,) * CHANNELS, "input_signed": True}
    inner = convolution(Epilogue(), [], ("y",), input_signed=True)
    padded = convolution(end, constants(1, 512, 3), **spec)
    assert not rewritten(padded, x="int8", y="uint8").epilogue.stores[0].scaling.lower
    assert rewritten(inner, x="int8", y="int32").epilogue == Epilogue()


def test_a_relu_joins_its_requantizations():
    end = Epilogue((Relu(),), (StoreRequantize(0, 15), StoreRequantize(-8, 7, "int8")))
    parameters = constants(1, 0, 4) + constants(3, 5, 6)
    op = rewritten(convolution(end, parameters, ("y", "z"), input_signed=True), x="int8", y="uint8", z="int8")
    assert op.epilogue.stages == ()
    assert all(store.scaling.lower for store in op.epilogue.stores)


@pytest.mark.parametrize(
    "stores", [(StoreStream(), StoreRequantize(0, 15)), (StoreRequantize(0, 15), StoreStream())]
)
def test_a_relu_before_a_stream_stays(stores):
    op = rewritten(
        convolution(Epilogue((Relu(),), stores), constants(1, 0, 4), ("y", "z"), input_signed=True),
        x="int8",
        y="uint8",
        z="uint8",
    )
    assert op.epilogue.stages == (Relu(),)
    (scaling,) = (store.scaling for store in op.epilogue.stores if isinstance(store, StoreRequantize))
    assert not scaling.lower


def test_intervals_pass_pools_and_skip_adds():
    """A stream of 2^k·v + B needs a shift alone; three times the pooled one still fits 32 bits."""
    first = convolution(Epilogue((MultiplyShift(), Relu()), (StoreStream(),)), constants(32, 7, 0), ("a",))
    pool = MaxPool("pool", "a", "b", (1, 1), (1, 1), (0, 0, 0, 0))
    end = Epilogue((SkipAdd(),), (StoreStream(),))
    last = convolution(end, ["b", *constants((1 << 31) - 1, 1 << 20, 22), *constants(3, 1, 1)])
    plan = specialise(plan_of(first, pool, last, x="uint8", a="int32", b="int32", y="int32"))
    assert plan.operations[0].epilogue.stages[0].scaling.form == "shift"
    step = plan.operations[2].epilogue.stages[0]
    assert (step.self_scaling.form, step.other_scaling.form) == ("wide", "narrow")
    assert plan.operations[2].operands[0] == "b"


def test_unknown_streams_keep_the_general_form():
    """All of int32 times 3 may leave int32; a shift beyond 32 mixed with none fits no other form."""
    end = Epilogue((MultiplyShift(),), (StoreStream(),))
    c, b, d = constants(3, 0, 0)
    d[0] = 40
    op = rewritten(Pointwise("p", "x", end, (c, b, d), ("y",)), x="int32", y="int32")
    assert op.epilogue.stages[0].scaling == GENERAL


def test_levels_have_rows_of_their_own():
    """The second level's constants reach their limit later: one clamp a row."""
    end = Epilogue((), (StoreRequantize(0, 15),))
    rows = [np.concatenate(pair) for pair in zip(constants(1, 0, 4), constants(1, 0, 5), strict=True)]
    spec = ConvSpec(8, 1, CHANNELS, CHANNELS, (1, 1), levels=((2, 2), (2, 2)))
    op = Conv("conv", "x", "w", spec, end, tuple(rows), ("y",))
    words = rewritten(op, x="uint8", y="uint8").operands[0]
    assert words[3].tolist() == [255] * CHANNELS + [511] * CHANNELS
