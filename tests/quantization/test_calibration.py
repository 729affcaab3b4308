"""Calibration images: from arrays and from files, one at a time, refused in one sentence each."""

import numpy as np
import pytest
from float_graphs import chain, float_graph
from PIL import Image

from aqd_deploy.errors import AqdError, CalibrationError, ImageError, ShapeError
from aqd_deploy.quantization.calibration import Calibration, calibration_of, preprocessing

ENTRY = {"input": "image", "height": 8, "width": 8, "color": "BGR", "pad_value": [0, 0, 0]}
DESCRIBED = {"preprocessing": {**ENTRY, "mean": [1, 2, 3], "std": [2, 2, 2]}}


def arrays(count=3, shape=(3, 8, 8), dtype=np.float32):
    return np.random.default_rng(0).uniform(-1, 1, (count, *shape)).astype(dtype)


@pytest.mark.parametrize("name", ["image.npz", "other_name.npz", "image.npy"])
def test_arrays(tmp_path, name):
    path, images = tmp_path / name, arrays()
    if path.suffix == ".npy":
        np.save(path, images)
    else:
        np.savez(path, **{path.stem: images})
    found = calibration_of(path, chain())
    assert len(found) == 3
    for _ in range(2):
        np.testing.assert_array_equal(np.concatenate([feed["image"] for feed in found.feeds()]), images)


def test_compressed_arrays(tmp_path):
    np.savez_compressed(tmp_path / "c.npz", image=arrays())
    assert sum(1 for _ in calibration_of(tmp_path / "c.npz", chain()).feeds()) == 3


def test_images_are_prepared_as_it_is_told(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    for index, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{index}.png")
    found = calibration_of(tmp_path, chain(), DESCRIBED)
    feeds = [feed["image"] for feed in found.feeds()]
    expected = (pixels[0, :, :, ::-1] - np.array([1.0, 2.0, 3.0])) / 2
    np.testing.assert_allclose(feeds[0][0].transpose(1, 2, 0), expected, rtol=1e-6)
    assert (len(feeds), feeds[0].dtype) == (2, np.float32)


def test_another_preprocessing_is_another_set(tmp_path):
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "0.png")
    other = {"preprocessing": {**DESCRIBED["preprocessing"], "color": "RGB"}}
    digests = {calibration_of(tmp_path, chain(), each).digest for each in (DESCRIBED, other)}
    assert len(digests) == 2


def test_the_first_images():
    found = Calibration.of([{"image": each[None]} for each in arrays(5)])
    assert [len(found.first(2)), len(list(found.first(2).feeds())), len(found.first(9))] == [2, 2, 5]
    assert found.first(2).digest != found.digest


@pytest.mark.parametrize(
    ("given", "error", "told"),
    [
        ({"image": arrays(0)}, CalibrationError, "there are no calibration images"),
        ({"image": arrays(shape=(3, 9, 8))}, ShapeError, r"got float32 \[3, 3, 9, 8\]; valid: float32"),
        ({"image": arrays(shape=(1, 8, 8))}, ShapeError, "image does not fit the input"),
        ({"image": arrays(dtype=np.float64)}, ShapeError, "got float64"),
        ({"image": arrays(), "more": arrays()}, ShapeError, "there is no input 'more'"),
        ({"image": np.array([None])}, AqdError, "Python objects"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path, given, error, told):
    np.savez(tmp_path / "x.npz", **given)
    with pytest.raises(error, match=told):
        calibration_of(tmp_path / "x.npz", chain())


def test_arrays_by_columns_are_named(tmp_path):
    np.savez(tmp_path / "x.npz", image=np.asfortranarray(arrays()))
    with pytest.raises(AqdError, match=r"column by column: numpy\.ascontiguousarray"):
        list(calibration_of(tmp_path / "x.npz", chain()).feeds())


def test_numbers_that_are_not_finite(tmp_path):
    images = arrays()
    images[1, 0, 0, 0] = np.nan
    np.savez(tmp_path / "x.npz", image=images)
    with pytest.raises(CalibrationError, match="calibration image 1 holds a number that isn't finite"):
        list(calibration_of(tmp_path / "x.npz", chain()).feeds())


def test_a_truncated_file(tmp_path):
    np.savez(tmp_path / "x.npz", image=arrays())
    data = (tmp_path / "x.npz").read_bytes()
    (tmp_path / "x.npz").write_bytes(data[: len(data) // 2])
    with pytest.raises(AqdError, match="cannot be read"):
        calibration_of(tmp_path / "x.npz", chain())


def test_a_folder_without_images(tmp_path):
    with pytest.raises(CalibrationError, match="the folder has no images in it"):
        calibration_of(tmp_path, chain(), DESCRIBED)


def test_no_such_file(tmp_path):
    with pytest.raises(CalibrationError, match="there is no such image file"):
        calibration_of(tmp_path / "none", chain(), DESCRIBED)


def test_a_file_that_is_no_image(tmp_path):
    (tmp_path / "0.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match="not an image"):
        list(calibration_of(tmp_path, chain(), DESCRIBED).feeds())


def test_nobody_says_how_an_image_becomes_the_input(tmp_path):
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "0.png")
    with pytest.raises(CalibrationError, match=r"--detector F\.toml"):
        calibration_of(tmp_path, chain())


@pytest.mark.parametrize("sizes", [{"height": 9}, {"input": "picture"}])
def test_preprocessing_of_another_network(sizes):
    with pytest.raises(CalibrationError, match="images do not fit the network's input"):
        preprocessing(chain(), {"preprocessing": {**DESCRIBED["preprocessing"], **sizes}})


def test_grey_networks_take_no_images():
    model = float_graph("y = Conv (image, w)", {"w": (2, 1, 1, 1)}, channels=1)
    with pytest.raises(CalibrationError, match=r"got image \[1, 3, 8, 8\]; valid: image \[1, 1, 8, 8\]"):
        preprocessing(model, DESCRIBED)


def test_open_sizes_come_before_the_arrays(tmp_path):
    model = chain()
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    np.savez(tmp_path / "x.npz", image=arrays())
    with pytest.raises(ShapeError, match="--shape 1x3x320x320"):
        calibration_of(tmp_path / "x.npz", model)
