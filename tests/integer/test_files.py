"""ONNX files that are wrong in every way the loader knows, and writing that leaves nothing behind."""

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from aqd_deploy.errors import ModelFileError
from aqd_deploy.integer import files
from aqd_deploy.integer.files import load_onnx, save_onnx


def small_model(values=None):
    """y = x + constant."""
    constant = numpy_helper.from_array(np.arange(4, dtype=np.float32) if values is None else values, "c")
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "c"], ["y"])],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])],
        [constant],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def external_model(folder, location, length=16):
    """A model file whose constant says that it lies at `location`."""
    model = small_model()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def test_round_trip(tmp_path):
    path = tmp_path / "m.onnx"
    save_onnx(small_model(), path)
    assert load_onnx(path) == small_model()
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


def test_missing_file(tmp_path):
    with pytest.raises(ModelFileError, match="no such ONNX file"):
        load_onnx(tmp_path / "absent.onnx")


def test_folder_instead_of_a_file(tmp_path):
    with pytest.raises(ModelFileError, match="a folder is no ONNX file"):
        load_onnx(tmp_path)


@pytest.mark.parametrize("keep", [0, 1, 10, 60, -1])
def test_truncated_file(tmp_path, keep):
    path = tmp_path / "m.onnx"
    path.write_bytes(small_model().SerializeToString()[:keep])
    with pytest.raises(ModelFileError, match=r"truncated|isn't an ONNX model"):
        load_onnx(path)


@pytest.mark.parametrize("content", [b"PK\x03\x04 a zip file", b"hello, this is text\n" * 10, b"\x00" * 64])
def test_not_onnx(tmp_path, content):
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match="isn't an ONNX"):
        load_onnx(path)


def test_larger_than_two_gigabytes(tmp_path):
    """A sparse file: its size is refused before a byte is read."""
    path = tmp_path / "m.onnx"
    with path.open("wb") as file:
        file.truncate(files.MAX_BYTES + 1)
    with pytest.raises(ModelFileError, match=r"too large.*2 GB"):
        load_onnx(path)


def test_external_data_is_loaded_from_the_models_folder(tmp_path):
    path = external_model(tmp_path, "weights.bin")
    (tmp_path / "weights.bin").write_bytes(np.arange(4, dtype=np.float32).tobytes())
    assert numpy_helper.to_array(load_onnx(path).graph.initializer[0]).tolist() == [0, 1, 2, 3]


def test_external_data_missing(tmp_path):
    with pytest.raises(ModelFileError, match="is missing"):
        load_onnx(external_model(tmp_path, "weights.bin"))


def test_external_data_too_short(tmp_path):
    path = external_model(tmp_path, "weights.bin", length=16)
    (tmp_path / "weights.bin").write_bytes(b"123")
    with pytest.raises(ModelFileError, match="too short"):
        load_onnx(path)


@pytest.mark.parametrize("location", ["../secret.bin", "a/../../secret.bin", "ABSOLUTE"])
def test_external_data_outside_the_folder(tmp_path, location):
    (tmp_path / "secret.bin").write_bytes(b"0" * 16)
    folder = tmp_path / "model"
    (folder / "a").mkdir(parents=True)
    where = str(tmp_path / "secret.bin") if location == "ABSOLUTE" else location
    with pytest.raises(ModelFileError, match="outside"):
        load_onnx(external_model(folder, where))


def test_external_data_through_a_symbolic_link(tmp_path):
    (tmp_path / "secret.bin").write_bytes(b"0" * 16)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights.bin").symlink_to(tmp_path / "secret.bin")
    with pytest.raises(ModelFileError, match="outside"):
        load_onnx(external_model(folder, "weights.bin"))


def test_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "m.onnx"
    path.write_bytes(b"old")

    def no_space(_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(files.os, "fsync", no_space)
    with pytest.raises(ModelFileError, match="No space left"):
        save_onnx(small_model(), path)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


def test_the_folder_is_made(tmp_path):
    save_onnx(small_model(), tmp_path / "absent" / "m.onnx")
    assert load_onnx(tmp_path / "absent" / "m.onnx") == small_model()


def test_a_folder_that_cannot_be_made():
    with pytest.raises(ModelFileError, match=r"cannot write /dev/null/m\.onnx; got .*Not a directory"):
        save_onnx(small_model(), Path("/dev/null/m.onnx"))


def test_model_over_two_gigabytes_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_BYTES", 50)
    with pytest.raises(ModelFileError, match="2 GB"):
        save_onnx(small_model(), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_loaded_model_is_valid(tmp_path):
    path = tmp_path / "m.onnx"
    save_onnx(small_model(), path)
    onnx.checker.check_model(load_onnx(path))
