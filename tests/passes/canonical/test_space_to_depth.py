"""SpaceToDepth."""

import pytest
from canonical_meaning import canonical
from small_files import FileBuilder, ops


@pytest.mark.parametrize("block", [2, 3])
def test_case_1_squares_become_channels(block):
    b = FileBuilder()
    x = b.node("SpaceToDepth", [b.conv(b.quantize("image"), 2)], blocksize=block)
    result = b.rewritten(b.conv(b.quantize(x), 4, 2 * block**2))
    assert ops(result.model).count("Slice") == block**2
    assert "SpaceToDepth" not in ops(result.model)


def test_case_1_beside_another_map():
    """As in the passthrough of YOLOv2."""
    b = FileBuilder(shape=(1, 4, 8, 8))
    fine = b.conv(b.quantize("image"))
    coarse = b.node("MaxPool", [fine], kernel_shape=[2, 2], strides=[2, 2])
    x = b.node("Concat", [b.node("SpaceToDepth", [fine], blocksize=2), coarse], axis=1)
    b.rewritten(b.conv(b.quantize(x), 4, 20))


@pytest.mark.parametrize(("side", "block"), [(17, 17), (None, 2)])
def test_case_2_many_pixels_and_open_sides(side, block):
    b = FileBuilder(shape=(1, 4, side, side))
    x = b.node("SpaceToDepth", [b.conv(b.quantize("image"), 1)], blocksize=block)
    model = b.model(b.conv(b.quantize(x), 1, block**2))
    assert "SpaceToDepth" in ops(canonical(model).model)
