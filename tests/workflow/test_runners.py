"""What `detect` asks of a network before it looks at images."""

import pytest
from fake_detector import SIDE, STRIDE, manifest_of, run

from aqd_deploy.errors import ModelFileError
from aqd_deploy.workflow.runners import Runner

CELLS = SIDE // STRIDE


def runner(manifest, **more):
    """A network of the outputs that `run` makes and of `more`."""
    outputs = {name: (1, count, CELLS, CELLS) for name, count in (("cls", 2), ("box", 4), ("ctr", 1))}
    return Runner(manifest, run, {"image": ((1, 3, SIDE, SIDE), "uint8")}, {**outputs, **more})


def test_an_output_that_decoding_does_not_read_is_let_through():
    runner(manifest_of()).check_detector()
    runner(manifest_of(), features=(1, 7, 3)).check_detector()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"strides": [STRIDE * 2]}, "detector.strides; got 16 for cls"),
        ({"classes": ["cat"]}, "got 1 channels of cls"),
        (
            {"outputs": {"cls": ["cls"], "box": ["boxes"], "ctr": ["ctr"]}},
            "detector.outputs; got boxes; valid",
        ),
        ({"outputs": {"cls": ["cls"], "box": ["cls"], "ctr": ["ctr"]}}, "detector.outputs; got cls; valid"),
    ],
)
def test_a_manifest_of_another_network_is_refused(change, words):
    with pytest.raises(ModelFileError, match=words):
        runner(manifest_of(**change), features=(1, 7, 3)).check_detector()


def test_a_manifest_of_another_size_is_refused():
    manifest = {**manifest_of(), "shapes": {"image": [1, 3, SIDE, SIDE - 1]}}
    with pytest.raises(ModelFileError, match="another size of image than the network"):
        _ = runner(manifest).wanted


def test_sizes_that_are_not_known_are_not_checked():
    shapes = dict.fromkeys(("cls", "box", "ctr"), ("N", None, CELLS, CELLS))
    runner(manifest_of(strides=[STRIDE * 2]), **shapes).check_detector()
    with pytest.raises(ModelFileError, match="16 for box"):
        runner(manifest_of(strides=[STRIDE * 2]), cls=shapes["cls"]).check_detector()
