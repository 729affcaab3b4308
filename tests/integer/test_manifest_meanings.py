"""What a manifest says of inputs, outputs and a tail, held to the graph."""

from __future__ import annotations

import json

import pytest
from classifiers import INPUT, OUTPUT, integer_classifier, manifest_of, softmax_tail

from aqd_deploy.errors import ModelFileError
from aqd_deploy.integer.manifest import MANIFEST_KEY, read_manifest
from aqd_deploy.integer.reader import read_graph

SCALES = [1.0, 2.0, 3.0]


def changed(change):
    """The model of a classifier with a tail, its manifest changed."""
    model = integer_classifier(softmax_tail())
    manifest = manifest_of(model)
    change(manifest)
    entry = next(entry for entry in model.metadata_props if entry.key == MANIFEST_KEY)
    entry.value = json.dumps(manifest)
    return model


@pytest.mark.parametrize(
    "change",
    [
        lambda m: None,
        lambda m: m["inputs"][INPUT].update(scale=SCALES, zero_point=[1, 2, 3]),
        lambda m: m["shapes"].update({INPUT: [3, 36]}),
        lambda m: m["outputs"][OUTPUT].pop("zero_point"),
        lambda m: m.pop("tail"),
        lambda m: m.pop("inputs"),
    ],
)
def test_what_fits(change):
    model = changed(change)
    assert read_graph(model).outputs == [OUTPUT] and read_manifest(model)["schema"] == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m["inputs"].update(other=m["inputs"][INPUT]), "inputs.other; got an input that the graph"),
        (lambda m: m["inputs"][INPUT].update(dtype="int8"), "inputs.image.dtype; got int8; valid: uint8"),
        (lambda m: m["inputs"][INPUT].update(scale=SCALES[:2]), "inputs.image.scale; got 2 numbers; valid"),
        (lambda m: m["inputs"][INPUT].update(zero_point=[1, 2]), "inputs.image.zero_point; got 2 numbers"),
        (lambda m: m["outputs"][OUTPUT].update(zero_point=[1, 2]), "outputs.t1.zero_point; got 2 numbers"),
        (lambda m: m["outputs"][OUTPUT].pop("scale"), "outputs.t1.scale; got none"),
        (lambda m: m["shapes"].update({OUTPUT: [1, 6]}), r"shapes.t1; got \[1, 6\]; valid: as many"),
        (lambda m: m["shapes"].update(other=[1]), "shapes.other; got neither an input nor an output"),
        (lambda m: m["tail"]["inputs"].update(other={}), "tail.inputs.other; got no output with a scale"),
    ],
)
def test_what_does_not_fit_the_graph(change, words):
    with pytest.raises(ModelFileError, match=f"wrong at {words}"):
        read_graph(changed(change))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m["inputs"][INPUT].pop("zero_point"), "has no inputs.image.zero_point"),
        (lambda m: m["inputs"][INPUT].update(scale=0), "no valid inputs.image.scale; got 0"),
        (lambda m: m["inputs"][INPUT].update(zero_point=256), "no valid inputs.image.zero_point; got 256"),
        (lambda m: m["inputs"][INPUT].update(dtype="int32"), "no valid inputs.image.dtype; got 'int32'"),
        (lambda m: m["shapes"].update({OUTPUT: [1, -5]}), r"no valid shapes.t1\[1\]; got -5"),
        (lambda m: m["tail"].pop("sha256"), "has no tail.sha256"),
    ],
)
def test_what_is_no_manifest(change, words):
    with pytest.raises(ModelFileError, match=words):
        read_manifest(changed(change))
