"""`aqd-deploy inspect`: what a file or a bundle holds."""

from __future__ import annotations

from pathlib import Path

import click

from aqd_deploy.cli.options import existing, json_option
from aqd_deploy.cli.output import print_json, print_text, verb


@verb(name="inspect")
@click.argument("file", type=existing("FILE"))
@json_option
def command(file: Path, as_json: bool) -> None:
    """Tell what a file holds: .onnx (of any kind), .so (a program), .pt (a checkpoint), or a bundle.

    Operators, bits, float tensors and tail of an ONNX file, be it integer, QDQ, QOperator, QONNX, FP16 or
    float; target, needs and bytes a weight of a program; files of a bundle; what lowering proved;
    configuration of a checkpoint. In at most 40 lines: `--json` has all.
    """
    from aqd_deploy.reporting.inspection import inspect_file

    document = inspect_file(file)
    if as_json:
        print_json(document)
    else:
        from aqd_deploy.reporting.inspection_view import inspection_view

        print_text(inspection_view(document))
