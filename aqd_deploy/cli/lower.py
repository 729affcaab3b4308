"""`aqd-deploy lower`: QDQ ONNX to integer ONNX."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from aqd_deploy.cli.options import ShapeType, existing, json_option, numerics_option
from aqd_deploy.cli.output import StatusLine, print_json, print_text, verb
from aqd_deploy.errors import AqdError
from aqd_deploy.files import check_output


@verb(name="lower")
@click.argument("model", type=existing("QDQ.onnx"))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="The integer ONNX to write."
)
@numerics_option
@click.option("--shape", type=ShapeType(), help="Static shape for a dynamic input, for example 1x3x320x320.")
@click.option(
    "--explain",
    is_flag=True,
    help="Tell for every pass what it changed, and why it left the rest alone; --json: of every node.",
)
@click.option(
    "--dump-passes",
    "dump",
    type=click.Path(file_okay=False),
    metavar="DIR",
    help="Write what each pass left to DIR: a text, a line for each node, and an ONNX file where it is one.",
)
@json_option
def command(
    model: Path,
    output: Path,
    numerics: str,
    shape: tuple[int, ...] | None,
    explain: bool,
    dump: str | None,
    as_json: bool,
) -> None:
    """Lower a QDQ ONNX file to integer ONNX; tell what is proven of its requantizations, and of what.

    What stays float behind the last quantizers, the tail, is written beside it: M.int.tail.onnx.
    """
    check_output(output, model)
    from aqd_deploy.integer.files import load_onnx, onnx_bytes, save_onnx
    from aqd_deploy.integer.tail import tail_path, with_tail
    from aqd_deploy.passes.dump import dumping
    from aqd_deploy.passes.pipeline import lower
    from aqd_deploy.reporting.explanation import explanation, tail_summary

    folder = None if dump is None else _dump_folder(dump, output)
    qdq = load_onnx(model)
    with StatusLine() as line, nullcontext() if folder is None else dumping(folder, [model, output]) as note:
        show = _Passes(line)
        result = lower(qdq, numerics=numerics, shape=shape, on_pass=show, on_state=note)
    tail = None if result.tail is None else onnx_bytes(result.tail, tail_path(output))
    with with_tail(output, tail, model):
        save_onnx(result.model, output)
    behind = None if result.tail is None else tail_summary(result.tail, tail_path(output))
    if as_json:
        print_json({"file": str(output), **({"tail": behind} if behind else {}), **result.report})
        return
    if explain:
        print_text(explanation(result.report, behind))
    print_text(_summary(output, result.report, behind))
    if behind is None and tail_path(output).exists():
        print_text(f"{tail_path(output)} is not this network's, which has no tail: nothing reads it")


class _Passes:
    """Which pass runs, for whoever waits at a terminal."""

    def __init__(self, line: StatusLine) -> None:
        from aqd_deploy.passes.pipeline import PASSES

        self._line = line
        self._names = [each.name for each in PASSES]
        self._tell(0)

    def __call__(self, _: object) -> None:
        """Called as each pass ends."""
        self._tell(self._done + 1)

    def _tell(self, done: int) -> None:
        self._done = done
        if done < len(self._names):
            self._line.show(f"pass {done + 1} of {len(self._names)}: {self._names[done]}")


def _dump_folder(name: str, output: Path) -> Path:
    """What --dump-passes names. To `Path`, "" is the current folder."""
    from aqd_deploy.passes.dump import check_dump

    if not name:
        raise AqdError("the folder of --dump-passes has no name", received="''", valid="the name of a folder")
    check_dump(Path(name), output)
    return Path(name)


def _summary(output: Path, report: dict[str, Any], tail: dict[str, Any] | None) -> str:
    from aqd_deploy.passes.proven import sentences
    from aqd_deploy.reporting.explanation import tail_sentence
    from aqd_deploy.tables import bullets

    bound = max((entry["error_bound"] for entry in report["skip_adds"]), default=0.0)
    lines = [
        *sentences(report),
        f"{len(report['skip_adds'])} skip-adds, each off by at most {bound:.3g} integer steps",
        f"float tensors inside: {report['float_tensors']}",
    ]
    if tail is not None:
        lines.append(f"{tail_sentence(tail)}: {tail['file']}")
    return f"{output} ({report['numerics']} numerics)\n{bullets(lines)}"
