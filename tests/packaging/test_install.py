"""The package as a user gets it: a wheel in an empty environment, used outside the checkout."""

import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

PROBE = """
import importlib.resources, pathlib, sys
import aqd_deploy, aqd_deploy.passes, aqd_deploy.targets
entries = importlib.resources.files("aqd_deploy.targets").iterdir()
names = sorted(p.name for p in entries if p.name.endswith(".toml"))
print(pathlib.Path(aqd_deploy.__file__).parent)
print(*names)
assert "passes" not in sys.modules and "targets" not in sys.modules
assert (importlib.resources.files("aqd_deploy") / "py.typed").is_file()
"""


def probe(python: str, cwd: Path) -> tuple[Path, list[str]]:
    """Run PROBE; return where the package lies and the device profiles it carries."""
    out = subprocess.run([python, "-c", PROBE], cwd=cwd, check=True, capture_output=True, text=True).stdout
    where, profiles = out.splitlines()
    return Path(where), profiles.split()


@pytest.mark.e2e
def test_wheel_installs_and_works_outside_the_checkout(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path / "dist", ROOT],
        check=True,
        capture_output=True,
    )
    wheel = next((tmp_path / "dist").glob("*.whl"))
    env = tmp_path / "env"
    venv.create(env, with_pip=True)
    python = str(env / "bin" / "python")
    subprocess.run(
        [python, "-m", "pip", "install", "-q", "--no-deps", wheel], check=True, capture_output=True
    )
    where, profiles = probe(python, tmp_path)
    assert env in where.parents
    assert "cascadelake.toml" in profiles


def test_this_installation_works_outside_the_checkout(tmp_path):
    where, profiles = probe(sys.executable, tmp_path)
    assert where.name == "aqd_deploy"
    assert sorted(profiles) == sorted(p.name for p in (ROOT / "targets").glob("*.toml"))


def test_every_package_folder_is_listed():
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = {"aqd_deploy.passes", "aqd_deploy.targets"}
    for init in (ROOT / "aqd_deploy").rglob("__init__.py"):
        found.add(".".join(init.parent.relative_to(ROOT).parts))
    for mapped in ("passes", "targets"):
        for init in (ROOT / mapped).rglob("__init__.py"):
            found.add(".".join(["aqd_deploy", *init.parent.relative_to(ROOT).parts]))
    assert set(config["packages"]) == found


def test_base_install_needs_no_torch():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert not [d for d in project["dependencies"] if d.startswith("torch")]
    assert "torch==2.13.0" in project["optional-dependencies"]["torch"]
