"""Outputs that are codes, straight from a convolution: the program, `aqd-run` and the reference agree."""

from __future__ import annotations

import pytest
from bundle_models import assert_equal
from small_models import INT8, UINT8, ModelWriter, random_image, reference, runnable_targets

from aqd_deploy.bundle import create_bundle
from aqd_deploy.compiler import compile_model
from aqd_deploy.runtime import Program


def codes():
    """Convolutions whose uint8 and int8 codes are outputs, and codes that were moved."""
    w = ModelWriter(seed=8)
    image = w.image("image", 3, 9, 11)
    stream = w.conv(image, w.weight(24, 3, 3, 4), pads=[1] * 4)
    unsigned = w.requantize(stream, 24, 38, hi=255)
    w.output(unsigned, [1, 24, 9, 11], UINT8)
    signed = w.requantize(stream, 24, 38, lo=-128, hi=127, to=INT8)
    w.output(signed, [1, 24, 9, 11], INT8)
    last = w.conv(unsigned, w.weight(5, 24, 3, 4), strides=[2, 2])
    w.output(w.requantize(last, 5, 36, lo=-128, hi=127, to=INT8), [1, 5, 4, 5], INT8)
    w.output(w.concat(unsigned, unsigned), [1, 48, 9, 11], UINT8)
    return w.model()


@pytest.mark.parametrize("target", runnable_targets())
def test_every_integer_of_every_type(target, tmp_path, outputs_of):
    model = codes()
    path = compile_model(model, tmp_path / "p.so", target=target, threads=2, tuned="none").path
    inputs = random_image(model, 1)
    expected = reference(model, inputs)
    assert {str(array.dtype) for array in expected.values()} == {"uint8", "int8"}
    assert all(len(set(array.ravel().tolist())) > 20 for array in expected.values())
    assert_equal(Program.load(path).run(inputs), expected)
    if target == runnable_targets()[0]:
        assert_equal(outputs_of(create_bundle(path, tmp_path / "b").path, inputs), expected)
