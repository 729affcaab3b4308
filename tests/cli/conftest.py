"""A small QDQ file, its integer file, and a way to call the command line and check how it failed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from aqd_deploy.cli.main import invoke


@pytest.fixture(scope="session")
def qdq() -> onnx.ModelProto:
    """A tiny FCOS detector with random weights, 64 x 64, 4 bits."""
    torch = pytest.importorskip("torch")
    # On networks this small torch's threads only wait for each other.
    torch.set_num_threads(1)
    from aqd_deploy.frontends.random_network import random_detector
    from aqd_deploy.frontends.torch_qdq import export_qdq
    from aqd_deploy.qat.config import parse_architecture

    config = parse_architecture(
        "fcos_r18",
        bits=4,
        width=0.125,
        fpn_channels=16,
        head_depth=1,
        classes=3,
        image_height=64,
        image_width=64,
    )
    return export_qdq(random_detector(config))


@pytest.fixture
def qdq_copy(qdq) -> onnx.ModelProto:
    """The QDQ model to change at will."""
    copy = onnx.ModelProto()
    copy.CopyFrom(qdq)
    return copy


@pytest.fixture(scope="session")
def integer(qdq) -> onnx.ModelProto:
    """The integer model of `qdq`."""
    from aqd_deploy.passes.pipeline import lower

    return lower(qdq).model


@pytest.fixture
def integer_file(integer, tmp_path) -> Path:
    """The integer model of `qdq` as a file."""
    path = tmp_path / "m.int.onnx"
    onnx.save(integer, path)
    return path


@pytest.fixture
def fails(capsys, tmp_path) -> Callable[..., str]:
    """Call the command line; it must exit with 1 and one sentence, print no data and leave no file behind."""

    def call(*arguments: object) -> str:
        before = sorted(tmp_path.rglob("*"))
        code = invoke([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert code == 1, captured.err
        assert captured.out == ""
        assert "Traceback" not in captured.err
        *_, last = captured.err.strip().splitlines()
        assert last.startswith("error: ")
        assert captured.err.count("error: ") == 1
        assert sorted(tmp_path.rglob("*")) == before
        return last.removeprefix("error: ")

    return call
