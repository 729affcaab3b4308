"""What the report calls proven, of what, and what every view says of it."""

import json
from fractions import Fraction

import numpy as np
import pytest
from exact_evaluation import ExactNetwork
from odd_graphs import RELU_ADD, quantize
from onnx import TensorProto, helper
from qdq_graphs import QdqBuilder, plain_graph, random_graph, random_image

from aqd_deploy.integer.reference import ReferenceRunner
from aqd_deploy.passes.pipeline import lower
from aqd_deploy.passes.proven import FIELDS, sentences


def sum_of_codes():
    """Relu(DQ(a) + DQ(b)) → Q → DQ of two int8 inputs [1, 1, 256, 256]."""
    b = QdqBuilder(0, 256, 256, 1)
    b.inputs = [
        helper.make_tensor_value_info(n, TensorProto.INT8, [1, 1, 256, 256]) for n in ("image", "other")
    ]
    b.shape["other"] = b.shape["image"]
    parts = []
    for name, (step, zero) in zip(("image", "other"), RELU_ADD, strict=False):
        scale = b.constant("step", np.array(step, dtype=np.float32))
        parts.append(
            b.node("DequantizeLinear", [name, scale, b.constant("zero", np.array(zero, dtype=np.int8))])
        )
    b.output(quantize(b, b.relu(b.add(*parts)), *RELU_ADD[2], np.int8), "out")
    return b.build()


def exact_codes(a, b):
    """The sum's code of every pair, in rationals."""
    (step_a, zero_a), (step_b, zero_b), (step, zero) = [
        (Fraction(float(np.float32(s))), z) for s, z in RELU_ADD
    ]
    left = {v: (v - zero_a) * step_a / step for v in range(-128, 128)}
    right = {v: (v - zero_b) * step_b / step for v in range(-128, 128)}
    sums = [left[x] + right[y] for x, y in zip(a.ravel().tolist(), b.ravel().tolist(), strict=True)]
    return np.array([min(max(round(max(s, Fraction(0))) + zero, -128), 127) for s in sums]).reshape(a.shape)


def test_a_sum_of_codes_is_proven_for_all_its_pairs():
    """Of sums that are rounded first, one pair of 65,536 is off by one (a = 5, b = 43)."""
    result = lower(sum_of_codes())
    values = np.arange(-128, 128, dtype=np.int8)
    a, b = (grid[None, None] for grid in np.meshgrid(values, values, indexing="ij"))
    integer = ReferenceRunner(result.model, threads=1, with_intermediates=True).run({"image": a, "other": b})
    entry = result.report["requantizations"][0]
    assert (integer["out"] == exact_codes(a, b)).all()
    assert (entry["proven"], entry["proven_of_network"], entry["equal_end_to_end"]) == (1, 1, True)
    assert entry["input_error_steps"] == 0
    assert "all codes are proven to be those of" in sentences(result.report)[2]


def test_where_nothing_is_rounded_all_codes_are_the_networks():
    result = lower(plain_graph(3))
    report = result.report
    assert report["proven_of_network"] == report["proven"] == report["requantized_channels"] > 0
    assert report["equal_end_to_end"] == report["requantizations_count"] == len(report["requantizations"])
    assert report["largest_input_error_steps"] == 0
    assert sentences(report)[1:] == [
        "these integers are exact: on the same codes the network decides the same",
        "end to end, all codes are proven to be those of the fake-quantized network",
    ]


def test_paper_numerics_proves_nothing_of_the_network():
    """Every batch norm is rounded on its own: the constants are proven, but codes are other ones."""
    qdq = plain_graph(3)
    result = lower(qdq, numerics="paper")
    image = random_image(qdq, 0)
    exact = ExactNetwork(qdq).run(image)
    integer = ReferenceRunner(result.model, threads=1, with_intermediates=True).run({"image": image})
    codes = [name for name in integer if name in exact and integer[name].dtype == np.uint8]
    assert sum(int((integer[name] != exact[name]).sum()) for name in codes) > 0
    report = result.report
    assert report["proven"] == report["requantized_channels"] > report["proven_of_network"]
    assert report["equal_end_to_end"] == 0
    assert report["largest_input_error_steps"] > 1e-4
    assert f"{report['largest_input_error_steps']:.3g} quantizer steps" in sentences(report)[1]


def test_codes_behind_a_rounded_one_are_not_called_the_networks():
    """Exact integers on codes that may differ: proven on the same codes, not end to end."""
    report = lower(random_graph(101, bits=4)).report
    behind = [e for e in report["requantizations"] if e["proven_of_network"] == e["channels"]]
    assert any(not entry["equal_end_to_end"] for entry in behind)
    assert report["equal_end_to_end"] < len(behind) <= report["requantizations_count"]


@pytest.mark.parametrize("numerics", ["exact", "paper", "power-of-two"])
def test_the_manifest_tells_the_same(numerics):
    result = lower(random_graph(5, bits=4), numerics=numerics)
    lowering = json.loads(result.model.metadata_props[0].value)["lowering"]
    assert lowering == {name: result.report[name] for name in FIELDS}
    assert sentences(lowering) == sentences(result.report)


def test_what_older_files_say():
    old = {"numerics": "exact", "requantized_channels": 4, "proven": 4, "float_tensors": 0}
    assert len(sentences(old)) == 1 and "4 of 4" in sentences(old)[0]
    assert sentences({"requantized_channels": 0, "proven": 0}) == ["no value is requantized"]
    assert sentences({}) == sentences({"requantized_channels": "many", "proven": []}) == []


def test_channels_without_a_proof_are_not_called_exact():
    entry = {"requantized_channels": 4, "proven": 3, "proven_of_network": 3, "largest_input_error_steps": 0.0,
             "requantizations_count": 1, "equal_end_to_end": 0}  # fmt: skip
    assert sentences(entry)[1].startswith("the integers of these 3 are exact")
    assert sentences({**entry, "proven": 4})[1].startswith("these integers are exact")


def test_a_batch_norm_behind_another_is_within_192_bits_only():
    b = QdqBuilder(1)
    x = b.batch_norm(b.batch_norm(b.conv(b.image(), 4, 8)))
    b.output(b.conv(b.quantize(x, 4), 4, 4), "out")
    report = lower(b.build()).report
    assert report["equal_end_to_end"] == 0 < report["largest_input_error_steps"] < 1e-40
