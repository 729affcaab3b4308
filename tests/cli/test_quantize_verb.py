"""`quantize`: the file that lower takes, the same after an interruption, and bad input in one sentence."""

import json

import numpy as np
import onnx
import pytest
from float_graphs import CONV3, chain, float_graph
from onnx import helper, numpy_helper
from PIL import Image

from aqd_deploy.cli.main import invoke
from aqd_deploy.integer.files import load_onnx
from aqd_deploy.passes.pipeline import lower
from aqd_deploy.quantization.recipe import Override, Recipe, Steps, read_recipe, recipe_text

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), np.uint8)


@pytest.fixture
def files(tmp_path):
    """A float network, arrays, images and a description of them."""
    onnx.save(chain(), tmp_path / "float.onnx")
    np.savez(tmp_path / "x.npz", image=PIXELS.transpose(0, 3, 1, 2).astype(np.float32) / 255)
    (tmp_path / "images").mkdir()
    for index, image in enumerate(PIXELS):
        Image.fromarray(image).save(tmp_path / "images" / f"{index:02}.png")
    return tmp_path


def words(folder, *more, calibration="x.npz"):
    output = folder / "m.qdq.onnx"
    return [
        "quantize", str(folder / "float.onnx"), "--calibration", str(folder / calibration), "-o", str(output),
        *map(str, more),
    ]  # fmt: skip


def report(capsys, *arguments):
    assert invoke([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_file_is_one_that_lower_takes(files, capsys):
    assert invoke(words(files, "--bits", 4)) == 0
    out = capsys.readouterr().out
    assert "weights of 4 bits, inputs of 4: 1 of 3 layers" in out and "noisiest layers: " in out
    assert lower(load_onnx(files / "m.qdq.onnx")).report["float_tensors"] == 0
    assert sorted(path.name for path in files.iterdir()) == ["float.onnx", "images", "m.qdq.onnx", "x.npz"]


def test_images_and_arrays_of_them_give_the_same_file(files, capsys):
    for calibration, more in (("x.npz", []), ("images", ["--color", "RGB", "--std", 255])):
        assert invoke(words(files, *more, calibration=calibration)) == 0
        (files / "m.qdq.onnx").rename(files / f"{calibration}.onnx")
    first, second = (load_onnx(files / name).graph for name in ("x.npz.onnx", "images.onnx"))
    scales = [
        [numpy_helper.to_array(tensor) for tensor in graph.initializer if tensor.name.endswith("_scale")]
        for graph in (first, second)
    ]
    for a, b in zip(*scales, strict=True):
        # One division was float32, the other float64.
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_a_detectors_file_tells_of_images(files, capsys):
    (files / "d.toml").write_text(
        '[preprocessing]\ncolor = "BGR"\npad_value = [0, 0, 0]\nmean = [0, 0, 0]\nstd = [255, 255, 255]\n'
        '[detector]\nkind = "boxes"\nclasses = ["face"]\n'
        'outputs = { boxes = ["boxes"], scores = ["scores"] }\nscore_threshold = 0.5\nnms_iou = 0.3\n'
    )
    found = report(capsys, *words(files, "--detector", files / "d.toml", calibration="images"))
    assert found["images"] == 20


DESCRIPTION = (
    '[preprocessing]\ncolor = "RGB"\npad_value = [0, 0, 0]\nmean = [0, 0, 0]\nstd = [255, 255, 255]\n'
    '[detector]\nkind = "boxes"\nclasses = ["face"]\nscore_threshold = 0.5\nnms_iou = 0.3\n'
)


def test_detptq_chooses_by_the_boxes_that_a_description_names(files, capsys):
    body = f"a = Conv {CONV3} (image, w1) r = Relu(a) c = Conv {CONV3} (r, w2) b = Reshape(c, four) " \
           "m = ReduceMax <axes = [1], keepdims = 0> (b) s = Sigmoid(m)"  # fmt: skip
    weights = {"w1": (6, 3, 3, 3), "w2": (4, 6, 3, 3), "four": np.array([-1, 4])}
    onnx.save(float_graph(body, weights, "b s"), files / "float.onnx")
    (files / "d.toml").write_text(f'{DESCRIPTION}outputs = {{ boxes = ["b"], scores = ["s"] }}\n')
    arguments = words(files, "--method", "detptq", calibration="images")
    told = report(capsys, *arguments, "--detector", str(files / "d.toml"))["warnings"]
    plain = report(capsys, *arguments, "--color", "RGB", "--std", "255")["warnings"]
    assert told == [] and len(plain) == 1 and "mean square" in plain[0]


def test_detptq_refuses_a_description_of_other_outputs(files, fails):
    (files / "d.toml").write_text(f'{DESCRIPTION}outputs = {{ boxes = ["b"], scores = ["s"] }}\n')
    told = fails(*words(files, "--method", "detptq", "--detector", files / "d.toml", calibration="images"))
    assert "d.toml" in told and "got b, s" in told


def test_options_change_what_the_recipe_says(files, capsys):
    recipe = Recipe(
        method="percentile", weight_bits=4, parameters={"percent": 99.0}, steps=Steps(equalise=True),
        overrides=(Override("b", 3, 3),),
    )  # fmt: skip
    (files / "r.toml").write_text(recipe_text(recipe, ".toml"))
    more = ["--bits", 6, "--bias-correction", "--per-tensor", "--exclude", "y"]
    found = report(
        capsys, *words(files, "--recipe", files / "r.toml", *more, "--save-recipe", files / "s.json")
    )
    followed = read_recipe(files / "s.json")
    assert found["recipe"] == followed.document()
    assert (followed.weight_bits, followed.per_channel, followed.excluded) == (6, False, ("y",))
    assert followed.steps == Steps(equalise=True, bias_correction=True)
    assert [(row["layer"], row["weight_bits"]) for row in found["layers"]] == [("a", 8), ("b", 3)]
    assert [step["step"] for step in found["steps"]] == ["equalise", "scale_channels", "bias_correction"]


def test_warnings_are_told(files, capsys):
    np.savez(files / "one.npz", image=np.zeros((1, 3, 8, 8), np.float32))
    assert invoke(words(files, calibration="one.npz")) == 0
    told = capsys.readouterr().err
    assert "warning: few calibration images: 1; 16 or more show the ranges better" in told
    assert "warning: image is 0 everywhere in every calibration image" in told


def test_a_used_up_budget_keeps_what_is_finished(files, capsys):
    assert invoke(words(files, "--time-budget", "0s")) == 0
    state = files / "m.qdq.onnx.state"
    assert len(list(state.glob("*.npz"))) == 1
    capsys.readouterr()
    assert invoke(words(files)) == 0
    assert "ranges" not in capsys.readouterr().err.splitlines()
    assert not state.exists()


def with_nan(model):
    for tensor in model.graph.initializer:
        if tensor.name == "w1":
            values = numpy_helper.to_array(tensor).copy()
            values[0] = np.nan
            tensor.CopyFrom(numpy_helper.from_array(values, "w1"))
    return model


def with_own_operator(model):
    model.opset_import.add(domain="own", version=1)
    model.graph.node[0].input[0] = "bent"
    model.graph.node.insert(0, helper.make_node("Bend", ["image"], ["bent"], domain="own"))
    model.graph.node.append(helper.make_node("Conv", ["image", "w1"], ["z"], pads=[1] * 4))
    model.graph.output.append(helper.make_tensor_value_info("z", 1, [1, 6, 8, 8]))
    return model


NETWORKS = {
    "NaN in the weights": (lambda: with_nan(chain()), "the layer a has a number that isn't finite; got w1"),
    "NaN on the way": (
        lambda: float_graph(f"l = Log(image) y = Conv {CONV3} (l, w)", {"w": (2, 3, 3, 3)}),
        "the network makes a number that isn't finite of calibration image 0; got l from",
    ),
    "an operator of someone else": (
        lambda: with_own_operator(chain()),
        "onnxruntime cannot run the network: own:Bend(-1) is not a registered function/op",
    ),
    "no layers": (lambda: float_graph("y = Relu(image)", {}), "no layer to quantize"),
    "nothing that has integers": (
        lambda: float_graph("s = Softmax(image) y = Conv (s, w)", {"w": (2, 3, 1, 1)}),
        "no layer of the network can be quantized; got layers stay float from y on, 1 in all: they lie "
        "behind the Softmax s",
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_that_cannot_be_quantized(files, fails, name):
    make, told = NETWORKS[name]
    onnx.save(make(), files / "float.onnx")
    assert told in fails(*words(files))


def test_a_quantized_file(files, fails, capsys):
    assert invoke(words(files)) == 0
    capsys.readouterr()
    (files / "m.qdq.onnx").rename(files / "float.onnx")
    assert "the file is quantized already" in fails(*words(files))


def arrays(shape=(3, 8, 8), count=4, dtype=np.float32):
    return np.zeros((count, *shape), dtype)


CALIBRATIONS = {
    "no images": (arrays(count=0), "there are no calibration images"),
    "another size": (arrays((3, 9, 9)), "got float32 [4, 3, 9, 9]; valid: float32 [None, 3, 8, 8]"),
    "another number of channels": (arrays((1, 8, 8)), "image does not fit the input"),
    "pixels for a float input": (arrays(dtype=np.uint8), "got uint8"),
    "NaN": (arrays() * np.nan, "calibration image 0 holds a number that isn't finite"),
}


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("name", CALIBRATIONS)
def test_arrays_that_cannot_calibrate(files, fails, name):
    images, told = CALIBRATIONS[name]
    np.savez(files / "x.npz", image=images)
    assert told in fails(*words(files))


def test_folders_that_cannot_calibrate(files, fails):
    (files / "none").mkdir()
    assert "the folder has no images in it" in fails(*words(files, "--color", "RGB", calibration="none"))
    assert "does not tell how an image becomes the network's input" in fails(
        *words(files, calibration="images")
    )
    (files / "images" / "00.png").write_bytes(b"no image")
    assert "not an image" in fails(*words(files, "--color", "RGB", calibration="images"))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("version = 2", "is of another version; got 2; valid: 1"),
        ("version = 1\nbits = 4", "has a key that isn't known; got bits"),
        (
            "version = 1\nexcluded = ['hed.*']",
            "a pattern that no layer's name fits; got 'hed.*'; valid: a, b, y",
        ),
        ("version = 1\nmethod = 'maxmin'", "there is no such method; got 'maxmin'; valid: minmax"),
        ("version = 1\n[parameters]\npower = 2", "the method minmax has no parameter power"),
        ("version = ", "is not a TOML file"),
    ],
)
def test_recipes_that_cannot_be_followed(files, fails, text, told):
    (files / "r.toml").write_text(text)
    assert told in fails(*words(files, "--recipe", files / "r.toml"))


def test_outputs_that_cannot_be_written(files, fails):
    (files / "m.qdq.onnx.state").mkdir()
    (files / "m.qdq.onnx.state" / "photo.jpg").touch()
    assert "with other things in it" in fails(*words(files))
    assert "also an input" in fails(*words(files, "--save-recipe", files / "float.onnx"))


@pytest.mark.parametrize("given", ["1,2", "a,b,c", "1,2,nan", ""])
def test_means_that_are_none(files, given, capsys):
    assert invoke(words(files, "--mean", given)) == 2
    assert "is not three numbers" in capsys.readouterr().err
