"""The choice of tests for a machine without optional tools sees through helpers, fixtures and packages."""

import pytest
from reach import ROOT, TESTS, reaches_programs


@pytest.mark.parametrize(
    ("test", "reaches"),
    [
        ("compiler/test_every_profile.py", True),  # shutil.which in the test itself
        ("kernels/cpu/epilogue/test_arm_epilogues.py", True),  # by a helper in a folder around it
        ("bundle/test_runner_refusals.py", True),  # by the folder's fixtures
        ("passes/test_random_networks.py", False),
        ("tuning/test_budget.py", True),  # by a package that imports the compiler
        ("cli/test_bad_input.py", True),  # by a module whose name is only known when it runs
        ("kernels/cpu/conv/test_conv_kernels.py", False),
        ("qat/test_models.py", False),
    ],
)
def test_reaching(test, reaches):
    assert reaches_programs(TESTS / test) == reaches


def test_a_module_of_a_mapped_package(tmp_path):
    light, heavy = tmp_path / "test_light.py", tmp_path / "test_heavy.py"
    light.write_text("def test():\n    from aqd_deploy.targets.profile import get\n    get('host')\n")
    heavy.write_text("def test():\n    from aqd_deploy.compiler import toolchain\n    toolchain.NATIVE\n")
    assert not reaches_programs(light)
    assert reaches_programs(heavy)
    assert (ROOT / "targets" / "profile.py").is_file()
