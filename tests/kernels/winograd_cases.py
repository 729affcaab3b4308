"""Convolutions for the Winograd family: specification, interval of the activations, bits of the weights;
and operands for them.
"""

import numpy as np

from aqd_deploy.kernels.contract.spec import ConvSpec

SAME = {"kernel": (3, 3), "pads": (1, 1, 1, 1)}
CASES = [
    (ConvSpec(7, 9, 32, 40, **SAME), (0, 15), 4),
    (ConvSpec(1, 1, 16, 5, **SAME), (0, 15), 4),
    (ConvSpec(8, 5, 64, 33, (3, 3), pads=(0, 2, 1, 0)), (0, 3), 2),
    (ConvSpec(6, 6, 80, 16, (3, 3)), (0, 7), 3),
    (ConvSpec(5, 12, 128, 100, **SAME, input_signed=True), (-8, 7), 2),
    (
        ConvSpec(25 + 9 + 1 + 21, 1, 48, 24, **SAME, levels=((5, 5), (3, 3), (1, 1), (3, 7))),
        (0, 3),
        2,
    ),
    (ConvSpec(25 + 9 + 2, 1, 64, 16, **SAME, levels=((5, 5), (3, 3), (2, 1))), (0, 15), 4),
    (ConvSpec(9, 10, 64, 24, **SAME, odd=True), (0, 255), 5),
    (
        ConvSpec(81 + 4, 1, 16, 40, **SAME, odd=True, input_signed=True, levels=((9, 9), (4, 1))),
        (-128, 127),
        7,
    ),
]


def operands(spec: ConvSpec, interval: tuple[int, int], bits: int, fill: str, rng: np.random.Generator):
    """Activations in `interval` and odd weights of `bits`: anywhere, or all at one end."""
    low, high = interval
    largest = 2**bits - 1
    shape = (spec.height, spec.width, spec.in_channels)
    weight_shape = (spec.out_channels, spec.in_channels, 3, 3)
    if fill == "any":
        data = rng.integers(low, high + 1, shape)
        weights = 2 * rng.integers(0, largest + 1, weight_shape) - largest
    else:
        data = np.full(shape, high if fill == "highest" else low)
        weights = np.full(weight_shape, largest if fill != "lowest" else -largest)
    return data.astype(np.int8 if low < 0 else np.uint8), weights.astype(np.int8)
