"""What post-training quantization leaves of the float digits detectors: AP by method, bits and seed.

    python examples/digits/post_training.py --work DIR [--networks …] [--methods …] [--bits …] [--programs]
    python examples/digits/post_training.py --work DIR --publish

A seed is a calibration set: images composed of the training material, which no training has seen. Each
measurement is a file in DIR/cells, so that a killed run goes on where it was; its seconds are those of the
last run. The table of all that is there is written to DIR/table.json and DIR/table.md; `--publish` measures
nothing, and copies it to post_training.json beside this file and to the page docs/post-training.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import data
import heldout
import numpy as np
import onnx
from compose import Composer

from aqd_deploy.compiler.build import compile_model
from aqd_deploy.detection.decode import decode
from aqd_deploy.detection.images import Placement
from aqd_deploy.detection.results import coco_results
from aqd_deploy.errors import AqdError
from aqd_deploy.evaluation.agreement import differing_integers
from aqd_deploy.evaluation.coco import evaluate
from aqd_deploy.files import write_text
from aqd_deploy.frontends.torch_qdq import export_qdq
from aqd_deploy.integer.manifest import read_manifest
from aqd_deploy.integer.reference import ReferenceRunner
from aqd_deploy.passes.pipeline import lower
from aqd_deploy.qat.checkpoint import load_checkpoint
from aqd_deploy.quantization.calibration import Calibration
from aqd_deploy.quantization.pipeline import quantize
from aqd_deploy.quantization.progress import Run
from aqd_deploy.quantization.recipe import Recipe, Steps
from aqd_deploy.quantization.session import Session
from aqd_deploy.quantization.state import State
from aqd_deploy.runtime.program import Program
from aqd_deploy.targets.cpu import read_cpu

FOLDER = Path(__file__).resolve().parent
PUBLISHED, PAGE = FOLDER / "post_training.json", FOLDER.parents[1] / "docs" / "post-training.md"
TABLE_BEGINS, TABLE_ENDS = "<!-- table -->\n", "<!-- end -->\n"
SIZE = 160
HELDOUT_IMAGES, CALIBRATION_IMAGES, EXACT_IMAGES = 300, 64, 12
NETWORKS = ("fcos_r18_digits_float", "retinanet_r18_digits_float")
TRAINED = ("fcos_r18_digits_4bit", "retinanet_r18_digits_4bit")
BITS, SEEDS = (8, 6, 4, 3), (0, 1, 2)
FIRST_CALIBRATION_SEED = 1000  # of compositions; training has used 0
ROUNDING = Steps(adaptive_rounding=2000)
METHODS: Mapping[str, Mapping[str, Any]] = {
    "minmax": {"method": "minmax"},
    "percentile": {"method": "percentile"},
    "entropy": {"method": "entropy"},
    "power-of-two": {"method": "power-of-two"},
    "mse, p = 2": {"method": "mse", "parameters": {"power": 2.0}},
    "mse, p = 2.4": {"method": "mse", "parameters": {"power": 2.4}},
    "mse, p = 3": {"method": "mse", "parameters": {"power": 3.0}},
    "mse, p = 4": {"method": "mse", "parameters": {"power": 4.0}},
    "piecewise-gaussian": {"method": "piecewise-gaussian"},
    "detptq": {"method": "detptq"},
    "mse, p = 2.4, adaptive rounding": {
        "method": "mse", "parameters": {"power": 2.4}, "steps": ROUNDING,
    },
    "detptq, adaptive rounding": {"method": "detptq", "steps": ROUNDING},
}  # fmt: skip
Network = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]


def calibration(seed: int) -> Calibration:
    """The calibration images of a seed, as the network's input."""
    return _composed(seed, CALIBRATION_IMAGES)


@cache
def _composed(seed: int, count: int) -> Calibration:
    composer = Composer("train", SIZE, FIRST_CALIBRATION_SEED + seed)
    images = (composer.image(index)[0] for index in range(count))
    return Calibration.of([{"image": image[:, :, ::-1].transpose(2, 0, 1)[None].copy()} for image in images])


def average_precision(run: Network, manifest: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> float:
    """AP in points of what `run` makes of the held-out images."""
    placement = Placement(SIZE, SIZE, 0, 0, SIZE, SIZE)
    results = []
    for index, image in enumerate(arrays["images"]):
        results += coco_results(index, decode(run({"image": image[None]}), manifest, placement))
    return 100 * evaluate(heldout.annotations(dict(arrays)), results)["AP"]


def simulated(model: onnx.ModelProto) -> Network:
    """The network in onnxruntime, in floats."""
    return Session(model, [value.name for value in model.graph.output], as_written=True)


def measure(
    name: str, method: str, bits: int, seed: int, arrays: Mapping[str, np.ndarray], work: Path
) -> dict[str, Any]:
    """One cell of the table; the quantized file is kept beside it."""
    model = export_qdq(load_checkpoint(FOLDER / "checkpoints" / f"{name}.pt"))
    recipe = Recipe(**METHODS[method], weight_bits=bits, activation_bits=bits)
    cell = cell_name(name, method, bits, seed)
    state = State(work / "state" / cell, cell)
    began = time.monotonic()
    written = quantize(model, calibration(seed), recipe, run=Run(state=state))
    seconds = time.monotonic() - began
    onnx.save(written.model, work / f"{cell}.onnx")
    state.remove()
    precision = average_precision(simulated(written.model), read_manifest(written.model), arrays)
    return {"network": name, "method": method, "bits": bits, "seed": seed, "AP": precision,
            "seconds": round(seconds, 1)}  # fmt: skip


def trained(name: str, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """A shipped network as it is: float, or trained with its quantizers."""
    model = export_qdq(load_checkpoint(FOLDER / "checkpoints" / f"{name}.pt"))
    return {"network": name, "AP": average_precision(simulated(model), read_manifest(model), arrays)}


def as_program(path: Path, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The integer program of a quantized file: its AP, and how many integers are not the reference's."""
    integer = lower(onnx.load(path)).model
    with tempfile.TemporaryDirectory() as folder:
        built = Path(folder) / "program.so"
        compile_model(integer, built, target="host")
        return {"file": path.stem, **_compared(Program.load(built), ReferenceRunner(integer), arrays)}


def _compared(
    program: Program, reference: ReferenceRunner, arrays: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    inputs = [{"image": image[None]} for image in arrays["images"][:EXACT_IMAGES]]
    differing = differing_integers(
        [reference.run(each) for each in inputs], [program.run(each) for each in inputs]
    )
    return {"program AP": average_precision(program.run, program.manifest, arrays), **differing}


def cell_name(*parts: object) -> str:
    """A file's name of a cell's parts."""
    return "_".join(str(part).replace(" ", "").replace(",", "+").replace("=", "") for part in parts)


def once(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `make` returns, kept in `path`."""
    if not path.exists():
        found = make()
        print(json.dumps(found), file=sys.stderr, flush=True)
        write_text(path, json.dumps(found) + "\n")
    return json.loads(path.read_text())


def table(document: Mapping[str, Any]) -> str:
    """Markdown: AP, or where several seeds were measured their mean and half of what they spread over; and
    what became of the files' programs.
    """
    cells, lines = document["cells"], []
    for name in dict.fromkeys(cell["network"] for cell in cells):
        bits = sorted({cell["bits"] for cell in cells if cell["network"] == name}, reverse=True)
        lines += ["", f"`{name}`:", "", "| method | " + " | ".join(f"{b} bits" for b in bits) + " |"]
        lines.append("|---|" + "---|" * len(bits))
        for method in METHODS:
            found = [
                [c["AP"] for c in cells if (c["network"], c["method"], c["bits"]) == (name, method, b)]
                for b in bits
            ]
            if any(found):
                lines.append(f"| {method} | " + " | ".join(map(_mean, found)) + " |")
    lines += ["", "| network as trained | AP |", "|---|---|"]
    lines += [f"| `{each['network']}` | {each['AP']:.1f} |" for each in document["alone"]]
    lines += _programs(cells, document["programs"])
    return "\n".join(lines[1:]) + "\n"


def _programs(cells: list[dict[str, Any]], programs: list[dict[str, Any]]) -> list[str]:
    """A row for each network: the programs are those of its files."""
    lines = ["", "| programs of | compiled | integers compared, each | differing, all | AP − the file's |",
             "|---|---|---|---|---|"]  # fmt: skip
    found = {each["file"]: each for each in programs}
    for name in dict.fromkeys(cell["network"] for cell in cells):
        pairs = [
            (found[file], cell)
            for cell in cells
            if cell["network"] == name
            and (file := cell_name(*(cell[key] for key in ("network", "method", "bits", "seed")))) in found
        ]
        if not pairs:
            continue
        apart = [program["program AP"] - cell["AP"] for program, cell in pairs]
        counts = sorted({program["count"] for program, _ in pairs})
        differing = sum(program["differing"] for program, _ in pairs)
        lines.append(
            f"| `{name}` | {len(pairs)} | {', '.join(f'{count:,}' for count in counts)} | {differing} "
            f"| {min(apart):+.2f} to {max(apart):+.2f} |"
        )
    return lines


def _mean(values: list[float]) -> str:
    if len(values) < 2:
        return "".join(f"{value:.1f}" for value in values)
    return f"{np.mean(values):.1f} ± {(max(values) - min(values)) / 2:.1f}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Measure post-training quantization on the digits detectors."
    )
    parser.add_argument("--work", type=Path, required=True, help="folder for images, cells and the table")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--bits", nargs="+", type=int, choices=BITS, default=BITS)
    parser.add_argument("--seeds", nargs="+", type=int, choices=SEEDS, default=SEEDS)
    parser.add_argument(
        "--programs", action="store_true", help="compile the quantized files, too, and compare their integers"
    )
    parser.add_argument(
        "--publish", action="store_true", help="measure nothing; copy the table into the repository"
    )
    options = parser.parse_args(arguments)
    try:
        publish(options.work) if options.publish else run(options)
    except (AqdError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def run(options: argparse.Namespace) -> None:
    """Measures what is wanted and is not there yet, and writes the table of all that is there."""
    cells = options.work / "cells"
    cells.mkdir(parents=True, exist_ok=True)
    arrays = data.compose_arrays("heldout", HELDOUT_IMAGES, SIZE, 0, options.work / "heldout", print)
    for name in (*NETWORKS, *TRAINED):
        once(cells / f"alone_{name}.json", lambda name=name: trained(name, arrays))
    for cell in product(options.networks, options.methods, options.bits, options.seeds):
        name = cell_name(*cell)
        once(cells / f"{name}.json", lambda cell=cell: measure(*cell, arrays, options.work))
        if options.programs:
            file = options.work / f"{name}.onnx"
            once(cells / f"program_{name}.json", lambda file=file: as_program(file, arrays))
    report(options.work)


def report(work: Path) -> None:
    """table.json and table.md of all cells."""
    kept = {path.stem: json.loads(path.read_text()) for path in sorted((work / "cells").glob("*.json"))}
    alone = [cell for name, cell in kept.items() if name.startswith("alone_")]
    programs = [cell for name, cell in kept.items() if name.startswith("program_")]
    cells = [cell for cell in kept.values() if "method" in cell]
    document = {"command": "python examples/digits/post_training.py --work DIR", "machine": read_cpu().model,
                "onnxruntime": version("onnxruntime"), "heldout_images": HELDOUT_IMAGES,
                "calibration_images": CALIBRATION_IMAGES, "alone": alone, "cells": cells,
                "programs": programs}  # fmt: skip
    write_text(work / "table.json", json.dumps(document, indent=1) + "\n")
    write_text(work / "table.md", table(document))


def publish(work: Path) -> None:
    """The numbers and the table of `work` in the place of those of the repository."""
    report(work)
    write_text(PUBLISHED, (work / "table.json").read_text())
    front, _, rest = PAGE.read_text().partition(TABLE_BEGINS)
    _, _, behind = rest.partition(TABLE_ENDS)
    write_text(PAGE, front + TABLE_BEGINS + (work / "table.md").read_text() + TABLE_ENDS + behind)


if __name__ == "__main__":
    sys.exit(main())
