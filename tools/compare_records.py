"""How much of the tuned speed a user has who never tunes.

    python tools/compare_records.py MODEL.onnx [--records DIR] [--threads N]

Compiles a network twice, with the cost model's choices and with the tuned ones, checks that both programs
return equal integers, and times them in alternating rounds. Prints one JSON document: milliseconds of both
and `default_of_tuned`, the default's speed as a part of the tuned one's, by minima and by medians.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx

from aqd_deploy.bench.rounds import interleave, ratios, statistics
from aqd_deploy.cli.output import print_json, progress
from aqd_deploy.errors import ProgramError
from aqd_deploy.files import TemporaryFolder
from aqd_deploy.integer.files import load_onnx
from aqd_deploy.runtime.program import Program


def compare(
    int_model: onnx.ModelProto, records: str | None, threads: int | None, rounds: int, folder: Path
) -> dict[str, Any]:
    """The document of this module. Raises ProgramError where one integer differs."""
    from aqd_deploy.compiler import compile_model

    programs = {}
    for name, tuned in (("default", "none"), ("tuned", records)):
        path = folder / f"{name}.so"
        report = compile_model(int_model, path, threads=threads, tuned=tuned)
        progress(f"{name}: {report.manifest['program']['tuning']}")
        programs[name] = Program.load(path)
    inputs = programs["tuned"].random_inputs()
    first, second = (program.run(inputs) for program in programs.values())
    differing = sum(int(np.count_nonzero(first[name] != second[name])) for name in first)
    if differing:
        raise ProgramError("default and tuned program differ", received=f"{differing} integers")
    contenders = {name: (lambda p=program: p.run(inputs)) for name, program in programs.items()}
    seconds = interleave(contenders, rounds=rounds, runs=3)
    ratio = ratios(seconds["tuned"], seconds["default"])
    return {
        **{name: statistics(values) for name, values in seconds.items()},
        "default_of_tuned": {"minima": ratio["of_minima"], "medians": ratio["of_medians"]},
        "rounds_quartiles": ratio["rounds_quartiles"],
        "tuning": programs["tuned"].manifest["program"]["tuning"],
    }


@click.command(help=__doc__)
@click.argument("model", type=click.Path(exists=True, path_type=Path))
@click.option("--records", default=None, help="Folder of records.  [default: those that ship]")
@click.option("--threads", type=click.IntRange(1), default=None)
@click.option("--rounds", type=click.IntRange(1), default=20, show_default=True)
def main(model: Path, records: str | None, threads: int | None, rounds: int) -> None:
    """The command."""
    with TemporaryFolder() as folder:
        print_json(compare(load_onnx(model), records, threads, rounds, folder))


if __name__ == "__main__":
    main()
