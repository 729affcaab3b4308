"""Programs compiled once a session."""

import pytest
from small_programs import Compiled, compile_small, compile_tiny


@pytest.fixture(scope="session")
def small_pair(tmp_path_factory) -> tuple[Compiled, Compiled]:
    """Two programs of one shape, with other weights."""
    folder = tmp_path_factory.mktemp("small")
    first, second = (compile_small(folder / f"{seed}.so", seed) for seed in (1, 2))
    assert any((first.outputs[name] != second.outputs[name]).any() for name in first.outputs)
    return first, second


@pytest.fixture(scope="session")
def tiny_pair(tmp_path_factory) -> tuple[Compiled, Compiled]:
    """The tiny network for one thread and for two."""
    folder = tmp_path_factory.mktemp("tiny")
    one, two = (compile_tiny(folder / f"tiny{threads}.so", threads) for threads in (1, 2))
    return one, two
