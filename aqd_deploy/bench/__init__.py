"""Latency of a program beside other runtimes, measured in one run."""
