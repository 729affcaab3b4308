"""`aqd-deploy export`: a checkpoint, or a named architecture with random weights, to QDQ ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from aqd_deploy.cli.options import SizeType, existing, json_option
from aqd_deploy.cli.output import print_json, print_text, progress, verb
from aqd_deploy.files import check_output

DEFAULT_SIZE = (320, 320)


@verb(name="export")
@click.argument("source", metavar="CHECKPOINT|ARCH|CFG")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="The ONNX file to write."
)
@click.option(
    "--bits", type=click.IntRange(2, 8), default=4, show_default=True, help="ARCH: bits of inner layers."
)
@click.option(
    "--image-size", type=SizeType(),
    help="ARCH, and checkpoints from elsewhere: 320 or HxW.  [default: 320, or what a .cfg says]",
)  # fmt: skip
@click.option("--classes", type=click.IntRange(1, 1000), default=80, show_default=True, help="ARCH: classes.")
@click.option("--width", type=click.FloatRange(0.05, 1.0), default=1.0, show_default=True,
              help="ARCH: factor on the channels of the backbone.")  # fmt: skip
@click.option("--seed", type=int, default=0, show_default=True, help="ARCH: seed of the random weights.")
@click.option("--config", "recipe", type=click.Path(path_type=Path), metavar="F.yaml",
              help="The training's configuration, of a checkpoint of Detectron2 or AdelaiDet.")  # fmt: skip
@click.option("--weights", type=existing("F.weights"), help="CFG: the weights of a Darknet network.")
@click.option("--names", type=existing("F.names"), help="CFG: the names of its classes, one a line.")
@json_option
def command(
    source: str, output: Path, bits: int, image_size: tuple[int, int] | None, classes: int, width: float,
    seed: int, recipe: Path | None, weights: Path | None, names: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Write the ONNX file of a trained checkpoint, of a named architecture or of a Darknet network.

    Checkpoints are our own (.pt), and those of AQD's authors, Detectron2, AdelaiDet and torchvision (.pth,
    .pkl, .safetensors); of a float network the file has no quantizers.

    ARCH names a detector and the depth of its ResNet, for example retinanet_r18 or fcos_r50, or is
    yolov2_tiny or yolov2: a network with calibrated random weights, for latency work before training.

    CFG is a Darknet .cfg with its --weights; what is written is a float network, for quantize.
    """
    given = [each for each in (recipe, weights, names) if each is not None]
    check_output(output, Path(source), *given)
    if Path(source).suffix == ".cfg":
        from aqd_deploy.frontends.darknet.export import export_darknet, weights_of

        summary = export_darknet(
            Path(source), weights_of(Path(source), weights), output, names=names, image_size=image_size,
            progress=progress,
        )  # fmt: skip
    else:
        if weights is not None or names is not None:
            raise click.UsageError("--weights and --names go with a Darknet .cfg")
        from aqd_deploy.frontends.export import ArchitectureOptions, export_source

        options = ArchitectureOptions(
            bits=bits, image_size=image_size or DEFAULT_SIZE, classes=classes, width=width, seed=seed
        )
        summary = export_source(source, output, options, progress, recipe)
    if as_json:
        print_json(summary)
    else:
        print_text(f"{output}: {summary['name']}, {summary['nodes']} nodes, {summary['bytes'] / 1e6:.2f} MB")
        for line in _origin(summary.get("origin")):
            print_text(line)


def _origin(origin: dict[str, Any] | None) -> list[str]:
    """What became of the tensors of a checkpoint from elsewhere, and what was taken as given."""
    if origin is None:
        return []
    unused, missing = (_shown(origin[key]) for key in ("unused", "missing"))
    return [
        f"{origin['source']}: {len(origin['used'])} tensors used, {unused} unused, {missing} missing"
        " (--json lists them)",
        *origin["notes"],
    ]


def _shown(names: list[str]) -> str:
    """How many, and the first of them."""
    return f"{len(names)} (such as {names[0]})" if names else "none"
