"""Checkpoints of other frameworks compute here what they compute there."""

import re

import numpy as np
import pytest
import torch
from foreign_forward import Foreign, detectron2, torchvision

from aqd_deploy.detection.textures import textures
from aqd_deploy.errors import UnsupportedModelError
from aqd_deploy.qat.layers import QuantConv2d
from aqd_deploy.qat.sources import load_detector
from tools.foreign_checkpoints import KINDS, Sizes, checkpoint

SIDE = 64
DETECTRON2_MEAN, AQD_MEAN = (103.53, 116.28, 123.675), (104, 116, 124)
FLOATS = [kind for kind in KINDS if not kind.startswith("aqd_")]


def small(backbone="r18"):
    # Group norm has no statistics of one channel a group on a map of one pixel: 32 groups, P7.
    return Sizes(backbone, width=0.25, channels=64, depth=2, classes=3)


def loaded(tmp_path, tensors, **options):
    torch.save({"model": tensors}, tmp_path / "m.pth")
    return load_detector(tmp_path / "m.pth", image_size=(SIDE, SIDE), **options)


def pixels():
    return torch.from_numpy(textures(1, SIDE, SIDE, seed=11)).double()


def expected(kind, tensors, mean, **options):
    """The framework's maps and codes; `pixels` are BGR."""
    net = Foreign(tensors, **options)
    with torch.no_grad():
        if kind.startswith("torchvision"):
            return torchvision(net, pixels().flip(1), kind.endswith("fcos")), net.codes
        image = pixels() - torch.tensor(mean, dtype=torch.float64).reshape(1, 3, 1, 1)
        return detectron2(net, image, kind.endswith("fcos")), net.codes


def ours(detector):
    """The maps of a detector in float64, and the codes of its activation quantizers by path."""
    codes = {}
    for path, module in detector.double().named_modules():
        if isinstance(module, QuantConv2d) and module.activation_quantizer is not None:
            quantizer, found = module.activation_quantizer, codes.setdefault(path, [])
            quantizer.register_forward_pre_hook(
                lambda m, inputs, found=found: found.append(m.integer(inputs[0]).double())
            )
    with torch.no_grad():
        mean = torch.tensor(detector.config.mean, dtype=torch.float64).reshape(1, 3, 1, 1)
        return detector(pixels() - mean), codes


def in_bytes(codes):
    """The codes of every layer, level after level; the layers' names are others here and there."""
    return sorted(
        torch.cat([each.flatten() for each in maps]).to(torch.uint8).numpy().tobytes()
        for maps in codes.values()
    )


def assert_close(found, wanted, tolerance=1e-4):
    assert sorted(found) == sorted(wanted)
    for name, value in wanted.items():
        assert found[name].shape == value.shape, name
        error = float((found[name] - value).abs().max() / value.abs().max().clamp(min=1))
        assert error < tolerance, (name, error)


@pytest.mark.parametrize("backbone", ["r18", "r50"])
@pytest.mark.parametrize("kind", FLOATS)
def test_float_networks(tmp_path, kind, backbone):
    tensors = checkpoint(kind, small(backbone))
    detector, origin = loaded(tmp_path, tensors)
    assert origin.unused == tuple(name for name in sorted(tensors) if name.endswith("num_batches_tracked"))
    wanted, _ = expected(kind, tensors, DETECTRON2_MEAN, stride_in_1x1="torchvision" not in kind)
    found, _ = ours(detector)
    assert all(float(value.std()) > 1e-3 for name, value in wanted.items() if name.endswith("p3"))
    assert_close(found, wanted)


@pytest.mark.parametrize("backbone", ["r18", "r50"])
@pytest.mark.parametrize("kind", ["aqd_retinanet", "aqd_fcos"])
def test_the_authors_float_networks(tmp_path, kind, backbone):
    tensors = checkpoint(kind, small(backbone))
    detector, _ = loaded(tmp_path, tensors)
    assert detector.config.bits is None and detector.config.head_norm == "levels"
    assert_close(ours(detector)[0], expected(kind, tensors, AQD_MEAN)[0])


@pytest.mark.parametrize(
    ("kind", "backbone", "levels"),
    [
        ("aqd_retinanet", "r18", (16, 16)),
        ("aqd_retinanet", "r50", (4, 4)),
        ("aqd_fcos", "r18", (4, 256)),
        ("aqd_fcos", "r50", (16, 256)),
    ],
)
def test_quantized_networks_code_for_code(tmp_path, kind, backbone, levels):
    tensors = checkpoint(kind, small(backbone), levels)
    detector, origin = loaded(tmp_path, tensors)
    wanted, wanted_codes = expected(kind, tensors, AQD_MEAN)
    found, codes = ours(detector)
    assert_close(found, wanted)
    assert len(codes) == len(wanted_codes) > 30
    assert any("wt_adaptive is taken as var-mean" in note for note in origin.notes)
    assert in_bytes(codes) == in_bytes(wanted_codes)


@pytest.mark.parametrize(
    ("kind", "count"), [("aqd_retinanet", 616), ("aqd_fcos", 621)]
)  # fmt: skip
def test_the_authors_files_have_these_names(kind, count):
    """The public code, built from the authors' configurations for ResNet-18, saves so many tensors."""
    assert len(checkpoint(kind, Sizes("r18", width=1 / 16, channels=16), (16, 16))) == count


def test_levels_are_what_the_file_says(tmp_path):
    """First and last layers of the authors' RetinaNet-R18 at 4 bits have 16 levels, of FCOS-R18 256."""
    for kind, ends in (("aqd_retinanet", 4), ("aqd_fcos", 8)):
        config = loaded(tmp_path, checkpoint(kind, small(), (16, 2**ends))).detector.config
        assert (config.bits, config.first_last_bits, config.mode) == (4, ends, "aqd")
        assert config.layer_bits == ()
        assert config.p6_from == ("p5" if kind == "aqd_fcos" else "c5")


def test_old_names_of_torchvision(tmp_path):
    """Before 0.13 modules lay one level less deep; those weights run with an epsilon of 0."""
    tensors = checkpoint("torchvision_retinanet", small())
    pattern = r"(inner_blocks\.\d|layer_blocks\.\d)\.0|(_head\.conv\.)(\d+)\.0"
    old = {
        re.sub(pattern, lambda m: m[1] or f"{m[2]}{2 * int(m[3])}", name): value
        for name, value in tensors.items()
    }
    assert len(old) == len(tensors) and old.keys() != tensors.keys()
    detector, origin = loaded(tmp_path, old)
    assert "the epsilon of batch norms is taken as 0" in origin.notes
    assert_close(ours(detector)[0], expected("torchvision_retinanet", old, (), epsilon=0.0)[0])


def test_divided_rgb_pixels(tmp_path):
    """The order of colours and the deviation go into the first convolution."""
    mean, std = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
    (tmp_path / "f.yaml").write_text(
        f"MODEL: {{PIXEL_MEAN: {mean}, PIXEL_STD: {std}}}\nINPUT: {{FORMAT: RGB}}\n"
    )
    tensors = checkpoint("detectron2_retinanet", small())
    tensors["backbone.bottom_up.stem.conv1.weight"] *= 60
    detector, _ = loaded(tmp_path, tensors, recipe=tmp_path / "f.yaml")
    assert detector.config.mean == tuple(mean[::-1])
    image = (pixels().flip(1) - torch.tensor(mean).reshape(1, 3, 1, 1)) / torch.tensor(std).reshape(
        1, 3, 1, 1
    )
    with torch.no_grad():
        assert_close(ours(detector)[0], detectron2(Foreign(tensors), image, False))
    quantized = checkpoint("aqd_retinanet", small(), (16, 16))
    (tmp_path / "f.yaml").write_text("MODEL: {PIXEL_STD: [2.0, 2.0, 2.0]}")
    with pytest.raises(UnsupportedModelError, match=r"first layer is quantized.*PIXEL_STD"):
        loaded(tmp_path, quantized, recipe=tmp_path / "f.yaml")


def test_anchors_are_in_the_order_of_the_channels(tmp_path):
    """Detectron2 has them by size, torchvision by shape, with sizes and halves of sides in whole pixels."""
    sides = loaded(tmp_path, checkpoint("detectron2_retinanet", small())).detector.config.anchor_sides
    root = 2**0.5
    assert np.allclose(sides[0][:3], [(32 * root, 32 / root), (32, 32), (32 / root, 32 * root)])
    assert np.allclose(sides[4][8], (512 * 2 ** (2 / 3) / root, 512 * 2 ** (2 / 3) * root))
    sides = loaded(tmp_path, checkpoint("torchvision_retinanet", small())).detector.config.anchor_sides
    assert sides[0][:4] == ((46, 22), (56, 28), (70, 36), (32, 32))
    assert sides[4][8] == (574, 1148)
