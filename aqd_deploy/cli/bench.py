"""`aqd-deploy bench`: latency, beside other runtimes where asked."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from aqd_deploy.cli.options import device_for, device_option, existing, json_option, refuse_others
from aqd_deploy.cli.output import print_json, print_text, progress, verb


class ThreadsType(click.ParamType):
    """`2` or `1,2`: numbers of threads, each from 1 to 256."""

    name = "N,…"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        if isinstance(value, list):
            return value
        parts = str(value).split(",")
        if not all(re.fullmatch(r"\d{1,3}", part) and 1 <= int(part) <= 256 for part in parts):
            self.fail(f"{value!r} is not a list of thread counts; valid: 2 or 1,2, up to 256", param, ctx)
        return [int(part) for part in parts]


@verb(name="bench")
@click.argument("program", type=existing("PROGRAM"))
@click.option("--against", default="", metavar="PEERS",
              help="Comma-separated: onnxruntime, openvino, ncnn, mnn.")  # fmt: skip
@click.option("--model", type=existing("QDQ.onnx"), help="The QDQ file.  [default: found beside the program]")
@click.option(
    "--image", type=existing("IMAGE"), help="The input, which also calibrates.  [default: textures]"
)
@click.option("--threads", type=ThreadsType(), help="Threads: 2, or 1,2 for both in one run.  "
              "[default: as compiled]")  # fmt: skip
@click.option("--rounds", type=click.IntRange(1, 1000), default=10, show_default=True, help="Rounds.")
@click.option(
    "--runs", type=click.IntRange(1, 1000), default=3, show_default=True, help="Measured runs a round."
)
@click.option("--layers", is_flag=True, help="Add the layer table, and the machine's dot-product peak.")
@click.option("--memory", is_flag=True, help="Add memory and start-up of fresh processes.")
@click.option("--keep", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
              help="Keep the peers' models here, to use them again.  [default: nowhere]")  # fmt: skip
@device_option
@click.option("--max-ms", type=float, help="Gate: exit code 3 where the program's median is above.")
@click.option("--max-ratio", "max_ratios", multiple=True, metavar="PEER=R",
              help="Gate: exit code 3 where the program takes more than R of the time of the peer's faster "
              "INT8 variant (minima). Can be given several times.")  # fmt: skip
@click.option("--estimate", "profile", metavar="PROFILE",
              help="Measure nothing: estimate the time on this profile's device, layer by layer. PROGRAM may "
              "then be an ONNX file, and be for any device.")  # fmt: skip
@json_option
def command(
    program: Path, against: str, model: Path | None, image: Path | None, threads: list[int] | None,
    rounds: int, runs: int, layers: bool, memory: bool, keep: Path | None, device: str | None,
    max_ms: float | None, max_ratios: tuple[str, ...], profile: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Measure a program, interleaved with other runtimes on the same network, image and number of threads.

    A peer runs the float network and its INT8 variants: the QDQ file that onnxruntime's quantize_static makes
    of it, and what its own tools make. A QDQ file of another writer it runs as it is. See
    docs/how-to/benchmark.md.
    """
    if profile is not None:
        refuse_others("--estimate measures nothing", "program", "profile", "threads", "as_json", "debug")
        _estimate(program, profile, threads, as_json)
        return
    from aqd_deploy.bench.gates import check_gates, parse_ratio

    peers = [name.strip() for name in against.split(",") if name.strip()]
    limits = [parse_ratio(text, peers) for text in max_ratios]
    where = device_for(program, device)
    from aqd_deploy.devices import open_device

    if open_device(where).here:
        from aqd_deploy.bench.measure import bench

        document = bench(
            program, against=peers, model=model, threads=threads, rounds=rounds, runs=runs,
            images=_pixels(image, program), layers=layers, memory=memory, keep=keep, progress=progress,
        )  # fmt: skip
    else:
        from aqd_deploy.bench.device import bench_on_device, check_only_latency

        check_only_latency(where, {
            "--against": peers, "--model": model, "--image": image, "--memory": memory, "--keep": keep,
        })  # fmt: skip
        document = bench_on_device(
            program, where, threads=threads, rounds=rounds, runs=runs, layers=layers, progress=progress
        )
    if as_json:
        print_json(document)
    else:
        from aqd_deploy.bench.view import text_view

        print_text(text_view(document))
    check_gates(document, max_ms, limits)


def _estimate(path: Path, profile: str, threads: list[int] | None, as_json: bool) -> None:
    from aqd_deploy import targets
    from aqd_deploy.bench.estimate import estimate

    document = estimate(path, targets.get(profile), threads=threads, progress=progress)
    if as_json:
        print_json(document)
    else:
        from aqd_deploy.bench.estimate_view import estimate_view

        print_text(estimate_view(document))


def _pixels(image: Path | None, program: Path) -> Any:
    """The image as the program's preprocessing makes it, uint8 [1, 3, H, W]; None without one."""
    if image is None:
        return None
    from aqd_deploy.detection.images import Preprocess, load_image
    from aqd_deploy.runtime.container import read_manifest

    pixels, _ = Preprocess.from_manifest(read_manifest(program))(load_image(image))
    return pixels
