"""Verbs that are killed at any moment: no process stays, every output is whole, and the next run of the same
verb leaves nothing but finished outputs.
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from kills import Sandbox
from PIL import Image

from aqd_deploy.bundle import read_bundle
from aqd_deploy.integer.files import load_onnx
from aqd_deploy.reporting.document import REPORT, make_report
from aqd_deploy.runtime.container import read_container
from aqd_deploy.targets.cpu import available_threads

# Kills of each verb, 76 in all: most where most is written.
KILLS = {
    "export": 5, "quantize": 5, "lower": 5, "compile": 8, "tune": 6, "package": 10, "run": 5, "detect": 8,
    "eval": 6, "bench": 6, "inspect": 2, "targets": 1, "doctor": 3, "demo": 3, "report": 3,
}  # fmt: skip
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGINT)
# What a signal makes of the exit code: before Python answers signals, after, and after the work was done.
EXPECTED = {
    signal.SIGKILL: {-signal.SIGKILL, 0},
    signal.SIGTERM: {-signal.SIGTERM, 143, 0},
    signal.SIGINT: {-signal.SIGINT, 1, 130, 0},
}


@dataclass(frozen=True)
class Inputs:
    """A tiny detector in all its forms, and something to run it on."""

    checkpoint: Path
    network: Path
    qdq: Path
    integer: Path
    program: Path
    arrays: Path
    images: Path
    labels: Path
    run: Path


@pytest.fixture(scope="session")
def inputs(tmp_path_factory) -> Inputs:
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    from aqd_deploy.compiler import compile_model
    from aqd_deploy.frontends.random_network import random_detector
    from aqd_deploy.frontends.torch_qdq import export_qdq
    from aqd_deploy.passes.pipeline import lower
    from aqd_deploy.qat.checkpoint import save_checkpoint
    from aqd_deploy.qat.config import parse_architecture

    folder = tmp_path_factory.mktemp("inputs")
    sizes = {"width": 0.125, "fpn_channels": 16, "head_depth": 1, "classes": 3}
    config = parse_architecture("fcos_r18", bits=4, image_height=64, image_width=64, **sizes)
    model = random_detector(config)
    float_paths = [folder / "checkpoints" / "m.pt", folder / "float.onnx"]
    paths = [*float_paths, folder / "m.qdq.onnx", folder / "m.int.onnx", folder / "m.so"]
    files = Inputs(*paths, folder / "x.npz", folder / "images", folder / "labels.json", folder / "run")
    files.checkpoint.parent.mkdir()
    files.images.mkdir()
    save_checkpoint(files.checkpoint, model)
    onnx.save(export_qdq(model), files.qdq)
    config = parse_architecture("fcos_r18", bits=None, image_height=64, image_width=64, **sizes)
    onnx.save(export_qdq(random_detector(config)), files.network)
    onnx.save(lower(load_onnx(files.qdq)).model, files.integer)
    compile_model(load_onnx(files.integer), files.program, threads=1)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
    np.savez(files.arrays, image=pixels[:1].transpose(0, 3, 1, 2))
    for index, image in enumerate(pixels):
        Image.fromarray(image).save(files.images / f"{index}.png")
    _write_labels(files.labels, config.names_of_classes)
    files.run.mkdir()
    model = {"name": "m", "files": {}, "accuracy": {}, "seconds": {}}
    report = make_report("eval", {"folder": "images", "count": 3}, [model])
    (files.run / REPORT).write_text(json.dumps(report))
    return files


def _write_labels(path: Path, classes: Sequence[str]) -> None:
    """COCO labels of the three images: an object in each."""
    records = [{"id": k + 1, "image_id": k, "category_id": k, "bbox": [8, 8, 16, 16]} for k in range(3)]
    names = [{"id": k, "name": name} for k, name in enumerate(classes)]
    images = [{"id": k, "file_name": f"{k}.png"} for k in range(3)]
    path.write_text(json.dumps({"images": images, "annotations": records, "categories": names}))


def words(verb: str, files: Inputs, work: Path) -> list[object]:
    """The command line of a verb that writes to `work`."""
    against = ("--against", "onnxruntime", "--model", files.qdq, "--memory", "--rounds", 2, "--runs", 1)
    labelled = ("--annotations", files.labels, "--images", files.images)
    examples = ("--checkpoints", files.checkpoint.parent, "--images", files.images)
    return {
        "export": [files.checkpoint, "-o", work / "m.qdq.onnx"],
        "quantize": [files.network, "--calibration", files.images, "-o", work / "m.qdq.onnx"],
        "lower": [files.qdq, "-o", work / "m.int.onnx"],
        "compile": [files.integer, "-o", work / "m.so", "--threads", 1],
        "tune": [files.integer, "--threads", 1, "--budget", "40s", "--records", work / "tuning"],
        "package": [files.program, "-o", work / "bundle"],
        "run": [files.program, "--input", files.arrays, "-o", work / "y.npz"],
        "detect": [files.program, files.images, "-o", work / "boxes"],
        "eval": [files.integer, files.program, *labelled, "-o", work / "accuracy"],
        "bench": [files.program, *against, "--keep", work / "keep"],
        "inspect": [files.program],
        "targets": ["show", "host"],
        "doctor": ["--target", "host"],
        "report": [files.run, "-o", work / "page.html"],
        "demo": ["-o", work / "demo", *examples, "--threads", 1],
    }[verb]  # fmt: skip


@pytest.fixture
def sandbox(tmp_path) -> Iterator[Sandbox]:
    box = Sandbox(tmp_path / "sandbox")
    yield box
    assert box.processes() == []


def finished(sandbox: Sandbox) -> list[str]:
    """The outputs in sorted order."""
    return sorted(str(path.relative_to(sandbox.work)) for path in sandbox.work.rglob("*"))


def check_whole(folder: Path) -> None:
    """Every file that has its final name is complete."""
    for path in folder.rglob("*"):
        if any(part.startswith(".") for part in path.relative_to(folder).parts):
            continue
        if path.suffix == ".onnx":
            load_onnx(path)
        elif path.suffix == ".so" and path.parent.name not in ("lib", "bundle"):
            read_container(path)
        elif path.suffix == ".npz":
            with np.load(path) as arrays:
                assert all(arrays[name].size for name in arrays.files)
        elif path.suffix == ".png":
            with Image.open(path) as image:
                image.load()
        elif path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
        elif path.name == "bundle":
            read_bundle(path)


def run(sandbox: Sandbox, verb: str, files: Inputs) -> float:
    """The whole verb, after which only finished outputs are left; its seconds."""
    started = time.monotonic()
    process = sandbox.verb(verb, *words(verb, files, sandbox.work))
    told = process.communicate(timeout=500)[0]
    # On a busy machine tuning's start may take all of its time, which is a whole run all the same.
    assert process.returncode == 0 or (verb == "tune" and "budget is too small" in told), told
    sandbox.wait_for(lambda: not sandbox.processes(), 5, "no process")
    assert sandbox.left() == []
    return time.monotonic() - started


def kill_and_repeat(
    sandbox: Sandbox, verb: str, files: Inputs, number: int, *, delay: float, after_temporary: bool
) -> None:
    """Kill a run `delay` seconds after its start, or after its first temporary file; then run it again."""
    process = sandbox.verb(verb, *words(verb, files, sandbox.work))
    if after_temporary:
        sandbox.wait_for(lambda: bool(sandbox.left()) or process.poll() is not None, 200, "a temporary file")
    end = time.monotonic() + delay
    while time.monotonic() < end and process.poll() is None:
        time.sleep(0.002)
    told = sandbox.kill(process, number)
    assert process.returncode in EXPECTED[signal.Signals(number)], told
    if process.returncode in (130, 143):
        assert sandbox.left() == [], told
    check_whole(sandbox.work)
    run(sandbox, verb, files)


@pytest.mark.matrix
@pytest.mark.parametrize("verb", KILLS)
def test_killed_verbs(verb, inputs, sandbox):
    numbers = random.Random(f"kills of {verb}")
    usual = run(sandbox, verb, inputs)
    outputs = finished(sandbox)
    for index in range(KILLS[verb]):
        if index % 2 == 0:
            for folder in (sandbox.work, sandbox.cache):
                shutil.rmtree(folder)
                folder.mkdir()
        after_temporary = numbers.random() < 0.6 and verb not in ("inspect", "targets")
        delay = numbers.uniform(0, 0.5) if after_temporary else numbers.uniform(0.2, 1) * usual
        number = SIGNALS[numbers.randrange(len(SIGNALS))]
        print(verb, index, signal.Signals(number).name, after_temporary, f"{delay:.2f}", flush=True)
        kill_and_repeat(sandbox, verb, inputs, number, delay=delay, after_temporary=after_temporary)
        if verb != "tune":
            assert finished(sandbox) == outputs


@pytest.mark.e2e
@pytest.mark.parametrize("verb", [verb for verb in KILLS if verb not in ("tune", "inspect", "targets")])
def test_killed_when_a_temporary_file_appears(verb, inputs, sandbox):
    """Where folders are replaced, again while an older one is there. `tune` has the next test; the other two
    write nothing.
    """
    for _ in range(2 if verb in ("detect", "package") else 1):
        kill_and_repeat(sandbox, verb, inputs, signal.SIGKILL, delay=0, after_temporary=True)


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
def test_tunings_workers_end_with_it(inputs, sandbox, number, status):
    process = sandbox.verb("tune", *words("tune", inputs, sandbox.work))
    # Its workers, which import TVM for seconds before they could see that nobody asks them any more: one that
    # measures and one a CPU that compile.
    started = 2 + min(available_threads(), 4)
    sandbox.wait_for(lambda: len(sandbox.processes()) >= started, 200, "workers")
    process.send_signal(number)
    assert process.wait(30) == status
    sandbox.wait_for(lambda: not sandbox.processes(), 1, "no process")
    process.communicate()
    from aqd_deploy.files import sweep

    sweep(sandbox.temporary)
    assert sandbox.left() == []
