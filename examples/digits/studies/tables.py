"""The studies' tables: Markdown of the results in `results/`, and `docs/studies.md` brought up to them.

    python examples/digits/studies/tables.py [--write]

prints the tables, or writes them between the marks `<!-- STUDY -->` and `<!-- end -->` of the page.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import arms

from aqd_deploy.files import write_text

RESULTS = Path(__file__).resolve().parent / "results"
PAGE = Path(__file__).resolve().parents[3] / "docs" / "studies.md"
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
PAPER_NORMS = {  # Table 3, FCOS on ResNet-18, COCO: float and 2 bits
    "shared": (29.5, 26.4), "group": (34.0, 29.4), "levels": (33.9, 31.8),
}  # fmt: skip
PAPER_BITS = {  # Tables 2 and 4, ResNet-18, COCO: (AQD, AQD*), of the float network one number
    "retinanet": {None: (32.3,), 4: (34.1, 34.1), 3: (33.4, 33.5), 2: (30.8, 31.0)},
    "fcos": {None: (33.9,), 4: (34.1, 34.9), 3: (33.6, 34.3), 2: (31.8, 32.2)},
}
PAPER_PARTS = (33.9, 33.8, 33.2, 32.2)  # Table 5: float, then the rows of arms.PARTS
LONGER = "float, trained as long as the others"
DENSITIES = (
    "float",
    LONGER,
    *(f"{bits} bits, `{kind}`" for bits in (8, 4) for kind in ("piecewise-gaussian", "aqd")),
)
PAPER_DENSITIES = {
    "float": "64.0",
    "8 bits, `piecewise-gaussian`": "63.9",
    "4 bits, `piecewise-gaussian`": "62.6",
}
TITLES = {"fcos": "FCOS", "retinanet": "RetinaNet"}


def points(value: float | None) -> str:
    """An average precision of 0..1 in points."""
    return "" if value is None else f"{100 * value:.1f}"


def spread(values: list[float]) -> str:
    """The mean in points and half of what the values spread over; one value as it is."""
    mean = 100 * sum(values) / len(values)
    return f"{mean:.1f}" if len(values) == 1 else f"{mean:.1f} ± {50 * (max(values) - min(values)):.1f}"


def rows(header: list[str], body: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def head_norm(found: dict[str, Any]) -> str:
    body = []
    for column, (bits, precision) in enumerate(((None, "float"), (2, "2 bits"))):
        for norm, title in arms.NORMS.items():
            values = {
                metric: [each[metric] for each in found.values()
                         if (each["head_norm"], each["bits"]) == (norm, bits)]
                for metric in METRICS
            }  # fmt: skip
            if values["AP"]:
                seeds = ", ".join(points(value) for value in values["AP"])
                cells = [spread(values[metric]) for metric in METRICS]
                body.append([precision, title, *cells, seeds, f"{PAPER_NORMS[norm][column]}"])
    return rows(["", "head", *METRICS, "AP by seed", "AP in the paper (COCO)"], body)


def bits(found: dict[str, Any]) -> str:
    body = []
    for detector, title in TITLES.items():
        for width, paper in PAPER_BITS[detector].items():
            for mode, published in zip(arms.MODES if width else ("aqd",), paper, strict=True):
                arm = arms.Arm(detector, "levels", arms.SEEDS[0], width, mode)
                if arm.name in found:
                    name = f"{arms.MODES[mode]}, {width} bits" if width else "float"
                    cells = [points(found[arm.name][metric]) for metric in METRICS]
                    body.append([title, name, *cells, f"{published}"])
    return rows(["", "", *METRICS, "AP in the paper (COCO)"], body)


def parts(found: dict[str, Any]) -> str:
    body = []
    for title, arm, published in zip(("nothing", *arms.PARTS), arms.parts(), PAPER_PARTS, strict=True):
        if arm.name in found:
            cells = [points(found[arm.name][metric]) for metric in METRICS]
            body.append([title, *cells, f"{published}"])
    return rows(["quantized to 2 bits", *METRICS, "AP in the paper (COCO)"], body)


def scales(found: dict[str, Any]) -> str:
    body = []
    for name, each in found.items():
        exact, coarse = (each["numerics"][mode]["AP"] for mode in ("exact", "power-of-two"))
        body.append([f"`{name}`", points(exact), points(coarse), f"{100 * (coarse - exact):+.1f}"])
    return rows(["network", "AP, exact", "AP, powers of two", "difference"], body)


def densities(found: dict[str, Any]) -> str:
    kinds: dict[str, list[dict[str, Any]]] = {title: [] for title in DENSITIES}
    for each in found.values():
        floating = "float" if each["start"] is None else LONGER
        kinds[floating if each["bits"] is None else f"{each['bits']} bits, `{each['quantizer']}`"].append(
            each
        )
    body = []
    for title, of_row in kinds.items():
        if of_row:
            cells = [spread([each[metric] for each in of_row]) for metric in METRICS]
            seeds = ", ".join(points(each["AP"]) for each in of_row)
            body.append([title, *cells, seeds, PAPER_DENSITIES.get(title, "")])
    return rows(["", *METRICS, "AP by seed", "mAP in the paper (YOLO, VOC 2012)"], body)


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "head-norm": head_norm, "bits": bits, "parts": parts, "densities": densities, "scales": scales,
}  # fmt: skip


def table(study: str) -> str:
    """The Markdown table of a study's results."""
    if not (RESULTS / f"{study}.json").exists():
        return "Not measured yet."
    document = json.loads((RESULTS / f"{study}.json").read_text())
    return TABLES[study]({each["name"]: each for each in document["arms"]})


def updated(page: str) -> str:
    """The page with every table as the results have it."""
    for study in TABLES:
        marks = re.compile(rf"(<!-- {study} -->\n).*?(<!-- end -->)", re.DOTALL)
        page = marks.sub(lambda found, study=study: f"{found[1]}{table(study)}\n{found[2]}", page)
    return page


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Show the studies' tables, or write them into the page.")
    parser.add_argument("--write", action="store_true", help=f"bring {PAGE.name} up to the results")
    options = parser.parse_args(arguments)
    if options.write:
        write_text(PAGE, updated(PAGE.read_text()))
        return 0
    for study in TABLES:
        print(f"{study}\n\n{table(study)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
