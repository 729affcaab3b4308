"""The one list of passes that takes a QDQ file to integer ONNX, in phases."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from onnx import ModelProto

from aqd_deploy.errors import AqdError
from aqd_deploy.passes.canonicalise import Canonicalise
from aqd_deploy.passes.check_model import CheckModel
from aqd_deploy.passes.commute_quantizers import CommuteQuantizers
from aqd_deploy.passes.contract import Lowering, Pass, PassResult, Shape
from aqd_deploy.passes.fold_quantizers import FoldQuantizers
from aqd_deploy.passes.move_scales import MoveScales
from aqd_deploy.passes.numerics import check_mode
from aqd_deploy.passes.read_qdq import ReadQdq
from aqd_deploy.passes.solve_requantize import SolveRequantize
from aqd_deploy.passes.split_transposed import SplitTransposed
from aqd_deploy.passes.tabulate import Tabulate
from aqd_deploy.passes.verify_integer import VerifyInteger
from aqd_deploy.passes.write_integer import WriteInteger

PHASES: dict[str, tuple[Pass, ...]] = {
    "canonical": (
        Canonicalise(),  # first: the others know one form of each thing, whoever wrote the file
    ),
    "check and read": (
        CheckModel(),  # first: its sentences are for those who wrote the file, onnx's own are not
        ReadQdq(),  # behind the check, so every operator has a rule; from here on nobody looks at the file
    ),
    "fold": (
        FoldQuantizers(),  # before all else: the others ask what is a code, and what its step is
    ),
    "to integers": (
        SplitTransposed(),  # before quantizers move: they move past the placing of pixels that it makes
        CommuteQuantizers(),  # before scales move: what only quantizers read never becomes an int32 stream
        Tabulate(),  # when quantizers stand right behind the functions that they end
        MoveScales(),  # when quantizers stand where they stay
    ),
    "solve": (
        SolveRequantize(),  # when nothing changes an interval any more: the proofs are of these intervals
    ),
    "write and verify": (
        WriteInteger(),  # when all constants are found
        VerifyInteger(),  # last: it trusts none of the passes and reads the file as the compiler will
    ),
}

PASSES: tuple[Pass, ...] = tuple(each for phase in PHASES.values() for each in phase)


@dataclass(frozen=True)
class LoweringResult:
    """The integer model and a JSON-able report; `report["passes"]` is what `--explain` prints. `tail`
    makes the other outputs of the file of the integer model's, as reals; None where there are none.
    """

    model: ModelProto
    report: dict[str, Any]
    tail: ModelProto | None = None


def lower(
    model: ModelProto,
    *,
    numerics: str = "exact",
    shape: Shape = None,
    allow_float_islands: bool = False,
    on_pass: Callable[[PassResult], None] | None = None,
    on_state: Callable[[Lowering], None] | None = None,
) -> LoweringResult:
    """Integer ONNX of a QDQ model, which stays unchanged.

    `numerics` is exact, paper or power-of-two; `shape` replaces the input shape (a list, or a dict by input
    name), also in the manifest. As each pass ends, `on_pass` hears its result, and `on_state` sees what it
    left (`passes/dump.py`). Raises the typed errors of aqd_deploy.errors for what can't be lowered, and for a
    manifest that tells of another input or outputs.
    """
    check_mode(numerics)
    if allow_float_islands:
        raise AqdError(
            "float islands aren't supported yet", valid="networks that are quantized from input to heads"
        )
    state = Lowering(copy.deepcopy(model), numerics, shape)
    for each in PASSES:
        result = each(state)
        if on_pass is not None:
            on_pass(result)
        if on_state is not None:
            on_state(state)
    report = {**state.report, "passes": [result.as_dict() for result in state.results]}
    return LoweringResult(state.integer, report, state.tail)
