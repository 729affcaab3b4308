"""QDQ files of other writers beside programs: peers run them as they are."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from aqd_deploy.bench.contenders import Field, add_peer, describe
from aqd_deploy.bench.measure import bench
from aqd_deploy.bench.network import write_network
from aqd_deploy.bench.peers import PEERS
from aqd_deploy.bench.qdq_file import find_qdq
from aqd_deploy.compiler import compile_model
from aqd_deploy.errors import UnsupportedModelError
from aqd_deploy.passes.pipeline import lower

ENTRY = {"scale": 0.5, "zero_point": -3, "dtype": "int8"}
MANIFEST = {"name": "foreign", "inputs": {"image": ENTRY}}


def foreign(shape=(1, 3, 8, 8), kind="int8") -> onnx.ModelProto:
    """A convolution between quantizers; its input and output are float."""
    constants = {
        "s": np.array(0.5, np.float32),
        "z": np.array(ENTRY["zero_point"] if kind == "int8" else 128, kind),
        "ws": np.array(0.25, np.float32),
        "wz": np.array(0, np.int8),
        "w": np.random.default_rng(0).integers(-9, 9, (4, 3, 3, 3)).astype(np.int8),
        "t": np.array(8.0, np.float32),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["image", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["x"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["f"]),
        helper.make_node("Conv", ["x", "f"], ["sums"], pads=[1] * 4),
        helper.make_node("QuantizeLinear", ["sums", "t", "z"], ["codes"]),
        helper.make_node("DequantizeLinear", ["codes", "t", "z"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "foreign",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, *shape[2:]])],
        initializer=[numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture
def qdq(tmp_path):
    path = tmp_path / "m.qdq.onnx"
    onnx.save(foreign(), path)
    return path


def test_peers_get_the_floats_that_the_programs_codes_stand_for(qdq, tmp_path):
    network = write_network(qdq, MANIFEST, None, tmp_path)
    assert network.is_quantized and network.model.read_bytes() == qdq.read_bytes()
    assert network.codes.dtype == np.int8 and network.value.dtype == np.float32
    np.testing.assert_array_equal(network.value, (network.codes.astype(int) + 3) * 0.5)


@pytest.mark.parametrize("name", PEERS)
def test_which_peers_run_the_file(name, tmp_path):
    peer, into = PEERS[name], Field()
    if not peer.installed():
        pytest.skip(f"not installed; {peer.install}")
    # OpenVINO has no kernel for the signed one.
    onnx.save(foreign(kind="uint8"), tmp_path / "m.onnx")
    network = write_network(tmp_path / "m.onnx", MANIFEST, None, tmp_path)
    add_peer(into, peer, network, [1], lambda _: None)
    if name in ("onnxruntime", "openvino"):
        (entry,) = describe(into)
        assert entry["form"] == "int8 file" and entry["int8"] and not into.failed
    else:
        assert into.failed == [{"contender": name, "reason": "it reads no quantized ONNX file"}]


@pytest.mark.parametrize(
    ("shape", "images", "told"),
    [
        (("n", 3, 8, 8), None, "fixed shape"),
        ((2, 3, 8, 8), None, "batch 1"),
        ((1, 3, 8, 8), np.zeros((1, 3, 8, 8), np.uint8), "not on an image"),
    ],
)
def test_what_cannot_be_timed(shape, images, told, tmp_path):
    path = tmp_path / "m.onnx"
    onnx.save(foreign(shape), path)
    with pytest.raises(UnsupportedModelError, match=told):
        write_network(path, MANIFEST, images, tmp_path)


def test_found_by_its_name_and_measured(qdq, tmp_path):
    program = tmp_path / "m.so"
    lowered = lower(onnx.load(qdq)).model
    compile_model(lowered, program, target="x86-64-v2", threads=1, tuned="none")
    document = bench(program, against=["onnxruntime"], rounds=1, runs=1)
    assert document["input"] == "random" and not document["failed"]
    assert list(document["measured"][0]["ratios"]) == ["onnxruntime int8 file"]
    assert find_qdq(program, {"name": "foreign"}) == qdq
