"""The model that verbs compile or tune: a QDQ or an integer ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from aqd_deploy.cli.output import progress

if TYPE_CHECKING:
    from onnx import ModelProto


def integer_model_of(
    path: Path, numerics: str, shape: tuple[int, ...] | None
) -> tuple[ModelProto, ModelProto | None]:
    """The integer model of a file, lowered where it is not integer, and the tail that lowering cut off.

    That the options --numerics and --shape are without effect on a file that is integer already is told on
    stderr. Raises what reading and lowering raise.
    """
    from aqd_deploy.integer.files import load_onnx
    from aqd_deploy.passes.integer_model import integer_model

    read = load_onnx(path)
    model, tail = integer_model(
        read, numerics=numerics, shape=shape, on_lowering=lambda: progress("lowering")
    )
    if model is read and (given := [f"--{name}" for name in ("numerics", "shape") if _is_given(name)]):
        progress(f"without effect: {' and '.join(given)}; {path} is integer already, they lower a QDQ file")
    return model, tail


def _is_given(option: str) -> bool:
    source = click.get_current_context().get_parameter_source(option)
    return source == click.core.ParameterSource.COMMANDLINE
