"""Programs compiled once a session."""

import pytest
from small_programs import Compiled, compile_parallel, compile_small


@pytest.fixture(scope="session")
def small_pair(tmp_path_factory) -> tuple[Compiled, Compiled]:
    """Two programs of one shape, with other weights."""
    folder = tmp_path_factory.mktemp("small")
    first, second = (compile_small(folder / f"{seed}.so", seed) for seed in (1, 2))
    assert any((first.outputs[name] != second.outputs[name]).any() for name in first.outputs)
    return first, second


@pytest.fixture(scope="session")
def parallel_pair(tmp_path_factory) -> tuple[Compiled, Compiled]:
    """One network for one thread and for two, whose code runs loops in parallel."""
    folder = tmp_path_factory.mktemp("parallel")
    one, two = (compile_parallel(folder / f"threads{threads}.so", threads) for threads in (1, 2))
    assert b"TVMBackendParallelLaunch" in two.content
    return one, two


@pytest.fixture(autouse=True)
def as_compiled(threads_as_compiled: None) -> None:
    """For all tests of this folder."""
