"""Shared set-up: a fixed Hypothesis profile, so that a failing example is the same everywhere, and what is
done with tests whose tools are missing.
"""

import pytest
from hypothesis import HealthCheck, settings
from needs import check_tools

settings.register_profile(
    "fixed", derandomize=True, deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("fixed")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip or fail before any fixture is made."""
    check_tools(item)
