"""A user's own profile files: they work like shipped ones, and a bad one is told and spoils nothing else."""

import re

import pytest
from needing import ROOT

from aqd_deploy import targets
from aqd_deploy.cli.main import invoke
from aqd_deploy.errors import TargetError
from aqd_deploy.kernels.contract.caches import Core
from aqd_deploy.targets.files import KEYS

CAMERA = """
description = "the camera at the door"
aliases = ["door"]
extends = "raspberrypi-4"
clock_ghz = 1.8
device = "ssh:pi@camera"
features = ["crc32"]

[sources]
clock_ghz = "its config.txt"
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder for profiles; the tester's own configuration is not read."""
    monkeypatch.setenv("AQD_DEPLOY_TARGETS", str(tmp_path / "profiles"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "configuration"))
    (tmp_path / "profiles").mkdir()
    return tmp_path / "profiles"


@pytest.fixture
def refusal(folder):
    """Write a profile `mine` and return the sentence that refuses it."""

    def write(text):
        (folder / "mine.toml").write_text(text)
        with pytest.raises(TargetError) as caught:
            targets.get("mine")
        assert str(folder / "mine.toml") in caught.value.sentence()
        return caught.value.sentence()

    return write


def test_own_profile_extends_a_shipped_one(folder):
    (folder / "camera.toml").write_text(CAMERA)
    camera, board = targets.get("camera"), targets.get("raspberrypi-4")
    assert "camera" in targets.names() and targets.get("door") == camera
    assert (camera.cpu, camera.triple, camera.attributes) == (board.cpu, board.triple, board.attributes)
    assert camera.features == ("asimd", "crc32")
    assert (camera.clock_ghz, camera.bandwidth_gb_s, camera.cores) == (1.8, board.bandwidth_gb_s, 4)
    assert camera.sources["clock_ghz"] == "its config.txt" and "bandwidth_gb_s" in camera.sources
    assert camera.device == "ssh:pi@camera" and camera.aliases == ("door",)
    assert targets.path_of(camera) == str(folder / "camera.toml")


def test_configuration_folder_is_read(folder, tmp_path):
    own = tmp_path / "configuration" / "aqd-deploy" / "targets"
    own.mkdir(parents=True)
    (own / "camera.toml").write_text(CAMERA)
    assert targets.get("camera").soc == targets.get("raspberrypi-4").soc


def test_own_profile_wins_over_a_shipped_one(folder):
    (folder / "raspberrypi-3.toml").write_text(CAMERA)
    assert targets.get("raspberrypi-3").cpu == "cortex-a72"


def test_misspelt_key_names_line_nearest_and_all(refusal):
    sentence = refusal('description = "x"\narchitecture = "aarch64"\ntripel = "aarch64-linux-gnu"\n')
    assert "line 3: unknown key 'tripel'; valid: nearest triple; all: description, aliases" in sentence


@pytest.mark.parametrize("key", ["description", "architecture", "triple", "cpu", "features"])
def test_missing_key(refusal, key):
    lines = [
        'description = "x"', 'architecture = "aarch64"', 'triple = "aarch64-linux-gnu"', 'cpu = "cortex-a72"',
        'features = ["asimd"]',
    ]  # fmt: skip
    text = "\n".join(line for line in lines if not line.startswith(key))
    assert f"line 1: the key {key!r} is missing" in refusal(text)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("cores = 2.5", "a positive whole number"),
        ("cores = true", "a positive whole number"),
        ("clock_ghz = 0", "a positive number"),
        ("bandwidth_gb_s = nan", "a positive number"),
        ('l2_kib = "512"', "a positive number"),
        ('attributes = ["dotprod"]', "LLVM attributes with their sign"),
        ('features = "asimd"', "a list of texts"),
        ('architecture = "arm64"', '"x86_64" or "aarch64"'),
        ('float_abi = "softfp"', '"hard" or "soft"'),
        ("in_order = 1", "true or false"),
        ("toolchain = 3", "a text"),
        ("sources = { cores = 4 }", "a table of texts"),
    ],
)
def test_wrong_type(refusal, line, told):
    sentence = refusal(f'extends = "raspberrypi-4"\n\n{line}\n')
    key, _, _ = line.partition(" = ")
    assert f"line 3: wrong value of {key!r}; got" in sentence and told in sentence


def test_the_documentation_explains_every_key():
    text = (ROOT / "docs" / "targets.md").read_text(encoding="utf-8")
    rows = "\n".join(line for line in text.splitlines() if line.startswith("| `") or "[sources]" in line)
    assert [key for key in KEYS if not re.search(rf"[`\[]{key}[`\]]", rows)] == []


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("", False),
        ("in_order = true", True),
        ('cpu = "cortex-a53"', True),
        ('cpu = "cortex-a53"\nin_order = false', False),
        ('cpu = "cortex-a510"\nin_order = true', True),
    ],
)
def test_a_core_that_runs_in_order(folder, lines, expected):
    """Known by its name, or told by the profile."""
    text = f'description = "the camera at the door"\nextends = "raspberrypi-4"\n{lines}\n'
    (folder / "camera.toml").write_text(text)
    assert Core.of(targets.get("camera")).in_order is expected


def test_source_of_an_unknown_key(refusal):
    sentence = refusal('extends = "raspberrypi-4"\ncores = 4\n\n[sources]\ncore = "x"\n')
    assert "line 5: a source of an unknown key 'core'" in sentence


def test_text_that_is_no_toml(refusal):
    assert "line 2" in refusal("cores = 4\ncpu = cortex\n")


def test_bytes_that_are_no_text(folder):
    (folder / "mine.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TargetError, match=r"mine\.toml cannot be read"):
        targets.get("mine")


@pytest.mark.parametrize("parent", ["mine", "raspberypi-4"])
def test_impossible_parent(refusal, parent):
    sentence = refusal(f'description = "x"\nextends = "{parent}"\n')
    assert ("extends itself" in sentence) if parent == "mine" else ("raspberrypi-4" in sentence)


def test_circle_of_parents(folder):
    for name, parent in (("one", "two"), ("two", "one")):
        (folder / f"{name}.toml").write_text(f'description = "x"\nextends = "{parent}"\n')
    with pytest.raises(TargetError, match="one → two → one"):
        targets.get("one")


@pytest.mark.parametrize("name", ["host", "My Board"])
def test_names_that_cannot_be(folder, name, capsys):
    (folder / f"{name}.toml").write_text(CAMERA)
    assert invoke(["targets", "list"]) == 0
    assert f"a profile cannot be called {name!r}" in capsys.readouterr().err


def test_a_folder_that_is_not_there(tmp_path, folder, monkeypatch, capsys):
    monkeypatch.setenv("AQD_DEPLOY_TARGETS", f"{tmp_path / 'missing'}:{folder}")
    (folder / "camera.toml").write_text(CAMERA)
    assert invoke(["targets", "list"]) == 0
    captured = capsys.readouterr()
    told = f"{tmp_path / 'missing'}: the folder of profiles cannot be read; got No such file or directory"
    assert told in captured.err and captured.err.count("left out") == 1
    assert "camera" in captured.out


def test_a_bad_file_spoils_nothing_else(folder, capsys):
    (folder / "camera.toml").write_text(CAMERA)
    (folder / "broken.toml").write_text("cores = \n")
    assert targets.get("camera").name == "camera" and targets.get("raspberrypi-5").cores == 4
    assert "broken" not in targets.names()
    assert invoke(["targets", "list"]) == 0
    captured = capsys.readouterr()
    assert "left out:" in captured.err and "broken.toml" in captured.err
    assert "camera" in captured.out and "broken" not in captured.out
    assert max(map(len, captured.out.splitlines())) <= 80
