"""What kernels of tiles say that they execute: whole tiles, 16 pixels by 16 output channels by 64 samples."""

import pytest

from aqd_deploy.kernels.contract.choice import Choice
from aqd_deploy.kernels.contract.spec import ConvSpec, Epilogue
from aqd_deploy.kernels.cpu.conv.families import conv2d, conv_choices
from aqd_deploy.targets.isa import Isa

TILE = 16 * 16 * 64
PADDED = (1, 1, 1, 1)


def default(spec: ConvSpec) -> Choice:
    """The first choice on tiles."""
    return next(choice for choice in conv_choices(spec, Isa.AMX, 1) if choice.family == "amx")


@pytest.mark.parametrize(
    ("spec", "pixel_tiles", "channel_tiles", "steps"),
    [
        # Ten rows of eleven pixels, the last one without its padding: 109 in pairs of tiles.
        (ConvSpec(10, 10, 64, 64, (3, 3), pads=PADDED), 8, 4, 9),
        # One of 24 channels more than a tile of outputs has; one step of 32 channels is half empty.
        (ConvSpec(8, 4, 32, 24, (1, 1)), 2, 2, 1),
        # A stem: three kernel rows of nine bytes are folded into one step; 64 windows lie without padding.
        (ConvSpec(16, 16, 3, 32, (3, 3), strides=(2, 2), pads=PADDED), 4, 2, 1),
        # One block of outputs: four tiles of pixels meet it.
        (ConvSpec(8, 8, 64, 16, (1, 1)), 4, 1, 1),
    ],
)
def test_executed_products_are_those_of_whole_tiles(spec, pixel_tiles, channel_tiles, steps):
    kernel = conv2d(spec, Epilogue(), Isa.AMX, 1, default(spec))
    assert kernel.executed_macs == pixel_tiles * channel_tiles * steps * TILE
    macs = spec.out_height * spec.out_width * spec.kernel[0] * spec.kernel[1] * spec.in_channels
    assert kernel.executed_macs >= macs * spec.out_channels
