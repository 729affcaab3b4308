"""Shared fixtures: a fixed Hypothesis profile, so that a failing example is the same everywhere."""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "fixed", derandomize=True, deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("fixed")
