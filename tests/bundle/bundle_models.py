"""The small network of the bundles' tests, and what onnxruntime computes of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from small_models import random_image, reference, tiny_network

from aqd_deploy.compiler import compile_model

MODEL = tiny_network({"name": "tiny", "schema": 1})


def tiny_program(target: str, path: Path, threads: int = 2) -> Path:
    """Compile the network for `target`."""
    return compile_model(MODEL, path, target=target, threads=threads, tuned="none").path


def case(seed: int = 0) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Inputs, and the outputs that they must give."""
    inputs = random_image(MODEL, seed)
    return inputs, reference(MODEL, inputs)


def assert_equal(got: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """Every integer, every dtype, every name in its order."""
    assert list(got) == list(expected)
    for name, value in expected.items():
        assert got[name].dtype == value.dtype
        np.testing.assert_array_equal(got[name], value, err_msg=name)
