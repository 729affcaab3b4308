"""Every variant of every peer that is installed runs a small network, and computes that network."""

from __future__ import annotations

import sys

import numpy as np
import onnx
import pytest
from float_network import small_network

from aqd_deploy.bench.peers import PEERS, choose_peers
from aqd_deploy.bench.peers.convert import converted
from aqd_deploy.bench.quiet import native_output_hidden
from aqd_deploy.errors import AqdError

VARIANTS = [
    pytest.param(
        peer,
        variant,
        id=f"{peer.name} {variant.name}",
        marks=pytest.mark.skipif(
            not (peer.installed() and variant.installed()), reason=f"not installed; {peer.install}"
        ),
    )
    for peer in PEERS.values()
    for variant in peer.variants
]


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return small_network(tmp_path_factory.mktemp("network"))


@pytest.fixture(scope="module")
def expected(network):
    import onnxruntime

    session = onnxruntime.InferenceSession(network.float_model, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"image": network.value}), strict=True))


def outputs(peer: str, returned, names: list[str]) -> dict[str, np.ndarray]:
    """What a contender returned, as numpy arrays by the outputs' names."""
    match peer:
        case "onnxruntime":
            return dict(zip(names, returned, strict=True))
        case "openvino":
            return {next(iter(port.names)): np.array(value) for port, value in returned.items()}
        case "ncnn":
            return dict(zip(names, (np.array(mat)[None] for _, mat in returned), strict=True))
    import MNN

    found = {}
    for name, tensor in returned.items():
        host = MNN.Tensor(tensor.getShape(), MNN.Halide_Type_Float, MNN.Tensor_DimensionType_Caffe)
        tensor.copyToHostTensor(host)
        found[name] = np.array(host.getNumpyData()).reshape(tensor.getShape())
    return found


@pytest.mark.parametrize(("peer", "variant"), VARIANTS)
def test_a_variant_computes_the_network(peer, variant, network, expected, monkeypatch):
    # Importing it would run pip.
    monkeypatch.setitem(sys.modules, "MNN.tools", None)
    path = network.float_model if variant.conversion is None else converted(variant.conversion, network)
    with native_output_hidden():
        opened = variant.open(path, network, 1)
        found = outputs(peer.name, opened.run(), list(expected))
    for name, array in expected.items():
        if variant.is_int8:
            assert np.corrcoef(found[name].ravel(), array.ravel())[0, 1] > 0.95
        else:
            # bfloat16 is off by 5e-3.
            assert np.abs(found[name] - array).max() < 1e-4 * np.abs(array).max()


def test_float_is_labelled_by_its_width():
    labels = [variant.what for peer in PEERS.values() for variant in peer.variants if not variant.is_int8]
    assert len(labels) == len(PEERS) and all(label.startswith("float32") for label in labels)


@pytest.mark.skipif(not PEERS["openvino"].installed(), reason="not installed")
def test_openvino_is_asked_for_float32(network, monkeypatch):
    """Also where the CPU has no narrower floats, and would compute in float32 unasked."""
    import openvino

    asked = []
    compile_model = openvino.Core.compile_model

    def listen(core, model, device, settings):
        asked.append(settings)
        return compile_model(core, model, device, settings)

    monkeypatch.setattr(openvino.Core, "compile_model", listen)
    _float_variant("openvino").open(network.float_model, network, 1)
    assert asked[0]["INFERENCE_PRECISION_HINT"] == "f32"


@pytest.mark.skipif(not PEERS["openvino"].installed(), reason="not installed")
def test_openvino_tells_its_kernels(network):
    convolutions = _float_variant("openvino").open(network.float_model, network, 1).convolutions
    expected = sum(node.op_type == "Conv" for node in onnx.load(network.float_model).graph.node)
    assert sum(convolutions.values()) == expected
    # Float32 was asked for, which AMX does not multiply.
    assert all("f32" in kernel and "amx" not in kernel for kernel in convolutions)


def _float_variant(peer: str):
    return next(variant for variant in PEERS[peer].variants if variant.name == "float")


@pytest.mark.skipif(not PEERS["mnn"].installed(), reason="not installed")
def test_mnn_is_asked_for_float32(network, monkeypatch):
    """Also where it would compute in float32 unasked."""
    import MNN

    asked = []
    interpreter = MNN.Interpreter

    class Listening:
        def __init__(self, path):
            self._interpreter = interpreter(path)

        def __getattr__(self, name):
            return getattr(self._interpreter, name)

        def createSession(self, settings):
            asked.append(settings)
            return self._interpreter.createSession(settings)

    monkeypatch.setitem(sys.modules, "MNN.tools", None)
    with native_output_hidden():
        folder = converted(_float_variant("mnn").conversion, network)
        monkeypatch.setattr(MNN, "Interpreter", Listening)
        _float_variant("mnn").open(folder, network, 1)
    assert asked[0]["precision"] == "high"


@pytest.mark.skipif(not PEERS["ncnn"].installed(), reason="not installed")
def test_ncnn_is_asked_for_float32(network, monkeypatch):
    import ncnn

    asked = []

    class Listening(ncnn.Net):
        def load_model(self, path):
            names = (name for name in dir(self.opt) if "fp16" in name or "bf16" in name)
            asked.append({name: getattr(self.opt, name) for name in names})
            return super().load_model(path)

    with native_output_hidden():
        folder = converted(_float_variant("ncnn").conversion, network)
        monkeypatch.setattr(ncnn, "Net", Listening)
        _float_variant("ncnn").open(folder, network, 1)
    assert len(asked[0]) >= 4 and not any(asked[0].values())


@pytest.mark.skipif(not PEERS["mnn"].installed(), reason="not installed")
def test_mnn_is_converted_without_the_wrappers_that_install_packages(network, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "MNN.tools", None)
    with native_output_hidden():
        PEERS["mnn"].variants[0].conversion.make(network, tmp_path)
    assert (tmp_path / "float.mnn").stat().st_size > 0


def test_ncnn_says_that_it_has_no_int8():
    assert not any(variant.is_int8 for variant in PEERS["ncnn"].variants)
    assert "INT8" in PEERS["ncnn"].note


def test_peers_by_name(monkeypatch):
    peer = type(PEERS["mnn"])
    monkeypatch.setattr(peer, "installed", lambda self: self.name != "ncnn")
    installed, missing = choose_peers(["ncnn", "mnn", "ncnn"])
    assert [p.name for p in installed] == ["mnn"]
    assert [(p.name, p.install) for p in missing] == [("ncnn", "pip install 'aqd-deploy[peers]'")]
    with pytest.raises(AqdError, match="tensorrt"):
        choose_peers(["tensorrt"])
