"""Detectors: maps and their shapes, shared heads, and the way from the float to the quantized network."""

import json

import pytest
import torch

from aqd_deploy.errors import ScaleError, ShapeError, UnsupportedModelError
from aqd_deploy.qat.config import ModelConfig, architectures, parse_architecture
from aqd_deploy.qat.layers import QuantConv2d, set_fixed_point
from aqd_deploy.qat.models import build_model, calibrate, quantized_from_float
from aqd_deploy.qat.quantizers import ActivationQuantizer

TINY = {
    "width": 0.125,
    "fpn_channels": 8,
    "head_depth": 1,
    "classes": 3,
    "image_height": 64,
    "image_width": 96,
}


def _tiny(name: str = "fcos_r18", **changes):
    torch.manual_seed(0)
    return build_model(parse_architecture(name, **{**TINY, **changes})).eval()


def _images(count: int = 2) -> torch.Tensor:
    pixels = torch.randint(0, 256, (count, 3, 64, 96), generator=torch.Generator().manual_seed(1))
    return pixels.to(torch.float32) - torch.tensor([104.0, 116.0, 124.0]).reshape(1, 3, 1, 1)


def test_architectures_are_listed_with_retinanet_first():
    sizes = (18, 34, 50)
    pyramids = [f"{name}_r{size}" for name in ("retinanet", "fcos") for size in sizes]
    assert architectures() == (*pyramids, "yolov2_tiny", "yolov2")


@pytest.mark.parametrize("name", architectures()[:-2])
def test_every_architecture_gives_its_maps(name):
    model = _tiny(name, bits=3)
    with torch.no_grad():
        outputs = model(_images(1))
    anchors = 9 if name.startswith("retinanet") else 1
    sizes = {"p3": (8, 12), "p4": (4, 6), "p5": (2, 3), "p6": (1, 2), "p7": (1, 1)}
    expected = {f"cls_{level}": (1, anchors * 3, *size) for level, size in sizes.items()}
    expected |= {f"box_{level}": (1, anchors * 4, *size) for level, size in sizes.items()}
    if anchors == 1:
        expected |= {f"ctr_{level}": (1, 1, *size) for level, size in sizes.items()}
    assert {key: tuple(value.shape) for key, value in outputs.items()} == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"p6_from": "c4"}, "source of P6.*c5, p5"),
        ({"pyramid": "bn"}, "form of the pyramid.*bn-relu, bias"),
        ({"head_norm": "batch"}, "norm of the head.*levels, shared, group, none"),
        ({"head_norm": "none"}, "a norm and ReLU behind every convolution"),
        ({"pyramid": "bias"}, "a norm and ReLU behind every convolution"),
        ({"mean": (103.53, 116.28, 123.675)}, "whole numbers"),
        ({"head_norm": "group", "bits": None}, "32 groups.*8 channels"),
        ({"anchor_sides": (((8.0, 8.0),),) * 4}, "anchors for every level.*5 levels"),
        ({"layer_bits": (("fpn.p8.conv", 4, 4),)}, r"no convolution.*fpn\.p8"),
    ],
)
def test_forms_that_no_network_has(changes, message):
    with pytest.raises(UnsupportedModelError, match=message):
        _tiny(**{"bits": 4, **changes})


def test_descriptions_without_a_norm_of_the_head_mean_one_a_level():
    """Those that were written before there was a choice."""
    told = json.loads(parse_architecture("fcos_r18", **TINY).to_json())
    del told["head_norm"]
    assert ModelConfig.from_json(json.dumps(told)).head_norm == "levels"


@pytest.mark.parametrize(("head_norm", "norms"), [("levels", 5), ("shared", 1), ("group", 0)])
def test_norms_of_a_quantized_head(head_norm, norms):
    """Every one is trained from the float network of the same norm."""
    changes = {"head_norm": head_norm, "fpn_channels": 32}
    start = _tiny(bits=None, **changes)
    config = parse_architecture("fcos_r18", bits=2, **{**TINY, **changes})
    model = quantized_from_float(start, config, [_images()])
    statistics = [name for name in model.head.cls_tower.state_dict() if name.endswith("running_mean")]
    assert len(statistics) == norms
    outputs = model(_images())
    sum(value.sum() for value in outputs.values()).backward()
    missing = [name for name, value in model.named_parameters() if value.grad is None]
    assert not missing and all(bool(torch.isfinite(value).all()) for value in outputs.values())


@pytest.mark.parametrize("p6_from", ["c5", "p5"])
def test_p6_is_made_from(p6_from):
    """P5 has gone through `output[2]` before P6 is made."""
    model = _tiny(p6_from=p6_from)
    heard = []
    model.fpn.p6.register_forward_pre_hook(lambda _, inputs: heard.append(inputs[0].value))
    model.fpn.output[2].register_forward_hook(lambda *outputs: heard.append(outputs[-1].value))
    with torch.no_grad():
        model(_images(1))
    assert torch.equal(*heard) if p6_from == "p5" else heard[1].shape[1] == model.backbone.channels[-1]


@pytest.mark.parametrize(
    "name, parameters",
    [("retinanet_r18", 20_000_000), ("retinanet_r34", 30_000_000), ("retinanet_r50", 36_000_000)],
)
def test_full_width_networks_have_their_known_size(name, parameters):
    """RetinaNet-R18/34/50 for 80 classes: within a tenth of the published sizes."""
    with torch.device("meta"):
        model = build_model(parse_architecture(name))
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(parameters, rel=0.1)


def _bits(model) -> dict[str, tuple]:
    return {
        name: (
            module.weight_quantizer and module.weight_quantizer.bits,
            module.activation_quantizer and module.activation_quantizer.bits,
        )
        for name, module in model.named_modules()
        if isinstance(module, QuantConv2d)
    }


def test_first_and_last_layers_have_eight_bits():
    bits = _bits(_tiny(bits=2))
    last = {"head.cls_score", "head.bbox_pred", "head.centerness"}
    assert bits.pop("backbone.stem.conv") == (8, None)
    assert {bits.pop(name) for name in last} == {(8, 8)}
    assert set(bits.values()) == {(2, 2)}


def test_aqd_star_leaves_first_and_last_layers_in_float():
    bits = _bits(_tiny(bits=2, mode="aqd*"))
    assert bits["backbone.stem.conv"] == bits["head.cls_score"] == (None, None)
    assert bits["backbone.layer1.0.conv1.conv"] == (2, 2)


def test_every_convolution_owns_its_activation_quantizer():
    model = _tiny(bits=4)
    quantizers = [m.activation_quantizer for m in model.modules() if isinstance(m, QuantConv2d)]
    present = [id(q) for q in quantizers if q is not None]
    assert len(set(present)) == len(present)


def test_inputs_of_inner_convolutions_are_never_negative():
    """What makes the unsigned quantizer right: each follows a ReLU."""
    model = _tiny("retinanet_r50", bits=4)
    lowest = []
    for name, module in model.named_modules():
        if isinstance(module, QuantConv2d) and name != "backbone.stem.conv":
            module.activation_quantizer.register_forward_pre_hook(
                lambda _, x: lowest.append(float(x[0].min()))
            )
    with torch.no_grad():
        model(_images(1))
    assert lowest and min(lowest) >= 0


def test_quantized_network_starts_from_the_float_one():
    """At 8 bits the outputs follow the float ones, as closely as a deep random network lets them; weights are
    taken over unchanged."""
    model = _tiny()
    with torch.no_grad():
        model.train()
        for _ in range(20):
            model(_images(4))
        model.eval()
    quantized = quantized_from_float(model, model.config.replace(bits=8), [_images(4)]).eval()
    assert torch.equal(quantized.backbone.stem.conv.weight, model.backbone.stem.conv.weight)
    with torch.no_grad():
        expected, got = model(_images()), quantized(_images())
    for key in ("cls_p3", "ctr_p3"):
        pair = torch.stack([expected[key].flatten(), got[key].flatten()])
        assert float(torch.corrcoef(pair)[0, 1]) > 0.95
    with pytest.raises(ValueError, match="not the one"):
        quantized_from_float(model, parse_architecture("retinanet_r18", bits=4, **TINY), [_images()])


def test_calibration_sets_every_quantizer_and_keeps_the_mode():
    model = _tiny(bits=4).train()
    calibrate(model, [_images()])
    assert model.training
    values = [float(p.detach()) for name, p in model.named_parameters() if name.endswith(".nu")]
    assert sum(value != 1.0 for value in values) == len(values)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_calibration_on_numbers_that_are_not_finite_is_refused(value):
    """ν would silently stay at 1."""
    model, images = _tiny(bits=4), _images()
    images[0, 0, 5, 5] = value
    with pytest.raises(
        ScaleError, match=r"in front of backbone\.layer1\.0\.conv1\.conv\.activation_quantizer"
    ):
        calibrate(model, [images])
    quantizers = [m for m in model.modules() if isinstance(m, ActivationQuantizer)]
    assert not any(quantizer.observing for quantizer in quantizers)
    calibrate(model, [_images()])
    with torch.no_grad():
        model.fpn.p6.conv.weight[0] = value
    with pytest.raises(ScaleError, match=r"in front of fpn\.p7\.conv\.activation_quantizer"):
        calibrate(model, [_images()])


def test_fixed_point_simulation_of_a_network_is_a_small_change():
    """At 8 bits the simulated roundings leave the maps almost as they are."""
    model = _tiny()
    with torch.no_grad():
        model.train()
        for _ in range(20):
            model(_images(4))
        model.eval()
    quantized = quantized_from_float(model, model.config.replace(bits=8), [_images(4)]).eval()
    with torch.no_grad():
        plain = quantized(_images())["cls_p3"]
        set_fixed_point(quantized, True)
        simulated = quantized(_images())["cls_p3"]
    assert not torch.equal(plain, simulated)
    assert float(torch.corrcoef(torch.stack([plain.flatten(), simulated.flatten()]))[0, 1]) > 0.95


def test_fcos_boxes_are_not_negative_and_scales_positive():
    model = _tiny()
    with torch.no_grad():
        for scale in model.head.scales:
            scale.log_scale.fill_(-3.0)
        outputs = model(_images())
    assert all(float(outputs[f"box_p{k}"].min()) >= 0 for k in range(3, 8))
    assert all(float(scale.value().detach()) > 0 for scale in model.head.scales)


@pytest.mark.parametrize("shape", [(1, 3, 64, 70), (3, 64, 64), (1, 1, 64, 64)])
def test_impossible_inputs_are_refused(shape):
    with pytest.raises(ShapeError, match="multiples of 32"):
        _tiny()(torch.zeros(shape))


def test_config_round_trip():
    config = parse_architecture("retinanet_r34", bits=2, classes=2, class_names=("a", "b"), width=0.5)
    assert ModelConfig.from_json(config.to_json()) == config
    assert config.label == "retinanet_r34_2bit"


@pytest.mark.parametrize("name", ["retinanet_r101", "yolo", "fcos", "fcos_r18x"])
def test_unknown_architectures_are_refused_with_the_known_ones(name):
    with pytest.raises(UnsupportedModelError, match="fcos_r18"):
        parse_architecture(name)


@pytest.mark.parametrize(
    "changes, error",
    [
        ({"detector": "ssd"}, UnsupportedModelError),
        ({"backbone": "resnet101"}, UnsupportedModelError),
        ({"mode": "aqd+"}, UnsupportedModelError),
        ({"image_height": 100}, ShapeError),
        ({"bits": 9}, UnsupportedModelError),
        ({"class_names": ("a",)}, UnsupportedModelError),
        ({"category_ids": (1,)}, UnsupportedModelError),
        ({"classes": 2, "category_ids": (1, 1)}, UnsupportedModelError),
    ],
)
def test_impossible_configurations_are_refused(changes, error):
    with pytest.raises(error):
        ModelConfig(**changes)
