"""The states between passes, as files."""

import errno
from pathlib import Path

import onnx
import pytest
from small_lowerings import chain

from aqd_deploy.errors import AqdError, UnsupportedModelError
from aqd_deploy.passes.dump import check_dump, dumping
from aqd_deploy.passes.pipeline import PASSES, lower


def quantized(b, x):
    return b.relu(b.add(b.conv(b.quantize(x, 4, 0.25), 4, 4), x))


def dumped(model, folder, inputs=()):
    with dumping(folder, inputs) as note:
        return lower(model, on_state=note)


def files(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def test_every_pass_has_its_text_and_models_are_onnx(tmp_path):
    result = dumped(chain(quantized), tmp_path / "d")
    texts = [f"{number:02}-{each.name}.txt" for number, each in enumerate(PASSES, 1)]
    models = ["01-canonicalise.onnx", "10-write_integer.onnx"]
    assert files(tmp_path / "d") == sorted(texts + models)
    assert onnx.load(tmp_path / "d" / models[1]) == result.model
    for text, each in zip(texts, PASSES, strict=True):
        first, *rest = (tmp_path / "d" / text).read_text().splitlines()
        assert first.startswith(f"pass {each.name} (phase: ")
        assert any(line.startswith("output out") for line in rest)


def test_a_text_has_what_is_known_of_each_node(tmp_path):
    dumped(chain(quantized), tmp_path)
    folded = (tmp_path / "04-fold_quantizers.txt").read_text()
    assert "quantizer step 0.25, 0 to 15; dtype uint8" in folded
    moved = (tmp_path / "08-move_scales.txt").read_text()
    assert " = Staircase(" in moved and " = SkipAdd(" in moved and "[1, 4, 8, 8] in [0, " in moved
    solved = (tmp_path / "09-solve_requantize.txt").read_text()
    assert "4 of 4 channels proven" in solved and "Staircase" not in solved
    assert "aqd.integer.Requantize(" in (tmp_path / "10-write_integer.txt").read_text()


def test_a_refused_file_leaves_what_was_done_and_nothing_of_an_earlier_run(tmp_path):
    dumped(chain(quantized), tmp_path)

    def refused(b, x):
        return quantized(b, b.conv(x, 4, 4))

    with pytest.raises(UnsupportedModelError, match="float layer"):
        dumped(chain(refused), tmp_path)
    kept = ["01-canonicalise.onnx", "01-canonicalise.txt"]
    assert files(tmp_path) == kept


def test_a_file_of_somebody_else_stays(tmp_path):
    other = tmp_path / "04-fold_quantizers.txt"
    other.write_text("mine")
    with pytest.raises(AqdError, match="not known to be written by lower"):
        dumped(chain(quantized), tmp_path)
    assert other.read_text() == "mine" and files(tmp_path) == [other.name]


def test_a_full_disk_names_the_folder(tmp_path, monkeypatch):
    def full(path, data):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        dumped(chain(quantized), tmp_path / "d")
    assert caught.value.filename == str(tmp_path / "d")


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("d/10-write_integer.onnx", "also a file of the dump"),
        ("d/../d/02-check_model.txt", "also a file of the dump"),
        ("link", "also a file of the dump"),
        ("d", "is the folder of the dump"),
        (".", "is the folder of the dump"),
    ],
)
def test_the_output_is_not_in_the_place_of_the_dump(tmp_path, output, words):
    (tmp_path / "link").symlink_to(tmp_path / "d" / "03-read_qdq.txt")
    with pytest.raises(AqdError, match=words):
        check_dump(tmp_path / "d", tmp_path / output)


@pytest.mark.parametrize(
    "output", ["m.onnx", "d/m.onnx", "10-write_integer.onnx", "d/e/10-write_integer.onnx"]
)
def test_an_output_beside_the_dump(tmp_path, output):
    check_dump(tmp_path / "d", tmp_path / output)
