"""The files that checkpoints from elsewhere come in, and what their names and configurations tell."""

import json
import os
import pickle
import re

import numpy as np
import pytest
import torch

from aqd_deploy.errors import AqdError, CheckpointError, ScaleError, UnsupportedModelError
from aqd_deploy.qat.checkpoint import load_checkpoint, save_checkpoint
from aqd_deploy.qat.detectors import detection_loss
from aqd_deploy.qat.layers import QuantConv2d
from aqd_deploy.qat.models import quantized_from_float
from aqd_deploy.qat.run_state import TrainSettings
from aqd_deploy.qat.sources import load_detector
from aqd_deploy.qat.sources.start import aqd_start
from aqd_deploy.qat.train import make_optimizer, train_step
from tools.foreign_checkpoints import KINDS, Sizes, checkpoint

SMALL = Sizes("r18", width=0.125, channels=32, depth=1, classes=3)
STEM = "backbone.bottom_up.stem.conv1"
FCOS_HEAD = "proposal_generator.fcos_head."


def loaded(tmp_path, content, recipe=None):
    torch.save(content, tmp_path / "m.pth")
    return load_detector(tmp_path / "m.pth", recipe, (64, 64))


def states_equal(first, second):
    one, other = first.state_dict(), second.state_dict()
    return list(one) == list(other) and all(torch.equal(one[key], other[key]) for key in one)


def half(tensors):
    return {name: value.half() if value.is_floating_point() else value for name, value in tensors.items()}


@pytest.fixture(scope="module")
def floats():
    return checkpoint("detectron2_retinanet", SMALL)


@pytest.fixture
def aqd():
    return checkpoint("aqd_fcos", SMALL, (4, 256))


def test_wrappers_are_taken_off(tmp_path, floats):
    plain = loaded(tmp_path, floats)
    prefixed = {f"module.{name}": value for name, value in floats.items()}
    for content in (
        {"model": floats, "iteration": 3, "optimizer": {"state": {}}},
        {"state_dict": prefixed},
        prefixed,
        {"model": {**floats, "anchor_generator.cell_anchors.0": torch.zeros(9, 4)}},
    ):
        again = loaded(tmp_path, content)
        assert states_equal(plain.detector, again.detector)
        assert again.origin.used == plain.origin.used
    assert "anchor_generator.cell_anchors.0" in again.origin.unused


def test_averaged_weights_are_preferred_and_said(tmp_path, floats):
    averaged = {f"module.{name}": value * 0.5 for name, value in floats.items()}
    content = {"model": floats, "model_ema": {**averaged, "n_averaged": torch.tensor(3)}}
    detector, origin = loaded(tmp_path, content)
    assert origin.notes[0] == "the averaged weights are taken, under model_ema"
    assert torch.equal(detector.head.bbox_pred.weight, floats["head.bbox_pred.weight"] * 0.5)
    with pytest.raises(CheckpointError, match=r"several networks.*first, second"):
        loaded(tmp_path, {"first": floats, "second": floats})


def test_half_precision(tmp_path, floats):
    detector, _ = loaded(tmp_path, half(floats))
    weight = detector.head.bbox_pred.weight
    assert weight.dtype == torch.float32
    assert torch.equal(weight, floats["head.bbox_pred.weight"].half().float())


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_pickles_of_arrays(tmp_path, floats, protocol):
    arrays = {name: value.numpy() for name, value in floats.items()}
    head = "head.cls_score.weight"
    arrays[head] = np.asfortranarray(arrays[head].astype(">f4"))
    arrays["trained"] = np.float64(0.5)
    content = {"model": arrays, "__author__": "somebody", "matching_heuristics": True}
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(content, protocol))
    if protocol == 0:
        with pytest.raises(CheckpointError, match="not a torch checkpoint"):
            load_detector(tmp_path / "m.pkl")
        return
    detector, _ = load_detector(tmp_path / "m.pkl", image_size=(64, 64))
    assert states_equal(detector, loaded(tmp_path, floats).detector)


class _Payload:
    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def test_pickles_of_code_are_not_run(tmp_path):
    marker = tmp_path / "made"
    (tmp_path / "m.pkl").write_bytes(pickle.dumps({"model": _Payload(str(marker))}))
    with pytest.raises(CheckpointError, match=r"pickled code.*posix\.mkdir"):
        load_detector(tmp_path / "m.pkl")
    assert not marker.exists()


@pytest.mark.parametrize(
    "array",
    [np.array([print]), np.array(["text"]), np.zeros(3, np.complex64)],
    ids=["objects", "texts", "complex"],
)
def test_pickles_of_other_arrays(tmp_path, array):
    (tmp_path / "m.pkl").write_bytes(pickle.dumps({"model": {"weight": array}}))
    with pytest.raises(CheckpointError, match=r"pickled code|truncated or damaged"):
        load_detector(tmp_path / "m.pkl")


def test_truncated_pickles(tmp_path, floats):
    content = pickle.dumps({name: value.numpy() for name, value in floats.items()})
    for kept in (2, 100, len(content) // 2, len(content) - 1):
        (tmp_path / "m.pkl").write_bytes(content[:kept])
        with pytest.raises(CheckpointError, match="truncated or damaged"):
            load_detector(tmp_path / "m.pkl")


def safetensors(tensors):
    """The format's bytes, written here."""
    names = {torch.float32: "F32", torch.float16: "F16", torch.int64: "I64"}
    header, body = {"__metadata__": {"format": "pt"}}, b""
    for name, value in tensors.items():
        data = value.contiguous().numpy().tobytes()
        header[name] = {
            "dtype": names[value.dtype], "shape": list(value.shape),
            "data_offsets": [len(body), len(body) + len(data)],
        }  # fmt: skip
        body += data
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def test_safetensors(tmp_path, floats):
    path = tmp_path / "m.safetensors"
    path.write_bytes(safetensors(floats))
    detector, _ = load_detector(path, image_size=(64, 64))
    assert states_equal(detector, loaded(tmp_path, floats).detector)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        load_detector(path)
    whole = safetensors({"a": torch.zeros(2)})
    path.write_bytes(whole.replace(b'"shape": [2]', b'"shape": [9]'))
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        load_detector(path)


def test_layers_that_are_not_quantized_are_named(tmp_path, aqd):
    """AQD*: first and last layers stay float. A quantizer that has not counted its first steps is off."""
    ends = [STEM, *(f"{FCOS_HEAD}{end}" for end in ("cls_logits", "bbox_pred", "ctrness"))]
    for end in ends:
        for kind in ("quant_weight", "quant_activation"):
            aqd[f"{end}.{kind}.iteration"] = torch.zeros(1)
    detector, origin = loaded(tmp_path, aqd)
    assert (detector.config.mode, detector.config.bits, detector.config.layer_bits) == ("aqd*", 2, ())
    assert any(note == f"not quantized: {', '.join(ends)}" for note in origin.notes)


def test_layers_with_bits_of_their_own(tmp_path, aqd):
    name = "backbone.bottom_up.res3.0.conv1"
    aqd[f"{name}.quant_weight.level_num"] = torch.tensor([16.0])
    aqd["backbone.fpn_lateral3.quant_activation.iteration"] = torch.zeros(1)
    detector, _ = loaded(tmp_path, aqd)
    assert detector.config.layer_bits == (
        ("backbone.layer2.0.conv1.conv", 4, 2), ("fpn.lateral.0.conv", 2, None),
    )  # fmt: skip
    conv = detector.backbone.layer2[0].conv1.conv
    assert (conv.weight_quantizer.bits, conv.activation_quantizer.bits) == (4, 2)
    assert conv.weight_quantizer.standardize
    assert float(conv.weight_quantizer.nu.detach()) == float(aqd[f"{name}.quant_weight.clip_val"])
    save_checkpoint(tmp_path / "own.pt", detector)
    assert states_equal(load_checkpoint(tmp_path / "own.pt"), detector)


YAML = """
_BASE_: "{base}"
MODEL:
  PIXEL_MEAN: [104.0, 116.0, 124.0]
  QUANTIZATION:
    wt_adaptive: "none"
    policy: 'configs/policy.txt'
SOLVER:
  STEPS: (60000, 80000)
"""
BASE = """
MODEL:
  PIXEL_MEAN: [1.0, 2.0, 3.0]
  RESNETS:
    STRIDE_IN_1X1: True
  ANCHOR_GENERATOR:
    SIZES: !!python/object/apply:os.mkdir ["made"]
    OFFSET: 0.5
INPUT:
  FORMAT: "BGR"
"""


def test_a_training_configuration(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.yaml").write_text(BASE)
    (tmp_path / "f.yaml").write_text(YAML.format(base="base.yaml"))
    tensors = checkpoint("aqd_retinanet", Sizes("r50", 0.125, 16, 1, 3), (16, 16))
    detector, origin = loaded(tmp_path, tensors, tmp_path / "f.yaml")
    config = detector.config
    assert config.mean == (104, 116, 124) and all(isinstance(each, int) for each in config.mean)
    assert config.stride_in_1x1 and config.cell_offset == 0.5 and not config.weight_standardization
    assert not (tmp_path / "made").exists()
    assert not any("is taken as" in note for note in origin.notes if "first and last" not in note)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("MODEL: [", "not YAML"),
        ("- 3", "not a table"),
        ("MODEL:\n  PIXEL_MEAN: [1, 2]", r"PIXEL_MEAN.*3 values"),
        ("MODEL:\n  FPN:\n    FUSE_TYPE: avg", r"FUSE_TYPE.*'avg'.*'sum'"),
        ("MODEL:\n  QUANTIZATION:\n    fm_half_range: False", "fm_half_range"),
        ("MODEL:\n  ANCHOR_GENERATOR:\n    SIZES: [[32, 64]]", "6 anchors.*ANCHOR_GENERATOR"),
        ("_BASE_: f.yaml", "inherits without an end"),
        ("_BASE_: none.yaml", "no such training configuration"),
        ("_BASE_: 3", "_BASE_"),
    ],
)
def test_configurations_that_are_refused(tmp_path, floats, text, message):
    (tmp_path / "f.yaml").write_text(text)
    message = message.replace("6 anchors", "9 anchors")
    with pytest.raises(CheckpointError, match=message):
        loaded(tmp_path, floats, tmp_path / "f.yaml")


def without(tensors, pattern):
    return {name: value for name, value in tensors.items() if not re.search(pattern, name)}


def changed(tensors, name, value):
    assert name in tensors or name.startswith("+")
    return {**tensors, name.removeprefix("+"): value}


TOWER = f"{FCOS_HEAD}cls_tower.1."
REFUSED = {
    "another detector": (
        lambda t: {"model.0.conv.weight": torch.zeros(2, 2)}, r"no.*description.*RetinaNet or FCOS"),
    "a level": (lambda t: without(t, re.escape(f"{TOWER}4.")), r"a level.*missing.*no .*cls_tower\.1\.4"),
    "a norm's tensor": (lambda t: without(t, re.escape(f"{TOWER}2.bias")), r"missing.*cls_tower\.1\.2\.bias"),
    "level_num": (
        lambda t: changed(t, "backbone.fpn_output3.quant_weight.level_num", torch.tensor([6.0])),
        r"fpn_output3\.quant_weight.*level_num 6.*power of two from 4 to 256"),
    "16 bits": (
        lambda t: changed(t, f"{STEM}.quant_weight.level_num", torch.tensor([65536.0])), "level_num 65536"),
    "group norm": (
        lambda t: {**without(t, r"_tower\.1\."), **{
            f"{FCOS_HEAD}{tower}.1.{key}": torch.ones(32)
            for tower in ("cls_tower", "bbox_tower") for key in ("weight", "bias")}},
        "GroupNorm recomputes its statistics.*cannot be quantized"),
    "one norm for all levels": (
        lambda t: changed(t, f"+{TOWER}running_mean", torch.ones(32)),
        "one batch norm for all levels|more layers"),
    "more layers": (
        lambda t: changed(t, f"+{FCOS_HEAD}share_tower.0.weight", torch.zeros(32, 32, 3, 3)),
        r"more layers.*share_tower"),
    "a clip value a channel": (
        lambda t: changed(t, "backbone.fpn_output3.quant_weight.clip_val", torch.ones(32, 1, 1, 1)),
        "clip value a channel.*wt_quant_group"),
    "another backbone": (lambda t: without(t, r"res4\.1\."), "backbone.*2, 2, 1, 2.*resnet18"),
    "NaN": (lambda t: changed(t, f"{STEM}.weight", torch.full((8, 3, 7, 7), torch.nan)), "NaN"),
    "a clip value of 0": (
        lambda t: changed(t, "backbone.fpn_output3.quant_weight.clip_val", torch.zeros(1, 1, 1, 1)), "step"),
    "a scale below 0": (
        lambda t: changed(t, f"{FCOS_HEAD}scales.2.scale", torch.tensor([-1.0])), r"scales\.2.*not positive"),
    "another shape": (
        lambda t: changed(t, f"{FCOS_HEAD}ctrness.weight", torch.zeros(2, 32, 3, 3)),
        r"ctrness.*another shape"),
    "only ends": (
        lambda t: {
            n: torch.zeros(1) if n.endswith("iteration") and STEM not in n else v for n, v in t.items()},
        "no inner layer"),
    "a mean that is not whole": (
        lambda t: {**t, "pixel_mean": torch.tensor([103.53, 116.28, 123.675]), "pixel_std": torch.ones(3)},
        "whole numbers"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_checkpoints_that_are_refused(tmp_path, aqd, case):
    change, message = REFUSED[case]
    with pytest.raises((CheckpointError, UnsupportedModelError, ScaleError), match=message):
        loaded(tmp_path, change(aqd))


def test_a_configuration_where_there_is_none(tmp_path, floats):
    (tmp_path / "f.yaml").write_text("MODEL: {}")
    with pytest.raises(CheckpointError, match="without --config"):
        loaded(tmp_path, checkpoint("torchvision_fcos", SMALL), tmp_path / "f.yaml")
    save_checkpoint(tmp_path / "own.pt", loaded(tmp_path, floats).detector)
    with pytest.raises(AqdError, match="without --config"):
        load_detector(tmp_path / "own.pt", tmp_path / "f.yaml")


def test_imported_float_networks_are_checkpoints(tmp_path, floats):
    for tensors in (floats, checkpoint("adelaidet_fcos", SMALL)):
        detector, _ = loaded(tmp_path, tensors)
        save_checkpoint(tmp_path / "own.pt", detector)
        again = load_checkpoint(tmp_path / "own.pt")
        assert again.config == detector.config and states_equal(again, detector)


QUICK = ("aqd_retinanet", "adelaidet_fcos", "torchvision_retinanet")


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind in QUICK else pytest.mark.matrix) for kind in KINDS]
)
def test_training_goes_on_from_each(tmp_path, kind):
    """A step of the float network that starts from it, then one of the quantized network of that."""
    detector, _ = loaded(tmp_path, checkpoint(kind, SMALL))
    start, lost = aqd_start(detector)
    assert bool(lost) != kind.startswith("aqd_")
    assert torch.equal(start.head.bbox_pred.weight, detector.head.bbox_pred.weight)
    images = torch.randint(0, 256, (2, 3, 64, 64), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    boxes, labels = torch.tensor([[[8.0, 8, 40, 40]]] * 2), torch.tensor([[1]] * 2)
    settings = TrainSettings(iterations=2, learning_rate=1e-4)
    for model in (start, quantized_from_float(start, start.config.replace(bits=4), [images.float() - 110])):
        model.train()
        losses = train_step(model, make_optimizer(model, settings), images, boxes, labels, 10.0)
        assert set(losses) == set(detection_loss(start.config, model(images.float() - 110), boxes, labels))
        assert all(np.isfinite(value) for value in losses.values())


def test_quantized_networks_are_trained_on_as_they_are(tmp_path, aqd):
    detector, _ = loaded(tmp_path, aqd)
    with pytest.raises(UnsupportedModelError, match="trained on as it is"):
        aqd_start(detector)
    images = torch.randint(0, 256, (2, 3, 64, 64), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    before = detector.backbone.layer1[0].conv1.conv.weight.detach().clone()
    detector.train()
    optimizer = make_optimizer(detector, TrainSettings(iterations=2, learning_rate=1e-3))
    train_step(
        detector, optimizer, images, torch.tensor([[[8.0, 8, 40, 40]]] * 2), torch.tensor([[1]] * 2), 10.0
    )
    assert not torch.equal(before, detector.backbone.layer1[0].conv1.conv.weight)


def test_a_rounded_mean_changes_only_the_border(tmp_path, floats):
    detector, _ = loaded(tmp_path, floats)
    start, lost = aqd_start(detector)
    assert any("is rounded" in note for note in lost)
    pixels = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 255
    with torch.no_grad():
        stems = [
            model.eval().backbone.stem.bn(
                model.backbone.stem.conv(pixels - torch.tensor(model.config.mean).reshape(1, 3, 1, 1))
            )
            for model in (detector, start)
        ]
    inside = [stem[:, :, 2:-2, 2:-2] for stem in stems]
    assert torch.allclose(*inside, atol=1e-4)
    assert not torch.allclose(*stems, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "p6_from"),
    [
        ("aqd_retinanet", "c5"),
        ("aqd_fcos", "p5"),
        ("torchvision_retinanet", "p5"),
        ("torchvision_retinanet_v2", "c5"),
    ],
)
def test_p6_where_p5_and_c5_have_as_many_channels(tmp_path, kind, p6_from):
    sizes = Sizes("r18", width=0.125, channels=64, depth=1, classes=3)
    assert loaded(tmp_path, checkpoint(kind, sizes)).detector.config.p6_from == p6_from


def test_every_convolution_of_a_float_network_is_float(tmp_path, floats):
    detector, _ = loaded(tmp_path, floats)
    assert not any(
        module.weight_quantizer for module in detector.modules() if isinstance(module, QuantConv2d)
    )
