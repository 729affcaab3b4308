"""Every writer's file of every network in integers, against its float64 meaning, or refused for the reason
that stands here.
"""

import networks
import pytest
from written_networks import deviations

from aqd_deploy.errors import UnsupportedModelError
from aqd_deploy.passes.pipeline import lower

_FLOAT_WINDOW = "isn't quantized to 8 bits"
_FLOAT_PRODUCTS = "of numbers that nothing quantized"
_FUNCTION_OF_A_STREAM = "isn't right in front of a quantizer"
REFUSED = {
    # Resize, linear, of what no quantizer stands behind.
    "brevitas-qcdq nanodet": _FLOAT_WINDOW,
    "brevitas-qonnx nanodet": _FLOAT_WINDOW,
    "modelopt nanodet": _FLOAT_WINDOW,
    "ort-products nanodet": _FLOAT_WINDOW,
    "pt2e-x86 nanodet": _FLOAT_WINDOW,
    "pt2e-xnnpack nanodet": _FLOAT_WINDOW,
    # Resize of codes, which rounds as each runtime likes.
    "ort-qoperator nanodet": "codes are interpolated",
    # An average of what no quantizer stands behind.
    "nncf-transformer classifier": _FLOAT_WINDOW,
    # A function whose result goes on without a quantizer, to a product or a concat.
    "brevitas-qcdq squeeze": _FUNCTION_OF_A_STREAM,
    "brevitas-qonnx squeeze": _FUNCTION_OF_A_STREAM,
    "modelopt squeeze": _FUNCTION_OF_A_STREAM,
    "modelopt yolo": _FUNCTION_OF_A_STREAM,
    "nncf-transformer yolo": _FUNCTION_OF_A_STREAM,
    "ort-products squeeze": _FUNCTION_OF_A_STREAM,
    "ort-products yolo": _FUNCTION_OF_A_STREAM,
    "pt2e-x86 squeeze": _FUNCTION_OF_A_STREAM,
    "pt2e-x86 yolo": _FUNCTION_OF_A_STREAM,
    # Left in float by the writer: NNCF the squeeze-and-excite, others what they have no quantizer for.
    "nncf-mixed squeeze": _FLOAT_PRODUCTS,
    "nncf-performance squeeze": _FLOAT_PRODUCTS,
    "nncf-transformer squeeze": _FLOAT_PRODUCTS,
    "ort-qoperator transposed": _FLOAT_PRODUCTS,
    "pt2e-x86 transposed": _FLOAT_PRODUCTS,
    # Scales along the channels that are summed over.
    "modelopt transposed": "16 scales along axis 0",
    "pt2e-xnnpack transposed": "16 scales along axis 0",
}


@pytest.mark.parametrize("name", sorted(networks.NETWORKS))
def test_integers_are_what_the_file_means(written, writer, name):
    """Each piece gives the codes of float64 where its constants are proven, elsewhere codes a step away."""
    model = written(name)
    known = REFUSED.get(f"{writer} {name}")
    if known is not None:
        with pytest.raises(UnsupportedModelError, match=known):
            lower(model)
        return
    result = lower(model)
    found = deviations(model, result, {model.graph.input[0].name: networks.images(1, seed=9)[0]})
    entries = result.report["requantizations"]
    exact = {entry["output"] for entry in entries if not entry["deviations"]}
    assert found.pieces and not {name for name, (count, *_) in found.pieces.items() if count} & exact
    assert found.most_steps <= 1
    assert all(beyond <= 0 for beyond in found.outputs.values())
    apart, codes = found.end_to_end
    print(f"{found.differing} codes differ piece by piece, {apart} of {codes} end to end")
