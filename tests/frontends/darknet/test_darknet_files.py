"""What is told of a cfg or weights that cannot be read: the line, or the byte."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from darknet_files import NET, REGION, YOLOV3_TINY, DarknetNetwork, conv, yolo

from aqd_deploy.errors import AqdError, CheckpointError, ModelFileError, UnsupportedModelError
from aqd_deploy.frontends.darknet.export import darknet_model, read_names

HEAD = conv(16, 1, norm=False, activation="linear") + yolo("0,1")
SMALL = NET.format(side=32) + conv(4, stride=2) + HEAD
AS_REGION = SMALL.replace(yolo("0,1"), REGION)


@pytest.fixture
def files(tmp_path):
    """Write a network that can be read, with another text of its cfg."""

    def write(text=SMALL, **weights):
        cfg, data = DarknetNetwork(SMALL).write(tmp_path, **weights)
        cfg.write_text(text)
        return cfg, data

    return write


def test_the_network_itself_is_fine(files):
    model = darknet_model(*files())
    assert [value.name for value in model.graph.output] == ["map_0"]


MISTAKES = [
    (SMALL.replace("[yolo]", "[lstm]"), UnsupportedModelError, r"^\[lstm\] at line 21 of .*n.cfg is a layer"),
    (SMALL.replace("[yolo]", "[detection]"), UnsupportedModelError, r"^\[detection\] at line 21.*not supp"),
    (SMALL.replace("leaky", "selu"), UnsupportedModelError, "line 8 of .* got selu; valid: linear"),
    (SMALL.replace("stride=2", "stride=two"), ModelFileError, r"key stride of \[convolutional\] at line 12"),
    (SMALL.replace("filters=4", "filters=0"), ModelFileError, "line 10 .*; got 0; valid: a whole number"),
    (SMALL.replace("filters=4", "filters=1.5"), ModelFileError, "line 10 .* is not valid; got 1.5"),
    (SMALL.replace("pad=1", "binary=1"), UnsupportedModelError, r"key binary of \[conv.*\] at line 13"),
    (SMALL.replace("anchors", "anchor"), UnsupportedModelError, r"the key anchor of \[yolo\] at line 23"),
    (
        "\n".join(line for line in SMALL.splitlines() if "anchors" not in line), ModelFileError,
        r"\[yolo\] at line 21 of .*n.cfg has no anchors",
    ),
    (SMALL.replace("4,6, ", ""), ModelFileError, "anchors than num says; got 6; valid: 8"),
    (SMALL.replace("classes=3", "classes=4"), ModelFileError, "got filters=16; valid: 18"),
    (SMALL.replace("0,1", "0,9"), ModelFileError, "the key mask .*; valid: whole numbers from 0 to 3"),
    (SMALL.replace("channels=3", "channels=1"), UnsupportedModelError, "three colours; got channels=1"),
    (SMALL.replace("height=32\n", ""), ModelFileError, r"\[net\] at line 1 of .* has no height"),
    (SMALL.replace("[net]", "[convolutional]"), ModelFileError, r"does not begin with \[net\]; got \[convo"),
    ("", ModelFileError, r"does not begin with \[net\]; got no section"),
    (SMALL + "what\n", ModelFileError, "line 30 of .* is neither a section nor a key of one; got what"),
    (SMALL[: SMALL.index("[yolo]")], UnsupportedModelError, "has no head that says where boxes are"),
    (SMALL.replace("32", "33"), ModelFileError, r"no whole number of cells .*; got 33 x 33 for 17 x 17"),
    (
        SMALL.replace("[yolo]", "[route]\nlayers=5\n[yolo]"), ModelFileError,
        "line 21 .* reads a layer that is not in front of it; got layers=5; valid: 0 to 1, or -2 to -1",
    ),
    (
        SMALL.replace("[yolo]", "[route]\nlayers=-1\ngroups=3\n[yolo]"), ModelFileError,
        "groups that do not divide a layer's channels; got 3; valid: a divisor of 16",
    ),
    (
        SMALL.replace("[yolo]", "[shortcut]\nfrom=-2\n[yolo]"), UnsupportedModelError,
        r"adds a map of another shape; got \[4, 16, 16\]; valid: \[16, 16, 16\]",
    ),
    (SMALL.replace("[yolo]", "[reorg]\nstride=3\n[yolo]"), ModelFileError, "stride that does not divide"),
    (SMALL.replace("[yolo]", "[reorg]\nreverse=1\n[yolo]"), UnsupportedModelError, "reverse that is not"),
    (
        SMALL.replace("[yolo]", "[upsample]\nscale=2\n[yolo]"), UnsupportedModelError,
        "scale that is not supported; got 2; valid: scale=1",
    ),
    (
        SMALL.replace("[yolo]", "[maxpool]\nsize=20\nstride=1\npadding=0\n[yolo]"), ModelFileError,
        "a window that is larger than its map; got size=20; valid: up to 16",
    ),
    (AS_REGION.replace("softmax=1\n", ""), UnsupportedModelError, "softmax that is not supported; got 0"),
    (AS_REGION + "tree=9k.tree", UnsupportedModelError, r"key tree of \[region\] at line 32 of"),
    (SMALL.replace("num=4", "num=4\nnew_coords=1"), UnsupportedModelError, "new_coords that is not supp"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "kind", "words"), MISTAKES, ids=range(len(MISTAKES)))
def test_mistakes_in_a_cfg(files, text, kind, words):
    with pytest.raises(kind, match=words):
        darknet_model(*files(text))


def test_weights_that_end_too_early(files):
    cfg, weights = files(cut=6)
    with pytest.raises(CheckpointError) as caught:
        darknet_model(cfg, weights)
    size = weights.stat().st_size
    said, end = str(caught.value), size + 6
    assert f"ends in the weights of [convolutional] at line 15 of {cfg}; got {size} bytes" in said
    assert f"{end} bytes or more: the cfg asks for 64 numbers at byte {end - 256}" in said


def test_weights_that_go_on(files):
    cfg, weights = files(more=bytes(8))
    end = weights.stat().st_size - 8
    with pytest.raises(CheckpointError, match=f"has 8 bytes behind the last layer of the cfg, at byte {end}"):
        darknet_model(cfg, weights)


@pytest.mark.parametrize("data", [b"", b"PK", bytes(15)])
def test_weights_without_a_header(files, data):
    cfg, weights = files()
    weights.write_bytes(data)
    with pytest.raises(CheckpointError, match=f"ends in its header; got {len(data)} bytes"):
        darknet_model(cfg, weights)


@pytest.mark.parametrize("header", [(-1, 2, 0), (0, 1000, 0), struct.unpack("<3i", b"PK\3\4torch.bi")])
def test_weights_with_another_header(files, header):
    cfg, weights = files()
    weights.write_bytes(struct.pack("<3i", *header) + weights.read_bytes()[12:])
    with pytest.raises(CheckpointError, match="another header than Darknet writes at byte 0"):
        darknet_model(cfg, weights)


def test_weights_that_are_no_numbers(files):
    cfg, weights = files()
    data = bytearray(weights.read_bytes())
    data[20:24] = np.float32(np.nan).tobytes()
    weights.write_bytes(data)
    with pytest.raises(
        CheckpointError, match=r"not finite at byte 20, in weights of \[convolutional\] at line 8"
    ):
        darknet_model(cfg, weights)


def test_a_variance_below_zero(files):
    cfg, weights = files()
    data = bytearray(weights.read_bytes())
    # Biases, scales and means of four channels lie in front.
    data[20 + 48 : 20 + 52] = np.float32(-1).tobytes()
    weights.write_bytes(data)
    with pytest.raises(ModelFileError, match=r"a variance below 0 .*; got -1\.0 of channel 0"):
        darknet_model(cfg, weights)


def test_another_size_and_names(files, tmp_path):
    (tmp_path / "n.names").write_text("cat\n\ndog\nbird\n")
    names = read_names(tmp_path / "n.names")
    model = darknet_model(*files(), names, (64, 96))
    assert names == ["cat", "dog", "bird"]
    assert [d.dim_value for d in model.graph.output[0].type.tensor_type.shape.dim] == [1, 16, 32, 48]
    with pytest.raises(ModelFileError, match="another number of classes than the cfg; got 2; valid: 3 lines"):
        darknet_model(*files(), names[:2])


def test_comments_spaces_and_keys_that_stand_twice(files):
    text = SMALL.replace("stride=2\n", "stride = 2  # every second\n; no stride\nstride=1\n")
    model = darknet_model(*files(text))
    assert [d.dim_value for d in model.graph.output[0].type.tensor_type.shape.dim] == [1, 16, 16, 16]


def test_no_damaged_file_gives_another_error(files):
    """Bytes that are lost, doubled or changed: one of our errors, or another network."""
    generator = np.random.default_rng(0)
    text = YOLOV3_TINY.encode()
    cfg, weights = DarknetNetwork(YOLOV3_TINY).write(files()[0].parent)
    for _ in range(60):
        damaged = bytearray(text)
        at = int(generator.integers(len(damaged)))
        damaged[at : at + int(generator.integers(1, 4))] = generator.bytes(int(generator.integers(0, 3)))
        cfg.write_bytes(damaged)
        try:
            darknet_model(cfg, weights)
        except AqdError as error:
            assert "\n" not in str(error)
