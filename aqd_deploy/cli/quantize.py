"""`aqd-deploy quantize`: a float network to QDQ ONNX, by calibration images."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aqd_deploy.cli.bit_search import limit_of, search_bits, search_options
from aqd_deploy.cli.options import (
    DescriptionType,
    DurationType,
    ShapeType,
    TripleType,
    clock,
    existing,
    json_option,
)
from aqd_deploy.cli.output import StatusLine, print_json, print_text, progress, verb
from aqd_deploy.files import check_output, write_text

if TYPE_CHECKING:
    from onnx import ModelProto

    from aqd_deploy.quantization.progress import Progress
    from aqd_deploy.quantization.recipe import Recipe

_BITS = click.IntRange(2, 8)
_WORST = 3
"""Layers that the summary names."""


@verb(name="quantize")
@click.argument("model", type=existing("FLOAT.onnx"))
@click.option(
    "--calibration", type=existing("DIR|F.npz"), required=True,
    help="Images: a folder, or an .npz file with an array [N, …] of the network's input.",
)  # fmt: skip
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The QDQ file to write.")
@click.option(
    "--recipe", "recipe_file", type=existing("RECIPE"),
    help="A .toml or .json file with all that is wanted; the options below change what it says.",
)  # fmt: skip
@click.option(
    "--complete", "completes", is_flag=True,
    help="The file is quantized in part: add the quantizers that lower needs, keep those that it has.",
)  # fmt: skip
@click.option("--method", metavar="METHOD", help="How ranges are chosen.  [default: minmax]")
@click.option(
    "--bits", type=_BITS,
    help="Of weights and activations, but for the first and the last layers.  [default: 8]",
)  # fmt: skip
@click.option("--weight-bits", type=_BITS, help="Of weights alone.")
@click.option("--activation-bits", type=_BITS, help="Of activations alone.")
@click.option("--first-last-bits", type=_BITS, help="Of the first and the last layers.  [default: 8]")
@click.option("--exclude", metavar="PATTERN", multiple=True, help="Layers that stay float, say 'head.*'.")
@click.option("--equalise", is_flag=True, help="Even the ranges of neighbouring layers' channels out.")
@click.option(
    "--adaptive-rounding", type=click.IntRange(1, 1_000_000), metavar="ITERATIONS",
    help="Learn which neighbouring code each weight takes; 2000 iterations a layer are plenty.",
)  # fmt: skip
@click.option("--bias-correction", is_flag=True, help="Take what rounding does to the mean off the biases.")
@click.option("--symmetric", is_flag=True, help="Signed codes without zero points for values of both signs.")
@click.option("--per-tensor", is_flag=True, help="One scale for all weights of a layer, not one a channel.")
@click.option(
    "--detector", type=DescriptionType(), metavar="F.toml|NAME",
    help="How images become the input and outputs boxes, for a file that is silent on it.",
)  # fmt: skip
@click.option("--color", type=click.Choice(("RGB", "BGR")), help="Order of the input's channels.")
@click.option("--mean", type=TripleType(), help="Taken off the pixels of a float input, in --color's order.")
@click.option("--std", type=TripleType(), help="What these are divided by then.")
@click.option("--shape", type=ShapeType(), help="Static shape for a dynamic input, for example 1x3x320x320.")
@click.option(
    "--time-budget", type=DurationType(), metavar="TIME",
    help="What only makes the file better ends then, for example 90s, 10m.",
)  # fmt: skip
@click.option(
    "--save-recipe", type=click.Path(path_type=Path), metavar="FILE",
    help="Write the recipe that was followed as .toml or .json.",
)  # fmt: skip
@search_options
@json_option
def command(
    model: Path, calibration: Path, output: Path, recipe_file: Path | None, detector: Path | None,
    completes: bool, shape: tuple[int, ...] | None, time_budget: float | None, save_recipe: Path | None,
    as_json: bool,
    **options: Any,
) -> None:  # fmt: skip
    """Quantize a float ONNX network by calibration images; the result is a QDQ file, which lower takes.

    A run that is interrupted goes on where it was when the command is repeated; what it has finished lies
    beside the output, in OUT.state, until it is done.
    """
    limit = limit_of(options)
    if limit is not None and completes:
        raise click.UsageError("--search takes a float network, --complete one that is quantized in part")
    check_output(output, model, calibration)
    if save_recipe is not None:
        check_output(save_recipe, model, calibration, output)
    from aqd_deploy.integer.files import load_onnx, save_onnx
    from aqd_deploy.quantization.calibration import calibration_of
    from aqd_deploy.quantization.complete import complete
    from aqd_deploy.quantization.pipeline import quantize
    from aqd_deploy.quantization.progress import Run
    from aqd_deploy.quantization.recipe import Recipe, read_recipe, recipe_text
    from aqd_deploy.quantization.state import State

    recipe = with_options(Recipe() if recipe_file is None else read_recipe(recipe_file), options)
    network = sized(load_onnx(model), shape)
    told = {key: options.pop(key) for key in ("color", "mean", "std")}
    entries = described(detector, network, told)
    images = calibration_of(calibration, network, entries)
    boxes = {} if detector is None else entries
    if detector is not None and (recipe.method == "detptq" or limit is not None):
        check_described(detector, network, entries)
    key = hashlib.sha256(network.SerializeToString(deterministic=True))
    key.update(repr((recipe.document(), images.digest, completes, limit, boxes)).encode())
    state = State(output.with_name(f"{output.name}.state"), key.hexdigest())
    with StatusLine() as line:
        run = Run(_Display(line), time_budget, state)
        found = None if limit is None else search_bits(network, images, recipe, limit, options, run, boxes)
        recipe = recipe if found is None else found.recipe
        result = (complete if completes else quantize)(
            network, images, recipe, run=run, described=boxes
        )  # fmt: skip
    save_onnx(result.model, output)
    if save_recipe is not None:
        write_text(save_recipe, recipe_text(recipe, save_recipe.suffix))
    if not run.time_is_up:
        state.remove()
    for sentence in result.report["warnings"]:
        progress(f"warning: {sentence}")
    if as_json:
        searched = {} if found is None else {"search": found.document}
        print_json({"file": str(output), **result.report, **searched})
        return
    if found is not None:
        from aqd_deploy.reporting.search_view import search_view

        print_text(search_view(found.document) + "\n")
    print_text(summary(output, result.report))


def with_options(recipe: Recipe, options: dict[str, Any]) -> Recipe:
    """The recipe with what the command line says."""
    bits = options["bits"]
    given = {
        "method": options["method"],
        "weight_bits": options["weight_bits"] or bits,
        "activation_bits": options["activation_bits"] or bits,
        "first_bits": options["first_last_bits"],
        "last_bits": options["first_last_bits"],
        "excluded": (*recipe.excluded, *options["exclude"]),
        "symmetric": options["symmetric"] or None,
        "per_channel": False if options["per_tensor"] else None,
    }
    names = ("equalise", "adaptive_rounding", "bias_correction")
    steps = {key: options[key] for key in names if options[key]}
    changed = {key: value for key, value in given.items() if value is not None}
    return replace(recipe, **changed, steps=replace(recipe.steps, **steps))


def sized(model: ModelProto, shape: tuple[int, ...] | None) -> ModelProto:
    """The model, with the shape that --shape asks for."""
    from aqd_deploy.passes.canonical.input_shapes import set_shapes
    from aqd_deploy.passes.contract import PassResult

    set_shapes(model, shape, PassResult("shapes"))
    return model


def described(detector: Path | None, model: ModelProto, told: Mapping[str, Any]) -> dict[str, Any]:
    """How images become the input, `preprocessing`: what the manifest says, or the file of --detector, and
    over it what the options say; and the `detector` of that file. Empty where nobody says anything.
    """
    from aqd_deploy.detection.description import read_description
    from aqd_deploy.integer.manifest import read_manifest
    from aqd_deploy.passes.canonical.input_shapes import inputs_of, sizes_of

    inputs = {value.name: sizes_of(value) for value in inputs_of(model)}
    # All of them count as inputs of floats, which mean and std are for.
    manifest = {**read_manifest(model), "inputs": {name: {} for name in inputs}}
    entry = manifest.get("preprocessing")
    boxes = {}
    if detector is not None:
        outputs = {value.name: sizes_of(value) for value in model.graph.output}
        entries = read_description(detector, manifest, inputs, lambda: outputs)
        entry, boxes = entries["preprocessing"], {"detector": entries["detector"]}
    given = {key: value for key, value in told.items() if value is not None}
    if given and entry is None:
        name, sizes = next(iter(inputs.items()))
        pad = [min(max(round(each), 0), 255) for each in given.get("mean", (0, 0, 0))]
        entry = {"input": name, "height": sizes[-2], "width": sizes[-1], "color": "RGB", "pad_value": pad}
    if not entry:
        return {}
    return {"preprocessing": {"mean": [0, 0, 0], "std": [1, 1, 1], **entry, **given}, **boxes}


def check_described(detector: Path, model: ModelProto, entries: Mapping[str, Any]) -> None:
    """ModelFileError where the file of --detector names other outputs than the network has."""
    from aqd_deploy.detection.description import about
    from aqd_deploy.quantization.output_loss import manifest_of

    with about(detector):
        manifest_of(model, entries)


class _Display:
    """Progress on stderr: a line that is rewritten on a terminal, elsewhere one for each stage."""

    def __init__(self, line: StatusLine) -> None:
        self.line = line
        self.stage = ""

    def __call__(self, now: Progress) -> None:
        left = "" if now.left is None else f", {clock(now.left)} left"
        self.line.show(f"{now.stage}: {now.done} of {now.total}{left}")
        if not self.line.shown and now.stage != self.stage:
            progress(now.stage)
        self.stage = now.stage


def summary(output: Path, report: dict[str, Any]) -> str:
    """What was done, for people."""
    from collections import Counter

    from aqd_deploy.tables import bullets

    # Of an input of 8-bit pixels there is no quantizer.
    kinds = Counter((row.get("weight_bits", 8), row.get("input_bits", 8)) for row in report["layers"])
    lines = [
        f"weights of {weights} bits, inputs of {inputs}: {count} of {len(report['layers'])} layers"
        for (weights, inputs), count in kinds.most_common()
    ]
    lines.append(f"outputs off by {_percent(report['output_error'])} of their square")
    lines += [
        f"{step['step'].replace('_', ' ')}, {step['changed']} changes: from {_percent(step['error_before'])} "
        f"to {_percent(step['error_after'])}"
        for step in report["steps"]
    ]
    rows = [row for row in report["layers"] if row["signal_to_noise_db"] is not None]
    rows.sort(key=lambda row: row["signal_to_noise_db"])
    worst = [f"{row['layer']} ({row['signal_to_noise_db']:.1f} dB)" for row in rows[:_WORST]]
    if worst:
        lines.append(f"noisiest layers: {', '.join(worst)}")
    told = f"{report['recipe']['method']}, {report['images']} images, {report['seconds']:.1f} s"
    return f"{output} ({told})\n{bullets(lines)}"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
