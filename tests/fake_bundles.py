"""A program file without code and a bundle whose `aqd-run` is a shell script: what copying, running and
errors are tested with. The script takes what `aqd-run` takes, writes prepared outputs and answers as it does.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from aqd_deploy.runtime.container import append_manifest

OUTPUTS = {
    "scores": np.arange(-12, 12, dtype=np.int32).reshape(1, 4, 2, 3),
    "boxes": np.arange(6, dtype=np.int8).reshape(1, 1, 2, 3),
}
INPUTS = {"image": np.arange(24, dtype=np.uint8).reshape(1, 3, 2, 4)}

# BEHAVIOUR is replaced. It knows $output (a folder or nothing) and $image (the input file).
_RUNNER = """#!/bin/sh
here=$(dirname "$0")
output= image= repeat=1
while [ $# -gt 0 ]; do
  case "$1" in
    --input) image=${2#image=} ;;
    --output) output=$2 ;;
    --repeat) repeat=$2 ;;
  esac
  shift 2
done
BEHAVIOUR
if [ -n "$output" ]; then cp "$here/lib/0.npy" "$here/lib/1.npy" "$output"; fi
seconds=0.25
while [ "$repeat" -gt 1 ]; do seconds="$seconds, 0.25"; repeat=$((repeat - 1)); done
printf '{"threads": 1, "load_seconds": 0.01, "seconds": [%s], "outputs": OUTPUTS}' "$seconds"
"""


def write_program(path: Path, architecture: str = "x86_64", cpu: str = "x86-64-v2", **target: object) -> Path:
    """A program file for `architecture` that holds a manifest and nothing to run."""
    path.write_bytes(b"\x7fELF" + bytes(60))
    described = {"name": "board", "architecture": architecture, "cpu": cpu, "features": [], **target}
    program = {
        "tvm_version": "0",
        "target": described,
        "threads": 2,
        "inputs": _described(INPUTS),
        "outputs": _described(OUTPUTS),
    }
    append_manifest(path, {"name": "fake", "program": program})
    return path


def bundler(behaviour: str = ":", weights: int = 0):
    """What makes a fake bundle of a program: `behaviour` is a line of shell in its runner, `weights` the
    bytes of an incompressible file in it.
    """

    def create(program: Path, folder: Path) -> None:
        (folder / "lib").mkdir(parents=True)
        (folder / "program.so").write_bytes(program.read_bytes())
        for index, array in enumerate(OUTPUTS.values()):
            np.save(folder / "lib" / f"{index}.npy", array)
        if weights:
            (folder / "lib" / "weights").write_bytes(np.random.default_rng(0).bytes(weights))
        outputs = [{**entry, "file": f"{index}.npy"} for index, entry in enumerate(_described(OUTPUTS))]
        text = _RUNNER.replace("BEHAVIOUR", behaviour).replace("OUTPUTS", json.dumps(outputs))
        (folder / "aqd-run").write_text(text)
        (folder / "aqd-run").chmod(0o755)

    return create


def _described(arrays: dict[str, np.ndarray]) -> list[dict[str, object]]:
    return [
        {"name": name, "dtype": str(array.dtype), "shape": list(array.shape)}
        for name, array in arrays.items()
    ]
