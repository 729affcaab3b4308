"""Every writer's file of every network means the same in canonical form, and nothing that the form has not is
left of it.
"""

import networks
import pytest
from canonical_meaning import assert_same_meaning, canonical, manifest_entry

from aqd_deploy.errors import UnsupportedModelError

GONE = {
    *(
        "Gemm",
        "MatMul",
        "Flatten",
        "Reshape",
        "Squeeze",
        "Unsqueeze",
        "Transpose",
        "Split",
        "GlobalAveragePool",
    ),
    *("ReduceMean", "Softmax", "Constant", "Shape", "Identity", "Quant", "FusedConv"),
}


@pytest.mark.parametrize("name", sorted(networks.NETWORKS))
def test_a_file_means_the_same_in_canonical_form(written, writer, name):
    model = written(name)
    if (writer, name) == ("ort-qoperator", "nanodet"):
        with pytest.raises(UnsupportedModelError, match="codes are interpolated"):
            canonical(model)
        return
    source = model.graph.input[0].name
    state = assert_same_meaning(model, {source: networks.images(1, seed=9)[0]})
    left = {node.op_type for node in state.model.graph.node}
    assert not left & GONE and not any(op.startswith("QLinear") for op in left)
    assert not any(node.domain for node in state.model.graph.node)
    assert manifest_entry(state.model)["inputs"].keys() == {source}
    assert (state.tail is not None) == (name == "classifier")
