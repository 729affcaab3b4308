"""The choice of tests that say what they need sees markers, helpers and fixtures."""

import pytest
from needing import TESTS, says_needs


@pytest.mark.parametrize(
    ("test", "says"),
    [
        ("compiler/test_every_profile.py", True),  # need() in the test itself
        ("devices/test_devices.py", True),  # a marker
        ("kernels/cpu/epilogue/test_arm_epilogues.py", True),  # by a helper in a folder around it
        ("writers/test_lowered_files.py", True),  # by the folder's fixtures
        ("passes/test_random_networks.py", False),
        ("kernels/cpu/conv/test_blocking.py", False),  # `needs_copy` is no need
    ],
)
def test_modules(test, says):
    assert (TESTS / test).is_file()
    assert says_needs(TESTS / test) == says
