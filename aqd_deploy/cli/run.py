"""`aqd-deploy run`: a program, or the reference of an integer ONNX file, on arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from aqd_deploy.cli.options import device_for, device_option, existing, json_option, threads_option
from aqd_deploy.cli.output import print_json, print_text, progress, verb
from aqd_deploy.files import check_output


@verb(name="run")
@click.argument("program", type=existing("PROGRAM"))
@click.option("--input", "source", type=existing("X.npz"), required=True,
              help="Arrays by input name (.npz), or the array of the only input (.npy).")  # fmt: skip
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Where to write the outputs (.npz).")
@click.option("--floats", is_flag=True,
              help="Give the numbers that integers stand for, through the tail if there is one.")  # fmt: skip
@click.option("--check", type=existing("M.int.onnx"),
              help="Run this integer ONNX too; exit code 3 if any integer differs.")  # fmt: skip
@device_option
@threads_option
@json_option
def command(
    program: Path, source: Path, output: Path | None, floats: bool, check: Path | None, device: str | None,
    threads: int | None, as_json: bool,
) -> None:  # fmt: skip
    """Run a program (.so), a bundle (a folder), or an integer ONNX file by the reference, on arrays.

    Inputs and outputs have the names and shapes of the network that was quantized. An input of floats is
    quantized as that network would, where its manifest has the scale; one of integers is taken as it is.
    Outputs are integers; --floats gives the numbers that they stand for.
    """
    if output is not None:
        check_output(output, program, source)
    from aqd_deploy.arrays import read_arrays, write_arrays
    from aqd_deploy.workflow.runners import open_runner

    with open_runner(program, threads, device_for(program, device)) as runner:
        if floats:
            # What is wrong with the tail is told before the network runs.
            _ = runner.tail
        inputs = read_arrays(source, runner.wanted)
        outputs = runner.run(inputs)
        given = runner.floats(outputs) if floats else outputs
        if not floats and "tail" in runner.manifest:
            progress("integers: the tail behind them was not run; --floats runs it")
    if output is not None:
        write_arrays(output, given)
    document: dict[str, Any] = {
        "outputs": {
            name: {"dtype": str(array.dtype), "shape": list(array.shape)} for name, array in given.items()
        }
    }
    differing = None
    if check is not None:
        document["check"] = _compare(outputs, open_runner(check, threads).run(inputs))
        differing = document["check"]["differing"]
    if as_json:
        print_json(document)
    else:
        for name, entry in document["outputs"].items():
            print_text(f"{name}  {entry['dtype']}  {'x'.join(map(str, entry['shape']))}")
        if check is not None:
            print_text(f"{differing} of {document['check']['count']} integers differ from {check}")
    if differing:
        from aqd_deploy.errors import GateError

        raise GateError(f"{differing} integers differ", received=f"{program} against {check}", valid="0")


def _compare(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    import dataclasses

    from aqd_deploy.evaluation.compare import compare_integers, total_difference

    by_output = compare_integers(first, second)
    return {
        **dataclasses.asdict(total_difference(by_output)),
        "outputs": {name: dataclasses.asdict(entry) for name, entry in by_output.items()},
    }
