"""Shared set-up: a fixed Hypothesis profile, so that a failing example is the same everywhere, what is done
with tests whose tools are missing, which programs a test sees, which tests `--needing` leaves, and how tests
are shared out among processes.
"""

import os
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:
    # As many processes as cores: threads that wait by spinning would take the cores from the others' work.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("TVM_THREAD_POOL_SPIN_COUNT", "0")

import pytest
from hypothesis import HealthCheck, settings
from needing import says_needs
from needs import check_tools, show_programs

TESTS = str(Path(__file__).parent)

settings.register_profile(
    "fixed", derandomize=True, deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("fixed")


def pytest_addoption(parser: pytest.Parser) -> None:
    """The option by which CI chooses what to run where optional tools are hidden."""
    parser.addoption(
        "--needing",
        action="store_true",
        help="only tests of modules that say that they need something (tests/needing.py)",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Long tests first, so that no process is left alone with one at the end; tests that share what a fixture
    makes go to one process (`--dist loadgroup`), all others wherever there is room.
    """
    if config.getoption("needing"):
        needing = {path: says_needs(path) for path in {item.path for item in items}}
        config.hook.pytest_deselected(items=[item for item in items if not needing[item.path]])
        items[:] = [item for item in items if needing[item.path]]
    items.sort(key=lambda item: item.get_closest_marker("e2e") is None)
    for item in items:
        if (group := _group(item)) is not None:
            item.add_marker(pytest.mark.xdist_group(group))


def _group(item: pytest.Item) -> str | None:
    """The module, with the values of its parameters that fixtures of a wider scope than a test take; None
    where a test shares nothing.
    """
    definitions = [each[-1] for each in item._fixtureinfo.name2fixturedefs.values()]
    ours = [each for each in definitions if each.func.__code__.co_filename.startswith(TESTS)]
    shared = [each.argname for each in ours if each.scope != "function"]
    if not shared:
        return None
    values = getattr(getattr(item, "callspec", None), "params", {})
    return "-".join(
        [item.nodeid.partition("::")[0], *(str(values[name]) for name in shared if name in values)]
    )


@pytest.fixture
def threads_as_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs use the threads that they were compiled for, of which OMP_NUM_THREADS would leave one."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Choose the programs, and skip or fail, before any fixture is made."""
    show_programs(item)
    check_tools(item)
