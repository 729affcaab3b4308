"""Programs use the threads that they were compiled for."""

import pytest


@pytest.fixture(autouse=True)
def as_compiled(threads_as_compiled: None) -> None:
    """For all tests of this folder."""
