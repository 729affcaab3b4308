"""Programs compiled once a session."""

import pytest
from small_models import tiny_network

from aqd_deploy.compiler import compile_model


@pytest.fixture(scope="session")
def tiny_program(tmp_path_factory):
    """(report, model) of the tiny network, compiled with the portable kernels."""
    model = tiny_network({"name": "tiny", "schema": 1})
    path = tmp_path_factory.mktemp("tiny") / "tiny.so"
    return compile_model(model, path, target="x86-64-v2", threads=2), model


@pytest.fixture(autouse=True)
def as_compiled(threads_as_compiled: None) -> None:
    """For all tests of this folder."""
