"""Files that are quantized in part get the quantizers that they lack, and keep those that they have."""

import dataclasses

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from aqd_deploy.compiler import compile_model
from aqd_deploy.errors import UnsupportedModelError
from aqd_deploy.evaluation.compare import compare_integers, total_difference
from aqd_deploy.frontends.graph import GraphBuilder
from aqd_deploy.integer.reference import ReferenceRunner
from aqd_deploy.passes.pipeline import lower
from aqd_deploy.quantization.calibration import calibration_of
from aqd_deploy.quantization.complete import complete
from aqd_deploy.quantization.recipe import Recipe
from aqd_deploy.runtime import Program

SIZE = 16


def partly_quantized(*, shared: bool = False) -> onnx.ModelProto:
    """Stem float, a 4-bit convolution, a float head; with `shared` the head reads what the 4-bit one reads
    as well.
    """
    rng = np.random.default_rng(3)
    graph = GraphBuilder("part")
    x = graph.image([100, 110, 120], [1, 1, 1], SIZE, SIZE)
    stem = graph.constant("stem.weight", rng.normal(0, 0.02, (8, 3, 3, 3)).astype(np.float32))
    x = graph.add("Relu", [graph.add("Conv", [x, stem], "stem", pads=[1] * 4)], "stem.relu")
    codes = graph.quantize_activation(x, 0.2, 4, "middle.input")
    weights = 2 * rng.integers(-8, 8, (8, 8, 3, 3)) + 1
    y = graph.add("Conv", [codes, graph.quantized_weight(weights, 0.02, 4, "middle.weight")], "middle",
                  pads=[1] * 4)  # fmt: skip
    head = graph.constant("head.weight", rng.normal(0, 0.3, (8, 8, 1, 1)).astype(np.float32))
    y = graph.add("Add", [y, graph.add("Conv", [x, head], "side")], "sum") if shared else y
    wide = rng.normal(0, 0.3, (4, 8, 1, 1)).astype(np.float32)
    graph.output(graph.add("Conv", [y, graph.constant("last.weight", wide)], "last"), "y", [1, 4, SIZE, SIZE])
    return graph.model({})


@pytest.fixture
def images(tmp_path):
    path = tmp_path / "images.npz"
    rng = np.random.default_rng(5)
    np.savez(path, image=rng.integers(0, 256, (16, 3, SIZE, SIZE), dtype=np.uint8))
    return path


def quantizers(model: onnx.ModelProto) -> dict[str, tuple]:
    """What each QuantizeLinear and DequantizeLinear of a file does, by the name of its output."""
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return {
        node.output[0]: (node.op_type, node.input[0], *(arrays[name].tobytes() for name in node.input[1:]))
        for node in model.graph.node
        if node.op_type in ("QuantizeLinear", "DequantizeLinear")
    }


def test_what_is_missing_comes_and_what_is_there_stays(images):
    model = partly_quantized()
    with pytest.raises(UnsupportedModelError, match="quantize FILE --complete"):
        lower(model)
    result = complete(model, calibration_of(images, model, None))
    before, after = quantizers(model), quantizers(result.model)
    assert before.items() <= after.items() and len(after) > len(before)
    assert {row["layer"] for row in result.report["layers"] if "weight_bits" in row} == {"stem", "last"}
    stored = {t.name: numpy_helper.to_array(t) for t in result.model.graph.initializer}
    kept = next(t for t in model.graph.initializer if t.name == "middle.weight")
    assert np.array_equal(stored["middle.weight"], numpy_helper.to_array(kept))
    integer = lower(result.model)
    assert integer.report["float_tensors"] == 0
    feed = {"image": np.load(images)["image"][:1]}
    fake, real = (
        ReferenceRunner(result.model, as_written=True).run(feed)["y"],
        ReferenceRunner(model, as_written=True).run(feed)["y"],
    )
    assert np.corrcoef(fake.ravel(), real.ravel())[0, 1] > 0.99


def test_bits_of_the_new_quantizers_are_those_of_the_recipe(images):
    model = partly_quantized()
    recipe = dataclasses.replace(Recipe(), weight_bits=6, activation_bits=6, first_bits=6, last_bits=6)
    rows = complete(model, calibration_of(images, model, None), recipe).report["layers"]
    assert {row["weight_bits"] for row in rows if "weight_bits" in row} == {6}


def test_a_tensor_that_has_a_quantizer_gets_no_other(images):
    model = partly_quantized(shared=True)
    result = complete(model, calibration_of(images, model, None))
    reads = {node.output[0]: node.input[0] for node in result.model.graph.node if node.op_type == "Conv"}
    assert reads["side"] == reads["middle"]
    assert lower(result.model).report["float_tensors"] == 0


def test_nothing_is_missing(images):
    model = complete(partly_quantized(), calibration_of(images, partly_quantized(), None)).model
    with pytest.raises(UnsupportedModelError, match="no quantizer is missing"):
        complete(model, calibration_of(images, model, None))


@pytest.mark.e2e
def test_the_program_of_a_star_network_has_the_references_integers(images, tmp_path):
    pytest.importorskip("torch")
    from aqd_deploy.frontends.random_network import random_detector
    from aqd_deploy.frontends.torch_qdq import export_qdq
    from aqd_deploy.qat.config import parse_architecture

    config = parse_architecture(
        "fcos_r18", bits=4, width=0.125, fpn_channels=16, head_depth=1, classes=3, image_height=64,
        image_width=64,
    )  # fmt: skip
    model = export_qdq(random_detector(dataclasses.replace(config, mode="aqd*")))
    with pytest.raises(UnsupportedModelError, match="quantize FILE --complete"):
        lower(model)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 3, 64, 64), dtype=np.uint8)
    np.savez(images, image=pixels)
    result = complete(model, calibration_of(images, model, None))
    integer = lower(result.model)
    assert integer.report["float_tensors"] == 0
    compile_model(integer.model, tmp_path / "m.so", target="host", threads=1)
    program, reference = Program.load(tmp_path / "m.so"), ReferenceRunner(integer.model)
    for each in pixels[:2]:
        feed = {"image": each[None]}
        difference = total_difference(compare_integers(reference.run(feed), program.run(feed)))
        assert difference.count > 0 and difference.differing == 0
