"""Convolutions of the networks, the epilogue of the paper, and operands of their whole range."""

import numpy as np

from aqd_deploy.kernels.contract.spec import (
    AddBias,
    ConvSpec,
    Epilogue,
    Relu,
    SkipAdd,
    StoreRequantize,
    StoreStream,
    StoreThreshold,
)

PAPER = Epilogue(
    (AddBias(), SkipAdd(self_identity=True), Relu()),
    (StoreStream(), StoreRequantize(0, 15), StoreThreshold(0, 3)),
)
NETWORK = {
    "stem": ConvSpec(29, 31, 3, 24, (7, 7), (2, 2), (3, 3, 3, 3), odd=True, pad_values=(104, 116, 124)),
    "3x3": ConvSpec(13, 10, 64, 48, (3, 3), pads=(1, 1, 1, 1)),
    "downsample": ConvSpec(14, 14, 32, 64, (1, 1), strides=(2, 2)),
    "head": ConvSpec(5, 5, 64, 36, (3, 3), pads=(1, 1, 1, 1), odd=True),
    "signed": ConvSpec(6, 6, 20, 16, (3, 3), pads=(1, 1, 1, 1), input_signed=True),
    "depthwise": ConvSpec(9, 9, 40, 40, (3, 3), pads=(1, 1, 1, 1), group=40),
    "depthwise odd": ConvSpec(7, 8, 19, 19, (3, 2), (2, 1), (1, 0, 0, 1), group=19, odd=True),
    "grouped": ConvSpec(9, 11, 28, 64, (3, 3), pads=(1, 1, 1, 1), group=4),
    "grouped signed": ConvSpec(5, 5, 6, 32, (3, 3), pads=(1, 1, 1, 1), group=2, input_signed=True),
    "one pixel": ConvSpec(1, 1, 64, 80, (1, 1)),
}


def operands(spec: ConvSpec, rng: np.random.Generator, extreme: bool) -> tuple[np.ndarray, np.ndarray]:
    """Data and weights over the ranges of the specification, or only their two ends."""
    dtype, lo, hi = (np.int8, -128, 127) if spec.input_signed else (np.uint8, 0, 255)
    lo, hi = spec.input_range or (lo, hi)
    first, last = spec.weight_range or (-128, 127)
    shape = (spec.height, spec.width, spec.in_channels)
    weight_shape = (spec.out_channels, spec.in_channels // spec.group, *spec.kernel)
    if extreme:
        return rng.choice(np.array([lo, hi], dtype), shape), rng.choice(
            np.array([first, last], np.int8), weight_shape
        )
    weights = np.arange(first, last + 1, spec.weight_step)
    return (
        rng.integers(lo, hi + 1, shape).astype(dtype),
        rng.choice(weights, weight_shape).astype(np.int8),
    )
