"""`aqd-deploy bench`: latency, beside other runtimes where asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from aqd_deploy.cli.options import existing, json_option, threads_option
from aqd_deploy.cli.output import print_json, print_text, progress, verb


@verb(name="bench")
@click.argument("program", type=existing("PROGRAM"))
@click.option("--against", default="", metavar="PEERS", help="Comma-separated: onnxruntime, openvino.")
@click.option("--model", type=existing("QDQ.onnx"), help="The QDQ file.  [default: found beside the program]")
@threads_option
@click.option("--rounds", type=click.IntRange(1, 1000), default=10, show_default=True, help="Rounds.")
@click.option(
    "--runs", type=click.IntRange(1, 1000), default=3, show_default=True, help="Measured runs a round."
)
@click.option("--max-ms", type=float, help="Gate: exit code 3 where the program's median is above.")
@json_option
def command(
    program: Path,
    against: str,
    model: Path | None,
    threads: int | None,
    rounds: int,
    runs: int,
    max_ms: float | None,
    as_json: bool,
) -> None:
    """Measure a program, interleaved with other runtimes on the same network and number of threads.

    A peer runs the float network and the INT8 QDQ form that onnxruntime's quantize_static makes of it.
    """
    from aqd_deploy.bench.measure import bench

    peers = [name.strip() for name in against.split(",") if name.strip()]
    document = bench(
        program, against=peers, model=model, threads=threads, rounds=rounds, runs=runs, progress=progress
    )
    if as_json:
        print_json(document)
    else:
        print_text(_text(document))
    median = document["contenders"]["aqd-deploy"]["median_ms"]
    if max_ms is not None and median > max_ms:
        from aqd_deploy.errors import GateError

        raise GateError("the median latency is above --max-ms", received=f"{median} ms", valid=f"{max_ms} ms")


def _text(document: dict[str, Any]) -> str:
    from aqd_deploy.reporting.tables import table

    rows = []
    for name, entry in document["contenders"].items():
        ratio = document["ratios"].get(name)
        spread = "-" if ratio is None else "{:.2f} to {:.2f}".format(*ratio["rounds_quartiles"][::2])
        ours = None if ratio is None else ratio["of_medians"]
        rows.append([name, entry["min_ms"], entry["median_ms"], entry["p90_ms"], ours, spread])
    lines = [
        f"{document['name']}, {document['threads']} threads, {document['rounds']} interleaved rounds",
        table(["", "min ms", "median ms", "p90 ms", "ours/it", "quartiles"], rows),
    ]
    lines += [
        f"not installed: {entry['peer']}; try: {entry['next_command']}" for entry in document["missing"]
    ]
    return "\n".join(lines)
