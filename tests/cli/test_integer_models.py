"""Every verb that reads integer ONNX reads it by one door."""

import numpy as np
import onnx
import pytest
from onnx import helper

from aqd_deploy.cli.main import invoke
from aqd_deploy.integer import dialect
from aqd_deploy.integer.files import save_onnx


@pytest.fixture
def broken(tmp_path):
    """An integer file whose ConvOdd subtracts where the dialect's adds."""
    shape = [1, 2, 4, 4]
    constants = {"w": np.ones((2, 2, 1, 1), np.int8), "ones": np.ones((1, 2, 1, 1), np.int8)}
    model = dialect.make_model(
        [dialect.node("ConvOdd", ["image", "w", "ones"], "y")],
        [helper.make_tensor_value_info("image", onnx.TensorProto.UINT8, shape)],
        [helper.make_tensor_value_info("y", onnx.TensorProto.INT32, shape)],
        [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model.functions[0].node[-1].op_type = "Sub"
    save_onnx(model, tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


@pytest.mark.parametrize(
    "arguments",
    [
        ["compile", "{}", "-o", "{}.so"],
        ["tune", "{}", "--dry-run"],
        ["tune", "{}", "--budget", "1s", "--records", "{}.records"],
        ["bench", "{}", "--estimate", "raspberrypi-4"],
        ["inspect", "{}"],
    ],
)
def test_a_changed_body_is_refused_by_every_verb(broken, arguments, capsys):
    assert invoke([argument.format(broken) for argument in arguments]) == 1
    sentence = capsys.readouterr().err.splitlines()[-1]
    assert "the function aqd.integer.ConvOdd is not the dialect's; got another body" in sentence
    assert sorted(path.name for path in broken.parent.iterdir()) == ["m.onnx"]
