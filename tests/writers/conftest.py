"""Files of every writer, written once for all tests of a session."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import networks
import onnx
import pytest
from needs import need_packages
from writers import WRITERS


@pytest.fixture(scope="session", params=sorted(WRITERS))
def writer(request: pytest.FixtureRequest) -> str:
    """A writer's name. Tests of one writer run in one process."""
    need_packages(*WRITERS[request.param].packages)
    return request.param


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the processes of a session share."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "written"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def written(writer: str, files: Path) -> Callable[[str], onnx.ModelProto]:
    """The file that the writer makes of a network, by the network's name."""

    def load(name: str) -> onnx.ModelProto:
        path = files / f"{writer}-{name}.onnx"
        if not path.exists():
            made = path.with_suffix(f".{os.getpid()}")
            onnx.save(WRITERS[writer].write(name, networks.images()), made)
            made.replace(path)
        return onnx.load(path)

    return load
