"""`aqd-deploy inspect`: what a file or a bundle holds, and what quantization did to a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from aqd_deploy.cli.options import DescriptionType, existing, json_option
from aqd_deploy.cli.output import StatusLine, print_json, print_text, verb


@verb(name="inspect")
@click.argument("file", type=existing("FILE"))
@click.option(
    "--compare", "network", type=existing("FLOAT.onnx"),
    help="The float network that FILE, a quantized one, was made of: tell for each layer what is lost.",
)  # fmt: skip
@click.option(
    "--calibration", type=existing("DIR|F.npz"),
    help="Images for --compare: a folder, or an .npz file with an array [N, …] of the network's input.",
)  # fmt: skip
@click.option(
    "--detector", type=DescriptionType(), metavar="F.toml|NAME",
    help="With --compare: how images become the input, for a file that is silent on it.",
)  # fmt: skip
@json_option
def command(
    file: Path, network: Path | None, calibration: Path | None, detector: Path | None, as_json: bool
) -> None:
    """Tell what a file holds: .onnx (of any kind), .so (a program), .pt (a checkpoint), or a bundle.

    Operators, bits, float tensors and tail of an ONNX file, be it integer, QDQ, QOperator, QONNX, FP16 or
    float; target, needs and bytes a weight of a program; files of a bundle; what lowering proved;
    configuration of a checkpoint. In at most 40 lines: `--json` has all.

    With --compare: how far each layer of a quantized file is from the float network, alone and with all
    layers before it quantized as well, the most damaged first, and what to try.
    """
    if network is None:
        if calibration is not None or detector is not None:
            raise click.UsageError("--calibration and --detector go with --compare FLOAT.onnx")
        from aqd_deploy.reporting.inspection import inspect_file
        from aqd_deploy.reporting.inspection_view import inspection_view

        _print(inspect_file(file), inspection_view, as_json)
        return
    if calibration is None:
        raise click.UsageError("--compare needs images: --calibration DIR, or an .npz file")
    from aqd_deploy.reporting.comparison_view import comparison_view

    _print(_compared(file, network, calibration, detector), comparison_view, as_json)


def _print(document: dict[str, Any], view: Any, as_json: bool) -> None:
    if as_json:
        print_json(document)
    else:
        print_text(view(document))


def _compared(file: Path, network: Path, calibration: Path, detector: Path | None) -> dict[str, Any]:
    from aqd_deploy.cli.quantize import described
    from aqd_deploy.integer.files import load_onnx
    from aqd_deploy.quantization.calibration import calibration_of
    from aqd_deploy.quantization.compare import compare

    quantized, exact = load_onnx(file), load_onnx(network)
    images = calibration_of(calibration, quantized, described(detector, quantized, {}))
    with StatusLine() as line:

        def feeds() -> Any:
            for index, feed in enumerate(images.feeds()):
                line.show(f"image {index + 1} of {len(images)}")
                yield feed

        document = compare(quantized, exact, feeds())
    return {"file": str(file), "float": str(network), **document}
