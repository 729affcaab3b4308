"""What quantization leaves of CenterFace: AP against the float network's own boxes, by method and bits.

    python examples/centerface/accuracy.py PHOTOGRAPHS -o DIR [--bits 8 4] [--recipes …] [--size H W]

PHOTOGRAPHS is a folder of pictures with faces in them; nobody has to label them. They are halved: what is
calibrated on one half is judged on the other, and AP (IoU 0.5 to 0.95) is the mean of both. Each measurement
is a file in DIR, so that a killed run goes on where it was; the table of all is DIR/table.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import quantize as example
from onnx import ModelProto

from aqd_deploy.detection.image_files import image_files
from aqd_deploy.detection.images import load_image
from aqd_deploy.errors import AqdError, CalibrationError
from aqd_deploy.files import write_text
from aqd_deploy.quantization.calibration import Calibration
from aqd_deploy.quantization.pipeline import quantize
from aqd_deploy.quantization.progress import Run
from aqd_deploy.quantization.recipe import Recipe, Steps
from aqd_deploy.quantization.state import State
from aqd_deploy.workflow.search_quality import Judge

LEAST_IMAGES = 4
CANDIDATES = 0.05
"""The least score of a box that counts as found; the float network's own count from the judge's on."""
MSE = {"method": "mse"}
RECIPES: Mapping[str, Mapping[str, Any]] = {
    "minmax": {"method": "minmax"},
    "percentile": {"method": "percentile"},
    "entropy": {"method": "entropy"},
    "mse": MSE,
    "piecewise-gaussian": {"method": "piecewise-gaussian"},
    "mse, bias correction": {**MSE, "steps": Steps(bias_correction=True)},
    "mse, equalise": {**MSE, "steps": Steps(equalise=True)},
    "mse, equalise, bias correction": {**MSE, "steps": Steps(equalise=True, bias_correction=True)},
    "mse, adaptive rounding": {**MSE, "steps": Steps(adaptive_rounding=2000)},
    "mse, all three": {
        **MSE, "steps": Steps(equalise=True, adaptive_rounding=2000, bias_correction=True),
    },
    "detptq": {"method": "detptq", "parameters": {"images": 6}},
}  # fmt: skip


def description() -> dict[str, Any]:
    """How images become the input and outputs boxes: that of the example, with more candidates."""
    entries = tomllib.loads(example.DESCRIPTION)
    defaults = {"max_detections": 100, "pre_nms": 1000}
    entries["preprocessing"] |= dict(zip(("height", "width"), example.SIZE, strict=True))
    entries["detector"] = {**defaults, **entries["detector"], "score_threshold": CANDIDATES}
    return entries


def halves(folder: Path, name: str) -> list[Calibration]:
    """Every second photograph of a folder, and the others, as inputs `name`."""
    files = image_files([folder]).files
    if len(files) < LEAST_IMAGES:
        raise CalibrationError(
            "too few photographs", received=f"{len(files)}", valid=f"{LEAST_IMAGES} or more"
        )
    feeds = [{name: example.pixels(load_image(file))} for file in files]
    return [Calibration.of(feeds[start::2]) for start in (0, 1)]


class Halves:
    """The float network, and its boxes in both halves."""

    def __init__(self, folder: Path) -> None:
        self.model = example.with_decoding(example.network())
        self.described = description()
        self.described["preprocessing"]["input"] = name = self.model.graph.input[0].name
        self.images = halves(folder, name)
        self.judges = [Judge(self.model, half, self.described) for half in self.images]

    def files(self, recipe: Recipe, work: Path) -> list[ModelProto]:
        """Quantized on each half; `work` keeps what is finished until both are."""
        states = [State(work / f"state{k}", half.digest) for k, half in enumerate(self.images)]
        done = [
            quantize(self.model, half, recipe, described=self.described, run=Run(state=state)).model
            for half, state in zip(self.images, states, strict=True)
        ]
        for state in states:
            state.remove()
        return done

    def precision(self, files: Sequence[ModelProto]) -> float:
        """AP in points, of each file on the half that it has not seen."""
        return float(
            np.mean([100 - judge.drop(file) for judge, file in zip(self.judges[::-1], files, strict=True)])
        )


def measure(both: Halves, name: str, bits: int, work: Path) -> dict[str, Any]:
    """One cell of the table; the files are kept in `work`."""
    cell = "".join(each for each in f"{name}_{bits}".replace(" ", "_") if each.isalnum() or each in "_-")
    kept = work / f"{cell}.json"
    if not kept.exists():
        recipe = Recipe(**RECIPES[name], weight_bits=bits, activation_bits=bits)
        files = both.files(recipe, work / cell)
        for index, file in enumerate(files):
            onnx.save(file, work / f"{cell}_{index}.qdq.onnx")
        found = {"recipe": name, "bits": bits, "AP": both.precision(files)}
        print(json.dumps(found), file=sys.stderr, flush=True)
        write_text(kept, json.dumps(found) + "\n")
    return json.loads(kept.read_text())


def table(cells: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: a row a recipe, a column a width."""
    found = {(cell["recipe"], cell["bits"]): f"{cell['AP']:.1f}" for cell in cells}
    widths = sorted({bits for _, bits in found}, reverse=True)
    lines = [
        "| recipe | " + " | ".join(f"{bits} bits" for bits in widths) + " |",
        "|---|" + "---|" * len(widths),
    ]
    for name in (each for each in RECIPES if any((each, bits) in found for bits in widths)):
        lines.append(f"| {name} | " + " | ".join(found.get((name, bits), "") for bits in widths) + " |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Measure what quantization leaves of CenterFace.")
    parser.add_argument("photographs", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--bits", nargs="+", type=int, default=[8, 4])
    parser.add_argument("--recipes", nargs="+", choices=list(RECIPES), default=list(RECIPES))
    parser.add_argument(
        "--size",
        nargs=2,
        type=int,
        default=example.SIZE,
        metavar=("H", "W"),
        help="of the input, multiples of 32",
    )
    options = parser.parse_args(arguments)
    example.SIZE = tuple(options.size)
    try:
        options.output.mkdir(parents=True, exist_ok=True)
        both = Halves(options.photographs)
        for bits in options.bits:
            for name in options.recipes:
                measure(both, name, bits, options.output)
        cells = [json.loads(path.read_text()) for path in sorted(options.output.glob("*.json"))]
        write_text(options.output / "table.md", table(cells))
    except (AqdError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print((options.output / "table.md").read_text(), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
