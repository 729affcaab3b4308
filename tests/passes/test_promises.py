"""Every sentence of what a pass requires and ensures, broken once: a PassError names the pass."""

from dataclasses import replace
from fractions import Fraction

import onnx
import pytest
from small_lowerings import chain, nodes_of, state_after, state_before

from aqd_deploy.integer.ranges import Interval
from aqd_deploy.integer.rational import ChannelForm
from aqd_deploy.passes.contract import Lowering, PassError
from aqd_deploy.passes.graph import Node
from aqd_deploy.passes.operations import (
    Add,
    ConvTranspose,
    DequantizeLinear,
    FileOperation,
    Quantize,
    QuantizeLinear,
    Relu,
    Scale,
    Staircase,
    Window,
)
from aqd_deploy.passes.pipeline import PASSES

NAMES = [each.name for each in PASSES]
WINDOW = Window((1, 1), (1, 1), (0, 0, 0, 0))


def network():
    """A quantized convolution on a stream, a skip-add, and a quantized upsampling."""

    def body(b, x):
        x = b.relu(b.add(b.conv(b.quantize(x, 4, 0.25), 4, 4), x))
        return b.conv(b.quantize(b.upsample(x), 4, 0.5), 4, 4)

    return chain(body)


def left(op):
    """Leaves a node with this operation, which reads the image."""
    return lambda state: state.graph.nodes.append(Node(op, ["image"], "left", "left_1"))


def unknown_operator(state):
    state.model.graph.node.append(onnx.helper.make_node("Det", ["image"], ["left"], "left_1"))


def read_already(state):
    state.graph = state_after("read_qdq", network()).graph


def empty_tail(state):
    state.tail = onnx.ModelProto()


def no_interval(state):
    del state.graph.ranges["image"]


def no_interval_of_codes(state):
    del state.graph.ranges[nodes_of(state, Staircase)[0].output]


def no_scale(state):
    state.graph.heads.clear()


def another_batch(state):
    state.model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2


def no_shape(state):
    del state.graph.shapes[state.graph.nodes[-1].output]


def not_topological(state):
    state.graph.nodes.reverse()


def float_weights(state):
    name, weights = next(iter(state.graph.quantized.items()))
    state.graph.quantized[name] = replace(weights, values=weights.values.astype(float))


def codes_quantized_again(state):
    codes = nodes_of(state, Quantize)[0]
    scale = Scale([ChannelForm(Fraction(1))] * 4)
    state.graph.shapes["real"] = state.graph.shapes["again"] = state.graph.shapes[codes.output]
    state.graph.nodes += [Node(scale, [codes.output], "real"), Node(codes.op, ["real"], "again")]


def quantizer_twice(state):
    node = nodes_of(state, Quantize)[0]
    state.graph.nodes.append(Node(node.op, node.inputs, "again", "again_1"))


def relu_before_a_quantizer(state):
    """Only the quantizer reads it."""
    node = nodes_of(state, Quantize)[0]
    state.graph.nodes.insert(state.graph.nodes.index(node), Node(Relu(), node.inputs, "left", "left_1"))
    node.inputs = ["left"]


def beyond_int32(state):
    channels = state.graph.shapes["out"][1]
    state.graph.ranges["out"] = Interval.uniform(channels, 0, 1 << 31)


def node_dropped(state):
    del state.integer.graph.node[-1]


def output_renamed(state):
    state.integer.graph.output[0].name = "other"


def manifest_dropped(state):
    del state.integer.metadata_props[:]


REQUIRED = [
    ("check_model", read_already, "the graph has been read"),
    ("read_qdq", unknown_operator, "Det left_1 is left"),
    *(("fold_quantizers", left(op), "left_1 is left") for op in (FileOperation("Relu", {}), Scale([]))),
    *(
        (name, left(op), f"{op.name} left_1 is left")
        for name in ("split_transposed", "commute_quantizers", "tabulate", "move_scales")
        for op in (FileOperation("Relu", {}), DequantizeLinear(1))
    ),
    ("move_scales", no_interval, "image has no interval"),
    ("solve_requantize", left(Add()), "Add left_1 is left"),
    ("solve_requantize", no_interval_of_codes, "has no interval"),
    ("write_integer", left(Add()), "Add left_1 is left"),
    ("write_integer", no_interval, "image has no interval"),
    ("write_integer", no_scale, "output out has no scale"),
]

ENSURED = [
    ("canonicalise", empty_tail, "the tail has no outputs"),
    ("check_model", unknown_operator, "Det left_1 is left"),
    ("check_model", another_batch, "input image has the shape"),
    ("read_qdq", left(FileOperation("Relu", {})), "Relu left_1 is left"),
    ("read_qdq", no_shape, "isn't known"),
    ("read_qdq", not_topological, "isn't known"),
    ("fold_quantizers", left(QuantizeLinear(1, 0)), "QuantizeLinear left_1 is left"),
    ("fold_quantizers", float_weights, "isn't whole"),
    ("split_transposed", left(ConvTranspose(WINDOW, 1, (8, 8))), "ConvTranspose left_1 is left"),
    ("tabulate", codes_quantized_again, "is a function of "),
    ("commute_quantizers", relu_before_a_quantizer, r"quantizers read left_1 \(Relu\)"),
    ("commute_quantizers", quantizer_twice, "as another node does"),
    ("move_scales", left(Add()), "Add left_1 is left"),
    ("move_scales", beyond_int32, "has no interval within int32"),
    ("move_scales", no_scale, "an output has no scale"),
    ("solve_requantize", left(Add()), "Add left_1 is left"),
    ("write_integer", node_dropped, "nodes became"),
    ("write_integer", output_renamed, "inputs and outputs became image, other"),
    ("write_integer", manifest_dropped, "no manifest"),
    ("verify_integer", output_renamed, "aren't those of the QDQ file"),
]


@pytest.mark.parametrize(("name", "broken", "words"), REQUIRED)
def test_what_a_pass_requires(name, broken, words):
    state = state_before(name, network())
    broken(state)
    with pytest.raises(PassError, match=rf"{name} finds what it must not: .*{words}.* \(passes before: "):
        PASSES[NAMES.index(name)](state)


def test_the_first_pass_is_the_first_and_the_last_behind_the_writer():
    with pytest.raises(PassError, match="canonicalise finds what it must not: the graph has been read"):
        PASSES[0](state_after("read_qdq", network()))
    with pytest.raises(PassError, match="verify_integer finds what it must not: no integer file"):
        PASSES[-1](Lowering(network()))


@pytest.mark.parametrize(("name", "broken", "words"), ENSURED)
def test_what_a_pass_ensures(name, broken, words, monkeypatch):
    state, each = state_after(name, network()), PASSES[NAMES.index(name)]
    each.ensures(state)
    broken(state)
    monkeypatch.setattr(type(each), "requires", lambda self, state: None)
    monkeypatch.setattr(type(each), "run", lambda self, state: None)
    with pytest.raises(PassError, match=rf"{name} leaves what it must not: .*{words}.* \(passes before: "):
        each(state)


def test_every_pass_is_asked():
    assert {name for name, *_ in REQUIRED} | {"canonicalise", "verify_integer"} == set(NAMES)
    assert {name for name, *_ in ENSURED} == set(NAMES)
