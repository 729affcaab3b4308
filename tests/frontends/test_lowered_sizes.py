"""An exported detector lowered for another size, and one whose file tells of two."""

import json

import pytest
from small_detectors import small_config

from aqd_deploy.errors import ModelFileError
from aqd_deploy.frontends.random_network import random_detector
from aqd_deploy.frontends.torch_qdq import export_qdq
from aqd_deploy.integer.manifest import MANIFEST_KEY, read_manifest
from aqd_deploy.passes.pipeline import lower


@pytest.fixture(scope="module", params=["fcos_r18", "retinanet_r18"])
def qdq(request):
    return export_qdq(random_detector(small_config(request.param)))


def changed(model, change):
    """A copy whose manifest is `change`d."""
    copy = type(model)()
    copy.CopyFrom(model)
    manifest = read_manifest(copy)
    change(manifest)
    entry = next(entry for entry in copy.metadata_props if entry.key == MANIFEST_KEY)
    entry.value = json.dumps(manifest)
    return copy


@pytest.mark.parametrize("shape", [[1, 3, 96, 128], {"image": [1, 3, 96, 128]}])
def test_the_manifest_takes_the_size_of_the_graph(qdq, shape):
    model = lower(qdq, shape=shape).model
    assert [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim] == [1, 3, 96, 128]
    before, after = read_manifest(qdq), read_manifest(model)
    assert after["preprocessing"] == {**before["preprocessing"], "height": 96, "width": 128}
    assert after["detector"] == before["detector"]
    assert before["preprocessing"]["height"] == 64


def test_a_file_that_tells_of_two_sizes_is_refused_with_the_way_out(qdq):
    two = changed(qdq, lambda manifest: manifest["preprocessing"].update(height=96))
    with pytest.raises(ModelFileError, match=r"--shape 1x3x64x64 -o OUT"):
        lower(two)
    assert read_manifest(lower(two, shape=[1, 3, 64, 64]).model)["preprocessing"]["height"] == 64


@pytest.mark.parametrize("strides", [[4, 8, 16, 32, 64], [8, 16, 32, 64, 256], [8, 16, 32, 128, 64]])
def test_strides_are_those_of_the_graph(qdq, strides):
    """The last ones make as many cells of 64 pixels as the right ones."""
    with pytest.raises(ModelFileError, match=r"detector\.strides.*as the graph has"):
        lower(changed(qdq, lambda manifest: manifest["detector"].update(strides=strides)))
