"""Every way to change one thing in an integer ONNX model: its fields, constants, nodes and bodies."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import numpy as np
import onnx
from onnx import AttributeProto, NodeProto, TensorProto, helper, numpy_helper
from small_models import INT8, INT32, UINT8

Change = Callable[[onnx.ModelProto], None]

NUMBERS = (-(1 << 62), -(1 << 31), -1, 0, 1, 2, 7, 255, (1 << 31) - 1, 1 << 31, (1 << 63) - 1)
WORDS = (b"", b"nearest", b"linear", b"half_pixel", b"ceil", b"SAME_UPPER", b"VALID", b"\xff")
RENAMED = {
    "Add": "Sub",
    "Sub": "Add",
    "Mul": "Add",
    "Less": "LessOrEqual",
    "Greater": "GreaterOrEqual",
    "GreaterOrEqual": "Greater",
    "Max": "Min",
    "ConvInteger": "MatMulInteger",
    "Cast": "Identity",
    "Concat": "Add",
    "MaxPool": "LpPool",
    "Requantize": "MultiplyShift",
    "MultiplyShift": "Requantize",
    "SkipAdd": "Threshold",
}
FURTHER = {
    "MaxPool": [("ceil_mode", 1), ("storage_order", 1), ("dilations", [2, 2]), ("auto_pad", "VALID")],
    "ConvInteger": [("kernel_shape", [2, 2]), ("auto_pad", "SAME_UPPER"), ("auto_pad", "NOTSET")],
    "Resize": [("antialias", 1), ("axes", [2, 3]), ("extrapolation_value", 1.0)],
    "Cast": [("saturate", 0)],
}


def changed(model: onnx.ModelProto, change: Change) -> onnx.ModelProto:
    """A copy of `model` with one thing changed."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    change(copy)
    return copy


def changes(model: onnx.ModelProto) -> Iterator[tuple[str, Change]]:
    """What can be changed in `model`, and how."""
    for i, node in enumerate(model.graph.node):
        for label, change in _node_changes(model, node):
            yield f"node {i} {node.op_type}: {label}", _on_node(i, change)
    for i, tensor in enumerate(model.graph.initializer):
        for label, change in _tensor_changes(tensor):
            yield f"initializer {tensor.name}: {label}", _on_initializer(i, change)
    for i, function in enumerate(model.functions):
        for label, change in _function_changes(function):
            yield f"function {function.name}: {label}", _on_function(i, change)
    yield from _graph_changes(model)
    yield from _file_changes(model)
    yield from _manifest_changes(model)


def _on_node(index: int, change: Callable[[NodeProto], None]) -> Change:
    return lambda model: change(model.graph.node[index])


def _on_initializer(index: int, change: Callable[[TensorProto], None]) -> Change:
    return lambda model: change(model.graph.initializer[index])


def _on_function(index: int, change: Callable[[onnx.FunctionProto], None]) -> Change:
    return lambda model: change(model.functions[index])


def _node_changes(model: onnx.ModelProto, node: NodeProto) -> Iterator[tuple[str, Callable]]:
    yield from _call_changes(node)
    yield "same name as another", lambda n: setattr(n, "name", model.graph.node[0].name)
    yield "no name", lambda n: n.ClearField("name")
    yield "overload", lambda n: setattr(n, "overload", "other")
    others = [model.graph.input[0].name, model.graph.node[-1].output[0], model.graph.initializer[0].name]
    others += [model.graph.node[3].output[0], model.graph.initializer[-1].name]
    for i in range(len(node.input)):
        for other in (*others, "nowhere"):
            yield f"input {i} is {other}", lambda n, i=i, o=other: n.input.__setitem__(i, o)
    for other in (others[0], others[1], others[2], "", "a:nchw", "name of\nanother kind"):
        yield f"output is {other!r}", lambda n, o=other: n.output.__setitem__(0, o)


def _call_changes(node: NodeProto) -> Iterator[tuple[str, Callable]]:
    """Changes of a node wherever it stands."""
    yield "operation", lambda n: setattr(n, "op_type", RENAMED.get(n.op_type, "Neg"))
    yield "domain", lambda n: setattr(n, "domain", "com.example" if n.domain else "aqd.integer")
    yield "a second output", lambda n: n.output.append("second")
    yield "an input more", lambda n: n.input.append(n.input[0] if n.input else "more")
    yield "an empty input more", lambda n: n.input.append("")
    yield "an unknown attribute", lambda n: n.attribute.append(helper.make_attribute("bogus", 1))
    if len(node.input) > 1:
        yield "inputs swapped", lambda n: _set_inputs(n, [n.input[1], n.input[0], *n.input[2:]])
        yield "inputs rotated", lambda n: _set_inputs(n, [*n.input[1:], n.input[0]])
    for i in range(len(node.input)):
        yield f"input {i} left out", lambda n, i=i: n.input.__setitem__(i, "")
        yield f"input {i} gone", lambda n, i=i: n.input.pop(i)
    for i, attribute in enumerate(node.attribute):
        for label, change in _attribute_changes(attribute):
            yield f"{attribute.name} {label}", lambda n, i=i, c=change: c(n.attribute[i])
        yield f"{attribute.name} gone", lambda n, i=i: n.attribute.pop(i)
        yield f"{attribute.name} twice", lambda n, i=i: n.attribute.append(n.attribute[i])
    for name, value in FURTHER.get(node.op_type, ()):
        added = helper.make_attribute(name, value)
        yield f"{name} {value}", lambda n, a=added: n.attribute.append(a)


def _set_inputs(node: NodeProto, names: list[str]) -> None:
    del node.input[:]
    node.input.extend(names)


def _attribute_changes(attribute: AttributeProto) -> Iterator[tuple[str, Callable]]:
    yield "renamed", lambda a: setattr(a, "name", "bogus")
    yield "of another type", lambda a: a.CopyFrom(helper.make_attribute(a.name, 1.5))
    yield "a word", lambda a: a.CopyFrom(helper.make_attribute(a.name, "word"))
    yield "a reference", lambda a: setattr(a, "ref_attr_name", "lo")
    if attribute.type == AttributeProto.INT:
        for number in (*NUMBERS, TensorProto.FLOAT, TensorProto.INT8, TensorProto.INT64):
            yield f"= {number}", lambda a, v=number: setattr(a, "i", v)
    if attribute.type == AttributeProto.INTS:
        if attribute.ints:
            yield "shorter", lambda a: a.ints.pop()
        yield "longer", lambda a: a.ints.append(1)
        yield "empty", lambda a: a.ClearField("ints")
        for i in range(len(attribute.ints)):
            for number in (-1, 0, 1, 2, 3, 1 << 31):
                yield f"[{i}] = {number}", lambda a, i=i, v=number: a.ints.__setitem__(i, v)
    if attribute.type == AttributeProto.STRING:
        for word in WORDS:
            yield f"= {word!r}", lambda a, v=word: setattr(a, "s", v)
    if attribute.type == AttributeProto.TENSOR:
        for label, change in _tensor_changes(attribute.t):
            yield label, lambda a, c=change: c(a.t)


def _tensor_changes(tensor: TensorProto) -> Iterator[tuple[str, Callable]]:
    array = numpy_helper.to_array(tensor)
    for dtype in (np.uint8, np.int8, np.int32, np.int64, np.uint64, np.float32, np.float64):
        if array.dtype != dtype:
            yield f"as {np.dtype(dtype)}", _replace(array.astype(dtype))
    for shape in ([-1], [1, 1, 1, -1], [1, -1], [-1, 1, 1], [1, *array.shape], [*array.shape, 1]):
        yield f"shaped {shape}", _replace(array.reshape(shape))
    yield "only one value", _replace(array.reshape(-1)[:1].reshape([1] * array.ndim))
    yield "empty", _replace(array[..., :0] if array.ndim else np.zeros(0, array.dtype))
    limits = np.iinfo(array.dtype) if array.dtype.kind in "iu" else np.finfo(array.dtype)
    for number in (*NUMBERS, 62, 63, 64, int(limits.min), int(limits.max)):
        if limits.min <= number <= limits.max and array.size:
            for at in {0, array.size - 1}:
                changed = array.copy()
                changed.reshape(-1)[at] = number
                yield f"[{at}] = {number}", _replace(changed)
    yield "bytes missing", lambda t: setattr(t, "raw_data", t.raw_data[:-1])
    yield "bytes too many", lambda t: setattr(t, "raw_data", t.raw_data + b"\0")
    yield "type 99", lambda t: setattr(t, "data_type", 99)
    yield "strings", lambda t: t.CopyFrom(helper.make_tensor(t.name, TensorProto.STRING, [1], [b"x"]))
    yield "external", lambda t: setattr(t, "data_location", TensorProto.EXTERNAL)


def _replace(array: np.ndarray) -> Callable[[TensorProto], None]:
    array = np.ascontiguousarray(array).reshape(array.shape)
    return lambda tensor: tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def _function_changes(function: onnx.FunctionProto) -> Iterator[tuple[str, Callable]]:
    for i, node in enumerate(function.node):
        for label, change in _call_changes(node):
            yield f"body node {i} {node.op_type}: {label}", lambda f, i=i, c=change: c(f.node[i])
        yield f"body node {i} {node.op_type} gone", lambda f, i=i: f.node.pop(i)
    yield "name", lambda f: setattr(f, "name", f.name + "2")
    yield "domain", lambda f: setattr(f, "domain", "com.example")
    yield "overload", lambda f: setattr(f, "overload", "other")
    yield "opset", lambda f: setattr(f.opset_import[0], "version", 20)
    yield "an opset more", lambda f: f.opset_import.append(helper.make_opsetid("com.example", 1))
    yield "no opset", lambda f: f.ClearField("opset_import")
    yield "output", lambda f: f.output.__setitem__(0, f.node[0].output[0])
    yield "an input more", lambda f: f.input.append("more")
    yield "inputs reversed", lambda f: _reverse(f.input)
    yield "an attribute more", lambda f: f.attribute.append("more")
    yield "a default more", lambda f: f.attribute_proto.append(helper.make_attribute("more", 1))
    yield "no nodes", lambda f: f.ClearField("node")


def _reverse(names: object) -> None:
    copy = list(names)[::-1]
    del names[:]
    names.extend(copy)


def _graph_changes(model: onnx.ModelProto) -> Iterator[tuple[str, Change]]:
    first, output = model.graph.input[0], model.graph.output[0]
    for name, dtype in (("s8", INT8), ("s32", INT32), ("float", TensorProto.FLOAT), ("none", 0)):
        yield f"input {name}", _declare("input", first.name, dtype, _dims(first))
        yield f"output {name}", _declare("output", output.name, dtype, _dims(output))
    for shape in ([1, 3, 0, 8], [2, 3, 9, 8], [1, 3, "h", 8], [1, 3, 9], [1, 4, 9, 8], [1, 3, -1, 8], []):
        yield f"input {shape}", _declare("input", first.name, UINT8, shape)
        yield f"output {shape}", _declare("output", output.name, INT32, shape)
    for name in (first.name, model.graph.initializer[0].name, "nowhere", "", model.graph.output[1].name):
        yield f"output called {name!r}", lambda m, n=name: setattr(m.graph.output[0], "name", n)
        yield f"input called {name!r}", lambda m, n=name: setattr(m.graph.input[0], "name", n)
    yield "an output twice", lambda m: m.graph.output.append(m.graph.output[0])
    yield "an input twice", lambda m: m.graph.input.append(m.graph.input[0])
    yield "an initializer twice", lambda m: m.graph.initializer.append(m.graph.initializer[0])
    yield "a node twice", lambda m: m.graph.node.append(m.graph.node[0])
    yield (
        "an input more",
        lambda m: m.graph.input.append(helper.make_tensor_value_info("more", UINT8, [1, 1, 2, 2])),
    )
    yield (
        "an initializer as input",
        lambda m: m.graph.input.append(
            helper.make_tensor_value_info(m.graph.initializer[0].name, INT32, None)
        ),
    )
    yield "no outputs", lambda m: m.graph.ClearField("output")
    yield "no inputs", lambda m: m.graph.ClearField("input")
    yield "no nodes", lambda m: m.graph.ClearField("node")
    yield "nodes reversed", lambda m: _reverse(m.graph.node)
    yield "no name", lambda m: m.graph.ClearField("name")
    for dtype, shape in ((INT32, [1, 4, 4, 3]), (UINT8, [1, 4, 4, 3]), (INT32, [1, 4, 3, 4])):
        info = helper.make_tensor_value_info(model.graph.node[10].output[0], dtype, shape)
        yield f"value_info {dtype} {shape}", lambda m, v=info: m.graph.value_info.append(v)
    unknown = helper.make_tensor_value_info("nowhere", INT32, [1])
    yield "value_info of nothing", lambda m: m.graph.value_info.append(unknown)
    for i in range(len(model.graph.node)):
        yield f"node {i} gone", lambda m, i=i: m.graph.node.pop(i)
    for i in range(len(model.graph.initializer)):
        yield f"initializer {i} gone", lambda m, i=i: m.graph.initializer.pop(i)
    unused = numpy_helper.from_array(np.arange(3), "unused")
    yield "an unused initializer", lambda m: m.graph.initializer.append(unused)
    sparse = helper.make_sparse_tensor(
        numpy_helper.from_array(np.ones(1, np.float32), "s"),
        numpy_helper.from_array(np.zeros(1, np.int64)),
        [3],
    )
    yield "a sparse initializer", lambda m: m.graph.sparse_initializer.append(sparse)
    annotation = onnx.TensorAnnotation(tensor_name=first.name)
    yield "a quantization annotation", lambda m: m.graph.quantization_annotation.append(annotation)
    yield "a subgraph", lambda m: m.graph.node[1].attribute.append(helper.make_attribute("body", m.graph))


def _dims(value: onnx.ValueInfoProto) -> list[int]:
    return [d.dim_value for d in value.type.tensor_type.shape.dim]


def _declare(where: str, name: str, dtype: int, shape: list) -> Change:
    info = helper.make_tensor_value_info(name, dtype, shape)
    return lambda model: getattr(model.graph, where)[0].CopyFrom(info)


def _file_changes(model: onnx.ModelProto) -> Iterator[tuple[str, Change]]:
    for version in (0, 3, 9, 11, 99):
        yield f"IR version {version}", lambda m, v=version: setattr(m, "ir_version", v)
    for i, entry in enumerate(model.opset_import):
        for version in (0, 1, 2, 13, 20, 22, 999):
            if version != entry.version:
                yield (
                    f"opset {entry.domain or 'ai.onnx'} {version}",
                    lambda m, i=i, v=version: setattr(m.opset_import[i], "version", v),
                )
        yield f"opset {entry.domain} gone", lambda m, i=i: m.opset_import.pop(i)
        yield f"opset {entry.domain} twice", lambda m, i=i: m.opset_import.append(m.opset_import[i])
    yield "a domain more", lambda m: m.opset_import.append(helper.make_opsetid("com.example", 1))
    for i, function in enumerate(model.functions):
        yield f"function {function.name} gone", lambda m, i=i: m.functions.pop(i)
        yield f"function {function.name} twice", lambda m, i=i: m.functions.append(m.functions[i])
    stranger = helper.make_function("com.example", "F", ["x"], ["y"], [helper.make_node("Neg", ["x"], ["y"])],
                                    [helper.make_opsetid("", 21)])  # fmt: skip
    yield "a function of another domain", lambda m: m.functions.append(stranger)
    yield "training", lambda m: m.training_info.append(onnx.TrainingInfoProto())


def _manifest_changes(model: onnx.ModelProto) -> Iterator[tuple[str, Change]]:
    output = model.graph.output[0].name
    wide = {"lo": -(2**31), "hi": 2**31}
    texts = {
        "not JSON": "{",
        "a list": "[]",
        "deep": '{"a":' * 20000 + "1" + "}" * 20000,
        "NaN": '{"a": NaN}',
        "a long number": '{"a": ' + "9" * 5000 + "}",
        "ranges a list": json.dumps({"ranges": []}),
        "ranges of nothing": json.dumps({"ranges": {"nowhere": {"lo": 0, "hi": 1}}}),
        "ranges of words": json.dumps({"ranges": {output: {"lo": "0", "hi": 1}}}),
        "ranges of fractions": json.dumps({"ranges": {output: {"lo": 0.5, "hi": 1}}}),
        "ranges too narrow": json.dumps({"ranges": {output: {"lo": 0, "hi": 1}}}),
        "outputs of nothing": json.dumps({"outputs": {"nowhere": {"lo": 0, "hi": 1, "scale": [1.0]}}}),
        "outputs a number": json.dumps({"outputs": {output: 3}}),
        "scale negative": json.dumps({"outputs": {output: {**wide, "scale": [-1.0]}}}),
        "scale of words": json.dumps({"outputs": {output: {**wide, "scale": ["a"]}}}),
        "too many scales": json.dumps({"outputs": {output: {**wide, "scale": [1.0] * 3}}}),
        "lowering a word": json.dumps({"lowering": "exact"}),
    }
    for label, text in texts.items():
        yield f"manifest {label}", lambda m, t=text: helper.set_model_props(m, {"aqd.manifest": t})
    yield (
        "manifest twice",
        lambda m: m.metadata_props.append(onnx.StringStringEntryProto(key="aqd.manifest", value="{}")),
    )
