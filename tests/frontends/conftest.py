"""An image, and one thread for torch: on small networks its threads only wait for each other."""

from __future__ import annotations

import numpy as np
import pytest
from small_detectors import SIDE

from aqd_deploy.detection.textures import textures


@pytest.fixture(scope="session")
def image() -> np.ndarray:
    """uint8 [1, 3, 64, 64]."""
    return textures(1, SIDE, SIDE, seed=11)


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Restores torch's number of threads afterwards."""
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
