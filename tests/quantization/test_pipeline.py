"""A float network to a quantized one: the same file again, the report, and the warnings."""

import json

import numpy as np
import onnx
import pytest
from float_graphs import chain, float_graph, pictures
from onnxruntime.quantization import quantize_dynamic

from aqd_deploy.passes.pipeline import lower
from aqd_deploy.quantization.calibration import Calibration
from aqd_deploy.quantization.methods import METHODS
from aqd_deploy.quantization.methods.contract import Lifted
from aqd_deploy.quantization.pipeline import quantize
from aqd_deploy.quantization.progress import Run
from aqd_deploy.quantization.recipe import Recipe, Steps
from aqd_deploy.quantization.session import Session
from aqd_deploy.quantization.state import State

PLAIN = [name for name in METHODS if isinstance(METHODS[name].make(**{
    key: each.default for key, each in METHODS[name].parameters.items()
}), Lifted)]  # fmt: skip


class Stopped(Exception):
    pass


def stop_at(stage):
    def listen(now):
        if now.stage == stage and now.done:
            raise Stopped

    return listen


@pytest.mark.parametrize("method", PLAIN)
def test_more_bits_are_nearer_to_float(method):
    errors = [
        quantize(chain(), pictures(), Recipe(method=method, weight_bits=bits, activation_bits=bits)).report[
            "output_error"
        ]
        for bits in (3, 5, 8)
    ]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.002


def test_a_dynamically_quantized_file_is_taken_as_the_network_of_its_weights(tmp_path):
    """As onnxruntime writes it."""
    quantize_dynamic(chain(), tmp_path / "d.onnx")
    model = onnx.load(tmp_path / "d.onnx")
    assert {"DynamicQuantizeLinear", "ConvInteger"} < {node.op_type for node in model.graph.node}
    result, of_floats = quantize(model, pictures()), quantize(chain(), pictures())
    assert "the weights of 3 layers were rounded" in result.report["warnings"][0]
    assert [node.op_type for node in result.model.graph.node] == [
        node.op_type for node in of_floats.model.graph.node
    ]
    names = [{row["layer"] for row in each.report["layers"]} for each in (result, of_floats)]
    assert names[0] == names[1]
    assert lower(result.model).report["float_tensors"] == 0
    feed = next(pictures().feeds())
    found, expected = (Session(each, ["y"])(feed)["y"] for each in (result.model, chain()))
    # Both are rounded to 8 bits, weights of the first one twice.
    assert np.abs(found - expected).max() < 0.05 * np.ptp(expected)


@pytest.mark.parametrize("steps", [Steps(), Steps(equalise=True, bias_correction=True)])
def test_the_same_file_again(steps):
    recipe = Recipe(method="percentile", weight_bits=4, activation_bits=4, steps=steps)
    first, second = (quantize(chain(), pictures(), recipe).model.SerializeToString() for _ in range(2))
    assert first == second


@pytest.mark.parametrize("stage", ["histograms", "errors of layers"])
def test_an_interrupted_run_that_goes_on_makes_the_same_file(tmp_path, stage):
    recipe = Recipe(method="entropy", weight_bits=4)
    expected = quantize(chain(), pictures(), recipe).model.SerializeToString()
    with pytest.raises(Stopped):
        quantize(chain(), pictures(), recipe, run=Run(stop_at(stage), state=State(tmp_path / "s", "k")))
    stages = []
    run = Run(lambda now: stages.append(now.stage), state=State(tmp_path / "s", "k"))
    assert quantize(chain(), pictures(), recipe, run=run).model.SerializeToString() == expected
    assert "ranges" not in stages


def test_the_report_is_json_and_tells_of_every_layer():
    recipe = Recipe(weight_bits=4, activation_bits=5, steps=Steps(equalise=True, bias_correction=True))
    report = json.loads(json.dumps(quantize(chain(), pictures(), recipe).report, allow_nan=False))
    rows = {row["layer"]: row for row in report["layers"]}
    assert list(rows) == ["a", "b", "y"]
    assert (rows["b"]["weight_bits"], rows["b"]["input_bits"]) == (4, 5)
    assert all(row["weight_scale"] > 0 and row["mean_square_error"] > 0 for row in rows.values())
    assert [step["step"] for step in report["steps"]] == [
        "equalise", "scale_channels", "bias_correction"
    ]  # fmt: skip
    assert report["steps"][2]["error_after"] == pytest.approx(report["output_error"])
    assert report["warnings"] == []
    assert {"ranges", "choosing", "errors of layers"} <= set(report["stages"])


def test_few_images():
    (warning,) = quantize(chain(), pictures(1)).report["warnings"]
    assert warning == "few calibration images: 1; 16 or more show the ranges better"


def test_images_of_one_color():
    plain = [{name: np.full_like(value, 7) for name, value in feed.items()} for feed in pictures(16).feeds()]
    warning = quantize(chain(), Calibration.of(plain)).report["warnings"][0]
    assert warning.startswith("every calibration image has one color throughout")
    several = [*plain, *pictures(1).feeds()]
    assert quantize(chain(), Calibration.of(several)).report["warnings"] == []


def test_activations_that_never_change():
    body = "z = Sub(image, image) a = Conv (z, w1, b1) r = Relu(a) y = Conv (r, w2)"
    model = float_graph(body, {"w1": (4, 3, 1, 1), "b1": np.full(4, -1, np.float32), "w2": (2, 4, 1, 1)})
    done = quantize(model, pictures())
    assert done.report["warnings"] == [
        "z is 0 everywhere in every calibration image", "r is 0 everywhere in every calibration image"
    ]  # fmt: skip
    assert done.report["output_error"] == 0


def test_weights_of_zeros():
    model = float_graph(
        "a = Conv (image, w1) r = Relu(a) y = Conv (r, w2, b2)",
        {"w1": (4, 3, 1, 1), "w2": np.zeros((2, 4, 1, 1), np.float32), "b2": (2,)},
    )
    done = quantize(model, pictures(), Recipe(method="power-of-two", weight_bits=4))
    assert done.report["warnings"] == ["the weights w2 are all 0: the layer y adds nothing"]
    assert done.report["layers"][1]["signal_to_noise_db"] is None


def test_symmetric_activations_have_no_zero_points():
    found = {
        symmetric: [
            tensor
            for tensor in quantize(chain(), pictures(), Recipe(symmetric=symmetric)).model.graph.initializer
            if tensor.name.startswith("image_") and tensor.name.endswith("_zero")
        ]
        for symmetric in (False, True)
    }
    ((asymmetric,), (symmetric,)) = (found[False], found[True])
    assert (asymmetric.data_type, symmetric.data_type) == (2, 3)
    assert symmetric.raw_data == b"\0" and asymmetric.raw_data != b"\0"
