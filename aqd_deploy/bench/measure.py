"""A program and its peers measured in one run: the work behind `aqd-deploy bench`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from aqd_deploy.bench.models import calibration_inputs, find_qdq, quantize_int8
from aqd_deploy.bench.peers import Contender, choose_peers
from aqd_deploy.bench.rounds import interleave, ratios, statistics
from aqd_deploy.frontends.strip import strip_quantization
from aqd_deploy.integer.files import load_onnx
from aqd_deploy.reporting.environment import environment
from aqd_deploy.runtime.program import Program

BENCH_SCHEMA = 1


def bench(
    program: Path,
    *,
    against: list[str] | None = None,
    model: Path | None = None,
    threads: int | None = None,
    rounds: int = 10,
    runs: int = 3,
    images: list[np.ndarray] | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Latency of `program` and of the runtimes in `against`, each with float and INT8 forms of the same
    network.

    `images` (uint8 [1, 3, H, W]) calibrate the peers' INT8 form; textures do without. Every contender has
    the same number of threads. Returns a JSON-able document (docs/report.md). Raises ProgramError for the
    program, AqdError for an unknown peer or where the QDQ file is missing.
    """
    peers, missing = choose_peers(against or [])
    loaded = Program.load(program, threads)
    contenders: dict[str, Contender] = {"aqd-deploy": _ours(loaded)}
    with tempfile.TemporaryDirectory() as name:
        if peers:
            folder = Path(name)
            qdq = find_qdq(program, loaded.manifest, model)
            progress(f"preparing the peers' models from {qdq}")
            value = _peer_models(qdq, loaded.manifest, images or [], folder)
            for peer in peers:
                for form in ("float", "int8"):
                    contenders[f"{peer.name} {form}"] = peer.open(
                        folder / f"{form}.onnx", "image", value, loaded.threads
                    )
        seconds = interleave(contenders, rounds=rounds, runs=runs, progress=progress)
    ours = seconds["aqd-deploy"]
    return {
        "schema": BENCH_SCHEMA,
        "program": str(program),
        "name": loaded.manifest.get("name"),
        "environment": environment(),
        "threads": loaded.threads,
        "rounds": rounds,
        "runs_per_round": runs,
        "contenders": {name: statistics(values) for name, values in seconds.items()},
        "ratios": {name: ratios(ours, values) for name, values in seconds.items() if name != "aqd-deploy"},
        "missing": [{"peer": peer.name, "next_command": peer.install} for peer in missing],
    }


def _ours(program: Program) -> Contender:
    inputs = program.random_inputs()
    return lambda: program.run(inputs)


def _peer_models(qdq: Path, manifest: dict[str, Any], images: list[np.ndarray], folder: Path) -> np.ndarray:
    """Write float.onnx and int8.onnx into `folder`; returns an input for them."""
    stripped = strip_quantization(load_onnx(qdq))
    shape = tuple(d.dim_value for d in stripped.graph.input[0].type.tensor_type.shape.dim)
    onnx.save(stripped, folder / "float.onnx")
    calibration = calibration_inputs(manifest, images, shape)
    quantize_int8(stripped, calibration, folder)
    return calibration[0]
