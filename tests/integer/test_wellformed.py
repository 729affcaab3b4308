"""ONNX files whose parts are not what they say: each is refused when it is loaded, with the part's name."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from aqd_deploy.errors import ModelFileError
from aqd_deploy.integer.files import load_onnx


def small_model() -> onnx.ModelProto:
    """y = x + c."""
    value = numpy_helper.from_array(np.arange(4, dtype=np.float32), "c")
    node = helper.make_node("Add", ["x", "c"], ["y"], name="add")
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in "xy")
    graph = helper.make_graph([node], "small", [x], [y], [value])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def loaded(model: onnx.ModelProto, tmp_path) -> onnx.ModelProto:
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    return load_onnx(path)


def set_tensor(tensor: TensorProto, **fields: object) -> None:
    tensor.Clear()
    tensor.name = "c"
    for name, value in fields.items():
        if isinstance(value, list):
            getattr(tensor, name).extend(value)
        else:
            setattr(tensor, name, value)


FLOAT, INT8, INT4 = TensorProto.FLOAT, TensorProto.INT8, TensorProto.INT4
BAD_TENSORS = [
    ({"data_type": FLOAT, "dims": [4], "raw_data": b"\0" * 15}, "15 bytes; valid: 16 bytes"),
    ({"data_type": FLOAT, "dims": [4], "raw_data": b"\0" * 17}, "17 bytes; valid: 16 bytes"),
    ({"data_type": FLOAT, "dims": [10**7, 10**7]}, "0 bytes; valid: 4"),
    ({"data_type": FLOAT, "dims": [-1, -4], "raw_data": b"\0" * 16}, "negative dimension"),
    ({"data_type": FLOAT, "dims": [4], "float_data": [1.0] * 3}, "3 values; valid: 4 values"),
    ({"data_type": FLOAT, "dims": [4], "int32_data": [1] * 4}, "in int32_data; valid: data in float_data"),
    ({"data_type": FLOAT, "dims": [4], "float_data": [1.0] * 4, "raw_data": b"\0" * 16}, "several places"),
    ({"data_type": INT8, "dims": [2], "int32_data": [1, 128]}, "beyond its type; valid: -128 to 127"),
    ({"data_type": INT4, "dims": [3], "raw_data": b"\0"}, "1 bytes; valid: 2 bytes"),
    ({"data_type": 0, "dims": [4], "raw_data": b"\0" * 16}, "type 0"),
    ({"data_type": 77, "dims": [4], "raw_data": b"\0" * 16}, "type 77"),
    ({"data_type": TensorProto.STRING, "dims": [1], "raw_data": b"abc"}, "3 bytes"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "message"), BAD_TENSORS, ids=[message for _, message in BAD_TENSORS])
@pytest.mark.parametrize("where", ["initializer", "attribute", "function", "subgraph", "sparse"])
def test_tensors_that_are_not_what_they_say(tmp_path, fields, message, where):
    model = small_model()
    holder = onnx.NodeProto(op_type="Constant", output=["k"])
    attribute = holder.attribute.add(name="value", type=AttributeProto.TENSOR)
    match where:
        case "initializer":
            set_tensor(model.graph.initializer[0], **fields)
        case "attribute":
            set_tensor(attribute.t, **fields)
            model.graph.node.append(holder)
        case "function":
            set_tensor(attribute.t, **fields)
            model.functions.add(name="f", domain="d").node.append(holder)
        case "subgraph":
            set_tensor(attribute.t, **fields)
            branch = model.graph.node[0].attribute.add(name="body", type=AttributeProto.GRAPH)
            branch.g.node.append(holder)
        case "sparse":
            sparse = model.graph.sparse_initializer.add()
            set_tensor(sparse.values, **fields)
            set_tensor(sparse.indices, data_type=TensorProto.INT64, dims=[0])
            sparse.values.name = "s"
    with pytest.raises(ModelFileError, match=rf"m\.onnx: the tensor .* is damaged; got .*{message}"):
        loaded(model, tmp_path)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(4, dtype=np.float32),
        np.array(2.5),
        np.zeros((0, 3), np.int8),
        np.array([True]),
        np.array([1j]),
    ],
    ids=lambda array: str(array.dtype),
)
def test_sound_tensors_pass_in_either_form(tmp_path, array):
    model = small_model()
    for tensor in (
        numpy_helper.from_array(array, "c"),
        helper.make_tensor("c", helper.np_dtype_to_tensor_dtype(array.dtype), array.shape, array.flatten()),
    ):
        model.graph.initializer[0].CopyFrom(tensor)
        assert np.array_equal(numpy_helper.to_array(loaded(model, tmp_path).graph.initializer[0]), array)


def test_four_bit_tensors_pass(tmp_path):
    model = small_model()
    tensor = helper.make_tensor("c", INT4, [3], [1, -2, 7])
    model.graph.initializer[0].CopyFrom(tensor)
    assert numpy_helper.to_array(loaded(model, tmp_path).graph.initializer[0]).astype(int).tolist() == [
        1,
        -2,
        7,
    ]


def add_input(model):
    model.graph.input.append(model.graph.input[0])


def bad_attribute(kind, **fields):
    def change(model):
        model.graph.node[0].attribute.add(name="axis", type=kind, **fields)

    return change


CHANGES = [
    (lambda m: m.graph.ClearField("output"), "the model has no outputs"),
    (lambda m: m.graph.ClearField("input"), "nothing in the file makes the tensor x"),
    (lambda m: m.graph.node[0].ClearField("output"), "the node add has no output"),
    (lambda m: m.graph.node[0].ClearField("op_type"), "the node add has no operator"),
    (lambda m: setattr(m.graph.output[0], "name", "z"), "nothing in the file makes the output z"),
    (lambda m: m.graph.node.append(m.graph.node[0]), "the tensor y is defined twice"),
    (lambda m: m.graph.initializer.append(m.graph.initializer[0]), "the tensor c is defined twice"),
    (lambda m: m.graph.node[0].output.__setitem__(0, "x"), "the tensor x is defined twice"),
    (lambda m: m.graph.output.append(m.graph.output[0]), "the output y is named twice"),
    (lambda m: setattr(m.graph.initializer[0], "name", ""), "has no name"),
    (add_input, "the tensor x is defined twice"),
    (lambda m: m.graph.node[0].CopyFrom(helper.make_node("Concat", ["x", "c"], ["y"], "add", axis=[1])),
     "axis of the node add is of another type.*valid: int"),
    (lambda m: m.graph.node[0].CopyFrom(helper.make_node("Resize", ["x", "c"], ["y"], "add", mode=b"\xff")),
     "mode of the node add is not UTF-8"),
    (bad_attribute(0), "attribute axis of the node add has no type"),
    (bad_attribute(AttributeProto.TENSOR), "attribute axis of the node add is damaged.*tensor"),
    (bad_attribute(AttributeProto.INT, f=1.0), "attribute axis of the node add is damaged.*int"),
    (lambda m: m.graph.node[0].attribute.extend(helper.make_attribute("a", k) for k in (1, 2)),
    "two attributes a"),
    (lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", 99),
    "x is of an unknown type; got 99"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), CHANGES, ids=[message for _, message in CHANGES])
def test_names_and_attributes(tmp_path, change, message):
    model = small_model()
    change(model)
    with pytest.raises(ModelFileError, match=rf"m\.onnx: .*{message}"):
        loaded(model, tmp_path)


def test_zeros_that_a_writer_left_out(tmp_path):
    model = small_model()
    attribute = model.graph.node[0].attribute.add()
    attribute.name, attribute.type = "zero", onnx.AttributeProto.INT
    loaded(model, tmp_path)
    attribute.f = 1.0
    with pytest.raises(ModelFileError, match="no value of its type"):
        loaded(model, tmp_path)


@pytest.mark.parametrize("name", [b"add", b"small", b"Add"])
def test_names_that_are_not_utf8(tmp_path, name):
    path = tmp_path / "m.onnx"
    path.write_bytes(small_model().SerializeToString().replace(name, b"\xff" * len(name)))
    with pytest.raises(ModelFileError, match="not UTF-8"):
        load_onnx(path)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"offset": "-1"}, "impossible offset"),
        ({"offset": "x"}, "impossible offset"),
        ({"offset": "٣"}, "impossible offset"),
        ({"offset": "9" * 30}, "impossible offset"),
        ({"length": "1e1"}, "impossible length"),
        ({"length": "15"}, "not as much"),
        ({"offset": "8"}, "too short for c"),
        ({"offset": "9223372036854775807"}, "too short for c"),
        ({"location": ""}, "no location"),
        ({"location": "."}, "a folder is no external data file"),
        ({"location": "a\0b"}, "impossible location"),
        ({"location": "pipe"}, "a pipe is no external data file"),
        ({"location": "none"}, "none is missing"),
    ],
    ids=lambda value: str(value),
)
def test_external_data_of_nonsense(tmp_path, entries, message):
    import os

    (tmp_path / "w.bin").write_bytes(bytes(16))
    os.mkfifo(tmp_path / "pipe")
    model = small_model()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": "w.bin", **entries}.items():
        tensor.external_data.add(key=key, value=value)
    with pytest.raises(ModelFileError, match=message):
        loaded(model, tmp_path)


def test_external_data_without_offset_and_length(tmp_path):
    (tmp_path / "w.bin").write_bytes(np.arange(8, dtype=np.float32).tobytes())
    model = small_model()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="w.bin")
    assert numpy_helper.to_array(loaded(model, tmp_path).graph.initializer[0]).tolist() == [0, 1, 2, 3]


def test_a_manifest_that_is_nested_too_deep(tmp_path):
    from aqd_deploy.integer.manifest import read_manifest

    model = small_model()
    helper.set_model_props(model, {"aqd.manifest": "[" * 100_000})
    with pytest.raises(ModelFileError, match="isn't JSON: nested more than"):
        read_manifest(loaded(model, tmp_path))
    helper.set_model_props(model, {"aqd.manifest": '{"outputs": {"y": {"scale": [1, "x"]}}}'})
    with pytest.raises(
        ModelFileError, match=r"no valid outputs\.y\.scale\[1\]; got 'x'; valid: a finite number"
    ):
        read_manifest(loaded(model, tmp_path))
