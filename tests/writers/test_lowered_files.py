"""Every writer's file of every network in integers, against its float64 meaning, or refused for the reason
that stands here.
"""

import networks
import pytest
from written_networks import deviations

from aqd_deploy.errors import UnsupportedModelError
from aqd_deploy.passes.pipeline import lower

_FLOAT_PRODUCTS = "of numbers that nothing quantized"
_SUMMED = "16 scales along axis 0"
REFUSED = {
    # Resize of codes, which rounds as each runtime likes.
    "ort-qoperator nanodet": "codes are interpolated",
    # One factor an element in front of a linear layer, whose input has one scale.
    "nncf-transformer classifier": "Mul with an odd constant",
    # Left in float by the writer: NNCF the squeeze-and-excite, others what they have no quantizer for.
    "nncf-mixed squeeze": _FLOAT_PRODUCTS,
    "nncf-performance squeeze": _FLOAT_PRODUCTS,
    "nncf-transformer squeeze": _FLOAT_PRODUCTS,
    "ort-qoperator transposed": _FLOAT_PRODUCTS,
    "pt2e-x86 transposed": _FLOAT_PRODUCTS,
    # Scales along the channels that are summed over.
    "modelopt transposed": _SUMMED,
    "pt2e-xnnpack transposed": _SUMMED,
}


@pytest.mark.parametrize("name", sorted(networks.NETWORKS))
def test_integers_are_what_the_file_means(written, writer, name):
    """Each piece gives the codes of float64 where its constants are proven, elsewhere codes a step away."""
    model = written(name)
    known = REFUSED.get(f"{writer} {name}")
    if known is not None:
        with pytest.raises(UnsupportedModelError, match=known) as caught:
            lower(model)
        assert caught.value.next_command
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
