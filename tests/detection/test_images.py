"""Image files, good and bad, and the way from an image to the network's pixels and back."""

from __future__ import annotations

import io
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from aqd_deploy.detection import images
from aqd_deploy.detection.images import Placement, Preprocess, describe_preprocessing, letterbox, load_image
from aqd_deploy.errors import ImageError, ModelFileError

MANIFEST = {
    "preprocessing": {
        "input": "image", "height": 6, "width": 8, "color": "BGR", "resize": "letterbox",
        "pad_value": [104, 116, 124], "mean": [104, 116, 124], "std": [1, 1, 1],
    },
    "detector": {
        "kind": "fcos", "score_threshold": 0.05, "nms_iou": 0.6, "max_detections": 100, "pre_nms": 1000,
    },
}  # fmt: skip


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, size=(7, 5, 3), dtype=np.uint8)


def saved(tmp_path, image, name, **options):
    path = tmp_path / name
    image.save(path, **options)
    return path


def test_rgb_is_untouched(tmp_path, pixels):
    loaded = load_image(saved(tmp_path, Image.fromarray(pixels), "a.png"))
    assert loaded.dtype == np.uint8
    assert np.array_equal(loaded, pixels)
    loaded[0, 0] = 0  # writable


def test_grey_and_palette_and_bilevel(tmp_path, pixels):
    grey = pixels[..., 0]
    assert np.array_equal(
        load_image(saved(tmp_path, Image.fromarray(grey), "g.png")), np.repeat(grey[..., None], 3, 2)
    )
    palette = Image.fromarray(pixels).quantize(256, dither=Image.Dither.NONE)
    assert np.array_equal(load_image(saved(tmp_path, palette, "p.png")), np.asarray(palette.convert("RGB")))
    bits = Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1")
    assert load_image(saved(tmp_path, bits, "b.png")).tolist() == [[[0] * 3, [255] * 3]]


def test_alpha_is_laid_over_white(tmp_path):
    rgba = np.array([[[10, 20, 30, 255], [10, 20, 30, 0]]], np.uint8)
    assert load_image(saved(tmp_path, Image.fromarray(rgba), "a.png")).tolist() == [[[10, 20, 30], [255] * 3]]


def test_palette_with_a_transparent_colour(tmp_path):
    image = Image.fromarray(np.array([[0, 1]], np.uint8), mode="P")
    image.putpalette([0, 0, 0, 50, 60, 70])
    path = saved(tmp_path, image, "p.png", transparency=0)
    assert load_image(path).tolist() == [[[255] * 3, [50, 60, 70]]]


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_16_bit_keeps_the_upper_byte(tmp_path, name):
    values = np.array([[0, 255, 256, 32767, 32768, 65535]], np.uint16)
    path = saved(tmp_path, Image.fromarray(values), name)
    assert load_image(path)[..., 1].tolist() == [[0, 0, 1, 127, 128, 255]]


def test_16_bit_big_endian(tmp_path):
    path = saved(tmp_path, Image.frombytes("I;16B", (2, 1), b"\x12\x34\xff\x00"), "a.tif")
    assert load_image(path)[..., 0].tolist() == [[0x12, 0xFF]]


def test_more_than_16_bits_and_floats_are_refused(tmp_path):
    wide = Image.fromarray(np.array([[70000]], np.int32))
    with pytest.raises(ImageError, match="more than 16 bits"):
        load_image(saved(tmp_path, wide, "a.tif"))
    with pytest.raises(ImageError, match="floating-point"):
        load_image(saved(tmp_path, Image.fromarray(np.array([[0.5]], np.float32)), "f.tif"))


def test_cmyk_becomes_rgb(tmp_path):
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    loaded = load_image(saved(tmp_path, image, "c.jpg", quality=100))
    # JPEG moves a flat colour by a step or two.
    assert np.abs(loaded.astype(int) - [255, 0, 0]).max() <= 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, pixels, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = {
        1: pixels, 2: pixels[:, ::-1], 3: pixels[::-1, ::-1], 4: pixels[::-1],
        5: pixels.transpose(1, 0, 2), 6: np.rot90(pixels, -1), 7: np.rot90(pixels, 2).transpose(1, 0, 2),
        8: np.rot90(pixels, 1),
    }[orientation]  # fmt: skip
    assert np.array_equal(load_image(saved(tmp_path, Image.fromarray(pixels), "e.png", exif=exif)), turned)


def test_one_pixel_works(tmp_path):
    loaded = load_image(saved(tmp_path, Image.new("RGB", (1, 1), (1, 2, 3)), "one.png"))
    tensor, placement = Preprocess.from_manifest(MANIFEST)(loaded)
    assert tensor.shape == (1, 3, 6, 8)
    assert tensor[0, :, 3, 4].tolist() == [3, 2, 1]
    assert (placement.placed_width, placement.placed_height) == (6, 6)


def test_animation_gives_the_first_frame(tmp_path):
    frames = [Image.new("RGB", (2, 2), colour) for colour in ((255, 0, 0), (0, 0, 255))]
    path = saved(tmp_path, frames[0], "a.gif", save_all=True, append_images=frames[1:])
    assert load_image(path)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is empty"), (b"hello", "not an image"), (b"%!PS-Adobe-3.0 EPSF-3.0\n", "not an image")],
)
def test_files_that_are_no_images(tmp_path, content, message):
    path = tmp_path / "x.png"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=message) as caught:
        load_image(path)
    assert str(path) in str(caught.value)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(ImageError, match="no such image file"):
        load_image(tmp_path / "nowhere.png")
    with pytest.raises(ImageError, match="folder"):
        load_image(tmp_path)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM"])
def test_truncated_files_are_refused(tmp_path, kind):
    noise = np.random.default_rng(1).integers(0, 256, size=(40, 40, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, format=kind)
    path = tmp_path / "cut"
    whole = buffer.getvalue()
    for part in (0.3, 0.6, 0.9):
        path.write_bytes(whole[: int(len(whole) * part)])
        with pytest.raises(ImageError):
            load_image(path)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM"])
def test_damaged_bytes_give_an_image_or_an_image_error(tmp_path, kind):
    rng = np.random.default_rng(2)
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, size=(16, 16, 3), dtype=np.uint8)).save(buffer, format=kind)
    path = tmp_path / "damaged"
    refused = 0
    for _ in range(150):
        data = bytearray(buffer.getvalue())
        for position in rng.integers(0, min(len(data), 120), size=3):
            data[position] = rng.integers(256)
        path.write_bytes(data)
        try:
            loaded = load_image(path)
        except ImageError:
            refused += 1
        else:
            assert loaded.dtype == np.uint8 and loaded.ndim == 3 and loaded.shape[2] == 3
    assert refused > 0


def test_bombs_are_refused_before_decoding(tmp_path, monkeypatch):
    path = saved(tmp_path, Image.new("1", (4000, 3000)), "bomb.png")
    monkeypatch.setattr(images, "MAX_PIXELS", 10_000_000)
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(ImageError, match=r"too large.*4000 x 3000.*at most 10000000"):
        load_image(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ImageError, match="too large"):
        load_image(path)


def test_letterbox_leaves_the_right_size_alone(pixels):
    placed, placement = letterbox(pixels, 7, 5, (1, 2, 3))
    assert np.array_equal(placed, pixels)
    assert placement == Placement(5, 7, 0, 0, 5, 7)


def test_letterbox_centres_and_pads():
    image = np.full((4, 10, 3), 200, np.uint8)
    placed, placement = letterbox(image, 5, 5, (1, 2, 3))
    assert placement == Placement(width=10, height=4, left=0, top=1, placed_width=5, placed_height=2)
    assert (placed[1:3] == 200).all()
    assert (placed[[0, 3, 4]] == [1, 2, 3]).all()


def test_preprocess_orders_channels_and_padding():
    image = np.zeros((3, 8, 3), np.uint8) + np.array([10, 20, 30], np.uint8)
    tensor, _ = Preprocess.from_manifest(MANIFEST)(image)
    assert tensor.dtype == np.uint8 and tensor.shape == (1, 3, 6, 8) and tensor.flags.c_contiguous
    assert tensor[0, :, 2, 0].tolist() == [30, 20, 10]
    assert tensor[0, :, 0, 0].tolist() == [104, 116, 124]
    rgb = {"preprocessing": {**MANIFEST["preprocessing"], "color": "RGB"}}
    tensor, _ = Preprocess.from_manifest(rgb)(image)
    assert tensor[0, :, 2, 0].tolist() == [10, 20, 30]
    assert tensor[0, :, 0, 0].tolist() == [104, 116, 124]


@given(
    st.integers(1, 400),
    st.integers(1, 400),
    st.integers(1, 200),
    st.integers(1, 200),
    st.randoms(use_true_random=False),
)
def test_placement_round_trip(source_width, source_height, width, height, random):
    placed, placement = letterbox(
        np.zeros((source_height, source_width, 3), np.uint8), height, width, (9, 9, 9)
    )
    xs = sorted(random.uniform(0, source_width) for _ in range(2))
    ys = sorted(random.uniform(0, source_height) for _ in range(2))
    box = np.array([[xs[0], ys[0], xs[1], ys[1]]])
    # Float64 rounding of one multiplication, one addition and their inverses.
    assert np.allclose(placement.to_image(placement.to_network(box)), box, atol=1e-9 * 400)
    whole = np.array([[0, 0, source_width, source_height]])
    corners = placement.to_network(whole)[0]
    assert np.allclose(corners[:2], [placement.left, placement.top])
    covered = np.argwhere((placed == 0).all(axis=2))
    assert covered.min(axis=0).tolist() == [placement.top, placement.left]
    assert np.allclose(corners[[3, 2]], covered.max(axis=0) + 1)


def test_boxes_are_clipped_to_the_image():
    placement = Placement(100, 50, left=10, top=20, placed_width=100, placed_height=50)
    assert placement.to_image(np.array([[0, 0, 500, 500]])).tolist() == [[0, 0, 100, 50]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"color": "HSV"}, "colour order.*HSV.*RGB, BGR"),
        ({"resize": "stretch"}, "resize.*stretch.*letterbox"),
        ({"pad_value": [1, 2]}, "pad_value"),
        ({"pad_value": [1, 2, 300]}, "pad_value"),
        ({"height": 0}, "no valid height"),
        ({"width": "wide"}, "no valid width"),
    ],
)
def test_bad_manifests(change, message):
    with pytest.raises(ModelFileError, match=message):
        Preprocess.from_manifest({"preprocessing": {**MANIFEST["preprocessing"], **change}})


def test_missing_entries():
    with pytest.raises(ModelFileError, match="no preprocessing"):
        Preprocess.from_manifest({})
    entry = {key: value for key, value in MANIFEST["preprocessing"].items() if key != "height"}
    with pytest.raises(ModelFileError, match="no height"):
        Preprocess.from_manifest({"preprocessing": entry})


@pytest.mark.parametrize(
    "array", [np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8)]
)
def test_arrays_that_are_no_images(array):
    with pytest.raises(ImageError, match=r"uint8 \[H, W, 3\]"):
        Preprocess.from_manifest(MANIFEST)(array)


def test_the_description_names_every_number():
    text = describe_preprocessing(MANIFEST)
    for part in ("8 x 6", "BGR", "[104, 116, 124]", "0.05", "IoU 0.6", "1000 candidates", "100 detections"):
        assert part in text
    assert "NMS" not in describe_preprocessing({"preprocessing": MANIFEST["preprocessing"]})


FLOATS = {"inputs": {"image": {"scale": 0.02, "zero_point": 114, "dtype": "uint8"}}}


def test_an_input_of_floats_gets_normalised_pixels_in_the_order_of_the_channels():
    entry = {
        **MANIFEST["preprocessing"], "input": "image", "height": 2, "width": 3, "color": "BGR",
        "mean": [1, 2.5, 3], "std": [2, 4, 0.5],
    }  # fmt: skip
    image = np.random.default_rng(0).integers(0, 256, (2, 3, 3), np.uint8)
    tensor, _ = Preprocess.from_manifest({**FLOATS, "preprocessing": entry})(image)
    assert tensor.dtype == np.float32 and tensor.shape == (1, 3, 2, 3)
    for channel, (mean, std) in enumerate([(1, 2), (2.5, 4), (3, 0.5)]):
        expected = (image[..., 2 - channel] - np.float64(mean)) / std
        assert np.array_equal(tensor[0, channel], expected.astype(np.float32))
    pixels, _ = Preprocess.from_manifest({"preprocessing": entry})(image)
    assert pixels.dtype == np.uint8 and np.array_equal(pixels[0, 0], image[..., 2])


def test_the_description_of_an_input_of_floats():
    entry = {**MANIFEST["preprocessing"], "input": "image", "mean": [1, 2, 3], "std": [4, 5, 6]}
    text = describe_preprocessing({**FLOATS, "preprocessing": entry})
    assert (
        "(pixel - mean) / std, with mean [1, 2, 3] and std [4, 5, 6]; quantized, where the network is" in text
    )


def test_a_large_image_takes_seven_bytes_a_pixel(tmp_path):
    """As Pillow decodes it and as it is returned; whole-image steps in between took fourteen."""
    import subprocess
    import sys

    Image.fromarray(np.zeros((6000, 6000, 3), np.uint8)).save(tmp_path / "a.png", compress_level=1)
    code = (
        "import resource, sys\n"
        "from aqd_deploy.detection.images import load_image\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak()\n"
        "load_image(sys.argv[1])\n"
        "print((peak() - before) * 1024)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.png")], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 9 * 6000 * 6000


def test_strips_are_the_whole_image(tmp_path, monkeypatch):
    values = np.random.default_rng(0).integers(0, 256, (37, 23, 4), np.uint8)
    path = saved(tmp_path, Image.fromarray(values), "a.png")
    whole = load_image(path)
    monkeypatch.setattr(images, "_STRIP_PIXELS", 50)
    assert np.array_equal(load_image(path), whole)


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_what_is_no_regular_file(tmp_path, kind):
    path = tmp_path / "a.png"
    os.mkfifo(path) if kind == "pipe" else path.symlink_to("/dev/zero")
    with pytest.raises(ImageError, match=f"a {kind} is no image file"):
        load_image(path)
