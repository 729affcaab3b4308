"""`aqd-deploy package`: a program file to a folder that runs on a bare device."""

from __future__ import annotations

from pathlib import Path

import click

from aqd_deploy.cli.options import existing, json_option
from aqd_deploy.cli.output import print_json, print_text, progress, verb


@verb(name="package")
@click.argument("program", type=existing("PROGRAM.so"))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True,
              help="The folder to write; a bundle there is replaced.")  # fmt: skip
@click.option("--runtime", type=click.Path(path_type=Path), metavar="DIR",
              help="TVM's runtime libraries for the target.  [default: found or made]")  # fmt: skip
@json_option
def command(program: Path, output: Path, runtime: Path | None, as_json: bool) -> None:
    """Package a program with its runtime and a native runner for a device without Python.

    The folder runs where it is copied to: `./aqd-run --input NAME=x.npy --output out` prints JSON.
    """
    from aqd_deploy.bundle import create_bundle
    from aqd_deploy.integer.tail import read_tail
    from aqd_deploy.runtime.container import read_manifest

    manifest = read_manifest(program)
    target = manifest["program"]["target"]
    progress(f"packaging for {target['name']} ({target['architecture']})")
    bundle = create_bundle(
        program, output, runtime=runtime, tail=read_tail(program, manifest), progress=progress
    )
    if as_json:
        print_json({
            "folder": str(output), "total_bytes": bundle.total_bytes,
            "bytes_beside_weights": bundle.bytes_beside_weights, **bundle.manifest,
        })  # fmt: skip
        return
    for name, size in bundle.files.items():
        print_text(f"{size:>12,}  {name}")
    print_text(f"{bundle.total_bytes:>12,}  in all")
    print_text(f"{bundle.bytes_beside_weights:>12,}  beside the weights")
