"""The exported file against torch, and the forms docs/qdq-form.md promises."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
from onnx import numpy_helper
from small_detectors import run_onnx, small_config

torch = pytest.importorskip("torch")

from aqd_deploy.errors import ScaleError, UnsupportedModelError  # noqa: E402
from aqd_deploy.frontends.random_network import random_detector  # noqa: E402
from aqd_deploy.frontends.torch_qdq import export_qdq  # noqa: E402
from aqd_deploy.qat.layers import BatchNorm, QuantConv2d  # noqa: E402
from aqd_deploy.qat.models import build_model  # noqa: E402

# Both compute in float32 but add in different orders, so a value that lies on a quantizer's decision may
# round the
# other way in one of them, and what depends on it moves by a step. Such flips are rare: the rest agrees to
# 1e-4 of
# the largest value, far below one step.
ROUNDING, FLIPPED, MOVED = 1e-4, 0.02, 0.02


def flatten(outputs: dict, names: list[str]) -> np.ndarray:
    return np.concatenate([np.asarray(outputs[name]).ravel() for name in names]).astype(np.float64)


def assert_agrees(model, qdq, image: np.ndarray) -> None:
    with torch.no_grad():
        expected = model(model.preprocess(torch.from_numpy(image)))
    found = run_onnx(qdq, image)
    assert list(found) == list(expected)
    assert all(found[name].shape == tuple(expected[name].shape) for name in found)
    a, b = flatten(found, list(found)), flatten(expected, list(found))
    assert np.isfinite(a).all() and b.std() > 1e-3
    assert (np.abs(a - b) > ROUNDING * np.abs(b).max()).mean() <= FLIPPED
    assert np.sqrt(((a - b) ** 2).mean()) <= MOVED * b.std()


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("backbone", ["r18", "r34", "r50"])
@pytest.mark.parametrize("detector", ["fcos", "retinanet"])
def test_onnxruntime_agrees_with_torch(detector, backbone, bits, image):
    model = random_detector(small_config(f"{detector}_{backbone}", bits))
    assert_agrees(model, export_qdq(model), image)


def test_float_network_agrees_with_torch(image):
    model = random_detector(small_config(bits=None))
    qdq = export_qdq(model)
    assert "QuantizeLinear" not in {node.op_type for node in qdq.graph.node}
    assert_agrees(model, qdq, image)


def test_vanishing_zero_and_negative_gamma(image):
    model = random_detector(small_config(bits=4))
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, BatchNorm):
                module.weight[:4] = torch.tensor([0.0, -0.7, 1e-12, -1e-30])
    assert_agrees(model, export_qdq(model), image)


def test_shared_head_has_one_weight():
    model = random_detector(small_config("retinanet_r18", 4))
    qdq = export_qdq(model)
    convolutions = [module for module in model.modules() if isinstance(module, QuantConv2d)]
    weights = [tensor for tensor in qdq.graph.initializer if len(tensor.dims) == 4]
    assert len(weights) == len(convolutions)
    readers = Counter(node.input[1] for node in qdq.graph.node if node.op_type == "Conv")
    shared = [name for name, count in readers.items() if count == 5]
    assert sorted(shared) == [
        "head.bbox_pred.weight.value",
        "head.box_tower.0.conv.weight.value",
        "head.cls_score.weight.value",
        "head.cls_tower.0.conv.weight.value",
    ]
    dequantized = Counter(node.output[0] for node in qdq.graph.node if node.op_type == "DequantizeLinear")
    assert all(dequantized[name] == 1 for name in shared)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_weights_are_the_odd_integers_of_the_layers(bits):
    model = random_detector(small_config(bits=bits))
    qdq = export_qdq(model)
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in qdq.graph.initializer}
    for path, module in model.named_modules():
        if isinstance(module, QuantConv2d):
            q, step = module.integer_weight()
            stored = tensors[f"{path}.weight"]
            assert stored.dtype == (np.int16 if module.weight_quantizer.bits == 8 else np.int8)
            assert (stored % 2 == 1).all()
            np.testing.assert_array_equal(stored, q.numpy())
            assert tensors[f"{path}.weight.step"] == np.float32(step)
    clipped = sum(node.op_type == "Clip" and node.input[0].endswith(".weight") for node in qdq.graph.node)
    quantizers = [m.weight_quantizer for m in model.modules() if isinstance(m, QuantConv2d)]
    assert clipped == sum(quantizer.bits < 8 for quantizer in quantizers)


def test_image_is_uint8_with_the_mean_as_zero_point():
    config = small_config(mean=(100, 110, 120))
    qdq = export_qdq(random_detector(config))
    (source,) = qdq.graph.input
    assert (source.name, source.type.tensor_type.elem_type) == ("image", 2)
    first = qdq.graph.node[0]
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in qdq.graph.initializer}
    assert first.op_type == "DequantizeLinear"
    np.testing.assert_array_equal(tensors[first.input[2]], np.array([100, 110, 120], np.uint8))


@pytest.mark.parametrize("architecture", ["fcos_r18", "retinanet_r18"])
def test_manifest(architecture):
    config = small_config(architecture, 4, class_names=("a", "b", "c"), category_ids=(1, 90, 7))
    qdq = export_qdq(random_detector(config), name="named")
    (entry,) = qdq.metadata_props
    manifest = json.loads(entry.value)
    assert (entry.key, manifest["schema"], manifest["name"]) == ("aqd.manifest", 1, "named")
    assert manifest["bits"] == {"weights": 4, "activations": 4, "first_last": 8}
    assert manifest["detector"]["classes"] == ["a", "b", "c"]
    assert manifest["detector"]["category_ids"] == [1, 90, 7]
    assert (manifest["detector"]["anchors"] is None) == (config.detector == "fcos")
    outputs = [name for names in manifest["detector"]["outputs"].values() for name in names]
    assert outputs == [output.name for output in qdq.graph.output]


def test_group_norm_is_refused():
    model = build_model(small_config())
    model.head.cls_tower[0].bn = torch.nn.GroupNorm(4, 16)
    with pytest.raises(UnsupportedModelError, match=r"GroupNorm.*head\.cls_tower\.0\.bn"):
        export_qdq(model.eval())


def test_group_norm_of_a_quantized_head_is_refused(image):
    """A head that can be trained at low bits, to compare, is no integer arithmetic; in floats it is."""
    changes = {"head_norm": "group", "fpn_channels": 32}
    with pytest.raises(UnsupportedModelError, match=r"GroupNorm.*head\.cls_tower\.0\.norm.*multi-level"):
        export_qdq(random_detector(small_config(bits=2, **changes)))
    model = random_detector(small_config(bits=None, **changes))
    assert "GroupNormalization" in {node.op_type for node in export_qdq(model).graph.node}


def test_one_norm_for_all_levels_is_the_same_for_each(image):
    model = random_detector(small_config(bits=2, head_norm="shared"))
    norm = model.head.cls_tower[0].bn.of(0)
    with torch.no_grad():
        norm.running_mean += torch.linspace(-1, 1, 16)
    qdq = export_qdq(model)
    nodes = [
        node for node in qdq.graph.node if node.op_type == "BatchNormalization" and "cls_tower" in node.name
    ]
    assert len(nodes) == 5 and len({tuple(node.input[1:]) for node in nodes}) == 1
    assert_agrees(model, qdq, image)


@pytest.mark.parametrize("nu", [0.0, float("nan"), float("inf")])
def test_bad_steps_are_refused(nu):
    model = random_detector(small_config())
    with torch.no_grad():
        model.backbone.layer1[0].conv1.conv.activation_quantizer.nu.fill_(nu)
    with pytest.raises(ScaleError):
        export_qdq(model)


def test_random_networks_are_the_same_for_a_seed_and_alive():
    config = small_config(bits=4)
    first, again, other = (random_detector(config, seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
    steps = [float(value) for name, value in first.items() if name.endswith("nu")]
    assert len(set(steps)) > len(steps) // 2


def test_a_head_of_another_class_has_no_rule():
    class H(torch.nn.Module):
        pass

    model = random_detector(small_config())
    model.head = H()
    with pytest.raises(UnsupportedModelError) as caught:
        export_qdq(model)
    assert caught.value.sentence() == (
        "no export rule for this module; got H at head; valid: the modules of aqd_deploy.qat"
    )
