"""Integer files that break docs/integer-dialect.md are refused, each rule by its smallest case."""

import json
import re

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from small_models import UINT8, ModelWriter, every_operation, random_image, reference

from aqd_deploy.compiler import compile_model
from aqd_deploy.compiler.planning import plan_model
from aqd_deploy.errors import AqdError
from aqd_deploy.integer import operations
from aqd_deploy.integer.operations.pools import pool_name
from aqd_deploy.runtime import Program


@pytest.fixture
def model():
    return every_operation()


def node(model: onnx.ModelProto, op: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.op_type == op)


def set_constant(model: onnx.ModelProto, name: str, array: np.ndarray) -> None:
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(array, name))


def set_value(model: onnx.ModelProto, op: str, index: int, value: int) -> None:
    """The first number of the constant at an input of the first `op`."""
    name = node(model, op).input[index]
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    array = numpy_helper.to_array(tensor).copy()
    array.reshape(-1)[0] = value
    set_constant(model, name, array)


def set_attribute(model: onnx.ModelProto, op: str, name: str, value: object) -> None:
    proto = node(model, op)
    kept = [attribute for attribute in proto.attribute if attribute.name != name]
    del proto.attribute[:]
    proto.attribute.extend([*kept, helper.make_attribute(name, value)])


def body(model: onnx.ModelProto, name: str) -> onnx.FunctionProto:
    return next(function for function in model.functions if function.name == name)


def refused(model: onnx.ModelProto, sentence: str) -> None:
    with pytest.raises(AqdError, match=sentence) as error:
        plan_model(model)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("index", "value", "sentence"),
    [
        (1, -(1 << 31), r"multiplier c of Requantize t5 .* channel 0; got -2147483648"),
        (1, 1 << 31, r"multiplier c of Requantize t5 .* got 2147483648"),
        (2, (1 << 63) - 1, r"x·c \+ B of Requantize t5 leaves 62 bits in channel 0"),
        (2, -(1 << 63), r"x·c \+ B of Requantize t5 leaves 62 bits"),
        (2, 1 << 62, r"x·c \+ B of Requantize t5 leaves 62 bits"),
        (3, 63, r"shift d of Requantize t5 .* got 63; valid: 0 to 62"),
        (3, (1 << 64) - 1, r"shift d of Requantize t5"),
    ],
)
def test_constants_of_a_multiply_shift(model, index, value, sentence):
    set_value(model, "Requantize", index, value)
    refused(model, sentence)


def test_the_largest_constants_are_taken(model):
    set_value(model, "Requantize", 1, -(1 << 31) + 1)
    set_value(model, "Requantize", 3, 62)
    plan_model(model)


def test_conv_odd_with_other_weights_than_ones(model):
    set_value(model, "ConvOdd", 2, 2)
    refused(model, r"third input of ConvOdd t1 is not ones; got shape \[1, 3, 3, 3\], values from 1 to 2")


@pytest.mark.parametrize(("lo", "hi"), [(0, -1), (3, 2), (-1, 255), (0, 256)])
def test_codes_that_their_type_does_not_hold(model, lo, hi):
    set_attribute(model, "Requantize", "lo", lo)
    set_attribute(model, "Requantize", "hi", hi)
    refused(model, rf"Requantize t5 clips to codes that uint8 .* got lo = {lo}, hi = {hi}")


def test_thresholds_that_count_past_their_type(model):
    set_attribute(model, "Threshold", "lo", 253)
    refused(model, r"Threshold t11 clips to codes .* got lo = 253, hi = 256")


def test_a_sign_that_is_none(model):
    set_value(model, "Threshold", 1, 2)
    refused(model, "sign of Threshold t11 has other values than 1 and -1; got 2")


def test_an_input_that_the_dialect_does_without(model):
    """ONNX's Resize has a `roi`, which no form of the dialect reads."""
    resize = node(model, "Resize")
    roi = numpy_helper.from_array(np.zeros(0, np.float32), "roi")
    model.graph.initializer.append(roi)
    resize.input[1] = "roi"
    refused(model, "Resize t13 has an input that the dialect does without; got roi; valid: nothing")


def test_every_node_of_every_body_counts(model):
    """Any operation of a body replaced by another."""
    for i, function in enumerate(model.functions):
        for j in range(len(function.node)):
            copy = onnx.ModelProto()
            copy.CopyFrom(model)
            changed = copy.functions[i].node[j]
            changed.op_type = "Sub" if changed.op_type == "Add" else "Add"
            refused(copy, f"the function aqd.integer.{function.name} is not the dialect's; got another body")


def test_bodies_are_compared_by_structure(model):
    """Other names inside, another order of attributes, constants stored otherwise: the same body."""
    function = body(model, "Threshold")
    for inner in function.node:
        for names in (inner.input, inner.output):
            names[:] = [f"{name}_" if name == "signed" else name for name in names]
        inner.name, inner.doc_string = "another", "text"
    axis = next(inner for inner in function.node if inner.output[0] == "axis")
    axis.attribute[0].t.CopyFrom(helper.make_tensor("named", TensorProto.INT64, [1], [0]))
    plan_model(model)


def test_a_body_with_a_name_that_is_not_utf8(model):
    data = model.SerializeToString().replace(b"keepdims", b"\xff\xfeepdims")
    refused(onnx.ModelProto.FromString(data), "is not the dialect's; got another body")


def test_functions_that_nothing_calls(model):
    model.functions.append(operations.function("MaxPool_k5s2p1"))
    plan_model(model)
    model.functions[-1].node.pop()
    refused(model, "MaxPool_k5s2p1 is not the dialect's; got another body")


def test_missing_doubled_and_foreign_functions(model):
    functions = list(model.functions)
    del model.functions[:]
    model.functions.extend(functions[1:])
    refused(model, rf"no function aqd.integer.{functions[0].name}")
    model.functions.extend([functions[0], functions[0]])
    refused(model, rf"{functions[0].name} is defined twice")
    model.functions.pop()
    model.functions[0].domain = "com.example"
    refused(model, "is not the dialect's; got another domain")


@pytest.mark.parametrize(
    "name", ["MaxPool_k02s1p0", "MaxPool_k2s0p0", "MaxPool_k99999s1p0", "MaxPool_k٢s1p0"]
)
def test_names_of_pools_have_one_form(model, name):
    node(model, "MaxPool_k2s1p0").op_type = name
    body(model, "MaxPool_k2s1p0").name = name
    refused(model, "is not the dialect's")


def test_a_pool_with_windows_of_padding_alone(model):
    name = pool_name(2, 1, 2)
    node(model, "MaxPool_k2s1p0").op_type = name
    model.functions.append(operations.function(name))
    refused(model, "could lie in the padding alone")


@pytest.mark.parametrize(
    ("op", "name", "value", "sentence"),
    [
        ("MaxPool", "ceil_mode", 1, "ceil_mode of MaxPool .* got 1; valid: 0"),
        ("MaxPool", "storage_order", 1, "storage_order of MaxPool"),
        ("MaxPool", "dilations", [2, 2], "dilations of MaxPool"),
        ("MaxPool", "auto_pad", "SAME_UPPER", "auto_pad of MaxPool .* valid: NOTSET or VALID"),
        ("MaxPool", "auto_pad", "VALID", "pads beside auto_pad VALID"),
        ("MaxPool", "pads", [0, 2, 0, 0], "could lie in the padding alone"),
        ("MaxPool", "kernel_shape", [2, 2, 1], "kernel_shape of MaxPool .* 2 numbers from 1"),
        ("ConvInteger", "group", 2147483647, "does not fit its input"),
        ("ConvInteger", "group", 0, "group of ConvInteger"),
        ("ConvInteger", "strides", [0, 1], "strides of ConvInteger"),
        ("ConvInteger", "pads", [-1, 0, 0, 0], "pads of ConvInteger"),
        ("ConvInteger", "pads", [1, 1], "pads of ConvInteger"),
        ("ConvInteger", "pads", [2147483647, 2147483647, 0, 0], "too large"),
        ("ConvInteger", "strides", 1.5, "strides of ConvInteger .* has another type"),
        ("ConvInteger", "kernel_shape", [1, 3], "kernel_shape of ConvInteger .* not that of its weights"),
        ("ConvOdd", "group", 3, "group of ConvOdd"),
        ("Resize", "mode", "linear", "mode of Resize .* got linear; valid: nearest"),
        ("Resize", "nearest_mode", "ceil", "nearest_mode of Resize"),
        ("Resize", "antialias", 1, "attribute that the dialect does not know; got 'antialias'"),
        ("Cast", "to", 3, "to of Cast"),
        ("Concat", "axis", 2, "axis of Concat"),
        ("PadImage", "pads", [0, 1, 1, 1, 0, 0, 1, 1], "pads more than rows and columns"),
        ("Requantize", "to", 6, "to of Requantize"),
    ],
)  # fmt: skip
def test_attributes(model, op, name, value, sentence):
    set_attribute(model, op, name, value)
    refused(model, sentence)


@pytest.mark.parametrize("op", ["ConvInteger", "MaxPool", "Requantize", "Add"])
def test_a_node_with_two_outputs(model, op):
    node(model, op).output.append("second")
    refused(model, "has another number of outputs; got 2; valid: one")


def test_a_zero_point_of_the_weights(model):
    node(model, "ConvInteger").input.append(node(model, "ConvInteger").input[2])
    refused(model, "ConvInteger t7 has another number of inputs")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda m: m.graph.output.append(m.graph.output[0]), "names an output twice"),
        (lambda m: m.graph.input.append(m.graph.input[0]), "of a name that is taken; got 'image'"),
        (lambda m: m.graph.node.append(m.graph.node[0]), "two nodes have the name t0"),
        (lambda m: setattr(m.graph.node[2], "name", ""), None),
        (lambda m: m.graph.node.insert(0, m.graph.node.pop()), "which nothing before it makes"),
        (lambda m: m.graph.node[0].output.__setitem__(0, ""), "makes a tensor without a name"),
        (lambda m: m.graph.node[5].input.__setitem__(0, "nowhere"), "reads nowhere, which nothing"),
        (lambda m: setattr(m, "ir_version", 11), "another IR version; got 11; valid: 10"),
        (lambda m: setattr(m.opset_import[0], "version", 22), "operator sets are not those"),
        (lambda m: setattr(m.opset_import[1], "version", 2), "operator sets are not those"),
        (lambda m: m.training_info.add(), "holds training information"),
        (lambda m: m.graph.sparse_initializer.add(), "holds sparse initializers"),
        (lambda m: m.graph.quantization_annotation.add(), "holds quantization annotations"),
        (lambda m: setattr(m.graph.initializer[0], "data_type", 8), "the dialect has no constants of"),
        (lambda m: setattr(m.graph.initializer[0], "data_location", 1), "has no data in the model itself"),
        (lambda m: setattr(m.graph.initializer[0], "raw_data", b"1"), "does not match its shape"),
        (lambda m: setattr(m.graph.node[0], "overload", "o"), "got aqd.integer.PadImage:o"),
        (lambda m: m.graph.input[0].type.tensor_type.ClearField("shape"), "image has no static shape"),
        (lambda m: setattr(m.graph.output[0].type.tensor_type, "elem_type", 2), "output t13 is declared"),
    ],
)  # fmt: skip
def test_graph_and_file(model, change, sentence):
    change(model)
    if sentence is None:
        plan_model(model)
    else:
        refused(model, sentence)


def test_declared_types_of_inner_tensors(model):
    info = helper.make_tensor_value_info("t8", TensorProto.INT32, [1, 4, 4, 3])
    model.graph.value_info.append(info)
    plan_model(model)
    model.graph.value_info[0].type.tensor_type.shape.dim[3].dim_value = 5
    refused(model, r"tensor t8 is declared with another shape than it has; got \[1, 4, 4, 5\]")


@pytest.mark.parametrize("index", [1, 2, 3])
def test_constants_have_one_shape(model, index):
    """[1, 1, 1, C] runs along the columns in onnxruntime."""
    name = node(model, "MultiplyShift").input[index]
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    set_constant(model, name, numpy_helper.to_array(tensor).reshape(1, 1, 1, 4))
    refused(
        model, r"constant [cBd] of MultiplyShift .* got u?int64 \[1, 1, 1, 4\]; valid: u?int64 \[1, 4, 1, 1\]"
    )


def wide_convolution(channels: int) -> onnx.ModelProto:
    """One accumulator that reaches channels·4·127·255."""
    w = ModelWriter()
    image = w.image("image", channels, 2, 2)
    w.output(w.conv(image, w.constant(np.full((1, channels, 2, 2), 127, np.int8))), [1, 1, 1, 1])
    return w.model()


def test_accumulators_that_leave_int32():
    plan_model(wide_convolution(2**14))
    refused(wide_convolution(2**15), r"node t0: channel 0 can reach \[0, 4244766720\]")


def test_channels_that_grow_without_end():
    """Every Concat doubles them; what is proven per channel would fill the memory."""
    w = ModelWriter()
    x = w.image("image", 1, 1, 1)
    for _ in range(40):
        x = w.concat(x, x)
    w.output(x, dtype=UINT8)
    refused(w.model(), r"Concat t16 is too large; got \[1, 131072, 1, 1\]")


def test_an_input_of_a_billion_channels():
    w = ModelWriter()
    w.output(w._standard("Cast", [w.image("image", 2**30, 1, 1)], to=TensorProto.INT32))
    refused(w.model(), "input image is too large")


@pytest.mark.parametrize("name", ["two\nlines", "a\0", "n" * 251, b"\xff\xfe"])
def test_names_are_printable_text(model, name):
    given = name if isinstance(name, bytes) else name.encode()
    model.graph.node[2].name = "#" * len(given)
    data = model.SerializeToString().replace(b"#" * len(given), given)
    refused(onnx.ModelProto.FromString(data), "a name in the file is not printable text")


@pytest.mark.parametrize(
    ("manifest", "sentence"),
    [
        ('{"a":' * 20000 + "1" + "}" * 20000, "isn't JSON: nested more than 64 levels deep"),
        ('{"a": ' + "9" * 5000 + "}", "isn't JSON: Exceeds the limit"),
        ('{"a": NaN}', "isn't JSON: NaN is not a JSON number"),
        ("[]", "isn't a JSON object; got list"),
        (json.dumps({"ranges": []}), "has no valid ranges; got []; valid: an object"),
        (json.dumps({"ranges": {"t8": {"lo": 0, "hi": 0.5}}}), "has no valid ranges.t8.hi; got 0.5"),
        (json.dumps({"ranges": {"t8": {"lo": 0, "hi": 0}}}), "a range that holds"),
        (json.dumps({"ranges": {"nowhere": {"lo": 0, "hi": 0}}}), "wrong at ranges.nowhere"),
        (json.dumps({"outputs": {"t14": "x"}}), "has no valid outputs.t14; got 'x'"),
        (json.dumps({"outputs": {"t14": {"lo": -(2**31), "hi": 2**31, "scale": [0]}}}), "outputs.t14.scale"),
        (json.dumps({"lowering": 3}), "has no valid lowering; got 3; valid: an object"),
    ],
)  # fmt: skip
def test_manifests(model, manifest, sentence):
    helper.set_model_props(model, {"aqd.manifest": manifest})
    refused(model, re.escape(sentence))


def test_any_printable_name_compiles(tmp_path):
    """Also those that the compiler and C have uses for."""
    model = every_operation()
    words = [
        "a b/c:0",
        "ü→",
        "\"quo'te",
        "%x",
        "weight0",
        "main",
        "{3,4}",
        "a\\b",
        "0",
        "return",
        "*/;",
        "(",
        "lv",
    ]
    computed = [*(value.name for value in model.graph.input), *(n.output[0] for n in model.graph.node)]
    names = {name: f"{words[i % len(words)]}{i or ''}" for i, name in enumerate(computed)}
    for inner in model.graph.node:
        inner.name = names[inner.output[0]]
        for side in (inner.input, inner.output):
            side[:] = [names.get(name, name) for name in side]
    for value in (*model.graph.input, *model.graph.output):
        value.name = names[value.name]
    compile_model(model, tmp_path / "m.so", threads=1)
    image = random_image(model)
    got, expected = Program.load(tmp_path / "m.so").run(image), reference(model, image)
    assert got.keys() == expected.keys()
    assert all(np.array_equal(got[name], expected[name]) for name in expected)


def test_two_names_of_one_tensor_are_two_outputs(tmp_path):
    """The copies of a stored stream, of a map in a stack, and of codes."""
    w = ModelWriter()
    maps = [w.image("large", 8, 6, 6), w.image("small", 8, 3, 3)]
    shared = w.weight(4, 8, 3)
    for x, size in zip(maps, (6, 3), strict=True):
        head = w.conv(x, shared, pads=[1, 1, 1, 1])
        w.output(head, [1, 4, size, size])
        w.output(w._standard("Identity", [w._standard("Identity", [head])]), [1, 4, size, size])
    codes = w.requantize(w.conv("small", w.weight(4, 8, 1)), 4)
    w.output(w._standard("Identity", [codes]), [1, 4, 3, 3], UINT8)
    model = w.model()
    compile_model(model, tmp_path / "m.so", threads=1)
    image = random_image(model)
    got, expected = Program.load(tmp_path / "m.so").run(image), reference(model, image)
    assert got.keys() == expected.keys()
    assert all(np.array_equal(got[name], expected[name]) for name in expected)


@pytest.mark.parametrize("values", [[0, 0, 0], [7, 130, 255]])
def test_a_padded_image_with_a_zero_point(values, tmp_path):
    w = ModelWriter()
    padded = w.pad_image(w.image("image", 3, 6, 5), values, 1)
    zero = w.constant(np.array(9, np.uint8))
    w.output(w._standard("ConvInteger", [padded, w.weight(4, 3, 3), zero]), [1, 4, 6, 5])
    model = w.model()
    compile_model(model, tmp_path / "m.so", threads=1)
    image = random_image(model)
    got, expected = Program.load(tmp_path / "m.so").run(image), reference(model, image)
    assert all(np.array_equal(got[name], expected[name]) for name in expected)


def test_onnx_has_two_names_for_its_domain(model):
    model.opset_import[0].domain = "ai.onnx"
    plan_model(model)


def test_constant_nodes_have_names_of_their_own_and_no_overload(model):
    constants = [helper.make_node("Constant", [], [f"c{i}"], "same", value_int=1) for i in range(2)]
    for proto in constants:
        proto.attribute[0].CopyFrom(helper.make_attribute("value", numpy_helper.from_array(np.int32([1]))))
    model.graph.node.insert(0, constants[0])
    plan_model(model)
    model.graph.node.insert(0, constants[1])
    refused(model, "two nodes have the name same")
    del model.graph.node[0]
    model.graph.node[0].overload = "zz"
    refused(model, "not of the integer dialect; got ai.onnx.Constant:zz")


def test_the_manifest_may_speak_of_another_name_of_a_tensor(model):
    first = model.graph.node[0]
    model.graph.node.insert(1, helper.make_node("Identity", [first.output[0]], ["other"]))
    wide = {"lo": -(1 << 31), "hi": (1 << 31) - 1}
    helper.set_model_props(model, {"aqd.manifest": json.dumps({"ranges": {"other": wide}})})
    plan_model(model)
    helper.set_model_props(model, {"aqd.manifest": json.dumps({"ranges": {"another": wide}})})
    refused(model, "ranges.another")


def test_rows_that_float32_cannot_count():
    w = ModelWriter(1)
    image = w.image("image", 1, 1, (1 << 23) + 64)
    w.output(w.cast(w.upsample(image, 3)))
    refused(w.model(), "makes too many rows or columns; got 3 x 25166016")


def test_windows_far_larger_than_their_tensor(model):
    pool = node(model, "MaxPool")
    set_attribute(model, "MaxPool", "kernel_shape", [(1 << 31) - 1, 1])
    set_attribute(model, "MaxPool", "pads", [(1 << 31) - 2, 0, 0, 0])
    refused(model, f"window of MaxPool {pool.name or pool.output[0]} is far larger than its tensor")
