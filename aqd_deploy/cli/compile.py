"""`aqd-deploy compile`: QDQ or integer ONNX to one program file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aqd_deploy.cli.options import ShapeType, existing, json_option, numerics_option, threads_option
from aqd_deploy.cli.output import StatusLine, print_json, print_text, progress, verb

if TYPE_CHECKING:
    from aqd_deploy.targets import Target

_STAGES = {
    "plan": "reading the network",
    "import_compiler": "loading the compiler",
    "kernels": "choosing and writing the kernels",
    "relax": "putting the program together",
    "codegen": "generating machine code",
    "link": "linking",
}


@verb(name="compile")
@click.argument("model", type=existing("MODEL.onnx"))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="The program (.so) to write."
)
@click.option("--target", default="host", show_default=True,
              help="A profile's name (see `aqd-deploy targets`) or a TVM target string.")  # fmt: skip
@threads_option
@numerics_option
@click.option("--shape", type=ShapeType(), help="Static shape for a dynamic input, for example 1x3x320x320.")
@click.option("--images", type=click.IntRange(1, 256), default=1, show_default=True,
              help="Images that one run takes; more than one on a card only.")  # fmt: skip
@click.option("--tuned", metavar="DIR|none", help="Tuning records.  [default: those that ship for this CPU]")
@json_option
def command(
    model: Path, output: Path, target: str, threads: int | None, numerics: str, shape: tuple[int, ...] | None,
    images: int, tuned: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Compile a QDQ or integer ONNX file into one self-describing program.

    What stays float behind the network, its tail, lies beside the program: PROGRAM.tail.onnx.
    """
    from aqd_deploy import targets
    from aqd_deploy.cli.models import integer_model_of
    from aqd_deploy.compiler import compile_model
    from aqd_deploy.compiler.build import find_compiler
    from aqd_deploy.integer.files import onnx_bytes
    from aqd_deploy.integer.manifest import read_manifest
    from aqd_deploy.integer.tail import read_tail, tail_path, with_tail
    from aqd_deploy.kernels.backends import check_backend
    from aqd_deploy.runtime.container import check_program_output

    # What is wrong with the output, or missing, is told before the work begins.
    check_program_output(output, model)
    device = targets.get(target)
    check_backend(device.backend)
    toolchain = find_compiler(device)
    proto, tail = integer_model_of(model, numerics, shape)
    behind = read_tail(model, read_manifest(proto)) if tail is None else onnx_bytes(tail, tail_path(output))
    with with_tail(output, behind, model), StatusLine() as line:
        report = compile_model(
            proto, output, target=device, threads=threads, source=model, tuned=tuned, toolchain=toolchain,
            images=images,
            on_stage=lambda stage: line.show(_STAGES[stage]), on_target=lambda told: _tell_target(told, line),
        )  # fmt: skip
    program = report.manifest["program"]
    if "tuning" in program:
        _tell_tuning(program["tuning"], report.of_other_cpus, tuned)
    if as_json:
        print_json({
            "file": str(output), "bytes": report.file_bytes, "seconds": report.seconds,
            "total_seconds": round(report.total_seconds, 3), "program": program,
            **({} if behind is None else {"tail": str(tail_path(output))}),
        })  # fmt: skip
    else:
        print_text(f"{output}: {report.file_bytes / 1e6:.2f} MB in {report.total_seconds:.1f} s")
        if behind is not None:
            print_text(f"{tail_path(output)}: what stays float behind it, for onnxruntime")


def _tell_target(target: Target, line: StatusLine) -> None:
    """For what the program is compiled, on stderr, in the place of the line."""
    from aqd_deploy.targets.isa import isa_named

    line.clear()
    progress(f"compiling for {target.name} ({target.kernels} kernels)")
    if not target.card and isa_named(target.kernels).is_portable:
        progress("the kernels know no instructions of this target: portable arithmetic, exact but slower")


def _tell_tuning(tuning: dict[str, Any], of_other_cpus: Sequence[str], tuned: str | None) -> None:
    """Where the kernels come from, on stderr. That the shipped records are of another CPU is normal."""
    found = tuning["task"] + tuning["shape"]
    of_others = of_other_cpus if tuned is None else []
    for note in tuning["notes"]:
        if note not in of_others:
            progress(note)
    if of_others and not found:
        progress(
            "the cost model chose the kernels: no measurements of this CPU come with aqd-deploy, "
            "`aqd-deploy tune` makes them"
        )
    else:
        progress(f"{found} of {found + tuning['default']} convolutions tuned ({tuned or 'shipped'} records)")
