"""Bits for each layer under a goal: the fastest or smallest network that is good enough, or the best one that
is fast or small enough.

Every layer is quantized alone at each width: its sensitivity, the output loss against the float network. From
the widest network on, the step to fewer bits that saves the most time (or bytes) for the loss that it adds is
taken, again and again. Losses of layers are added up for that, which they only do about: what comes out is
judged as a whole, and the table tells the loss with all layers before quantized as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from onnx import ModelProto

from aqd_deploy.errors import RecipeError
from aqd_deploy.quantization.calibration import Calibration
from aqd_deploy.quantization.network import Network
from aqd_deploy.quantization.progress import Run
from aqd_deploy.quantization.recipe import Recipe
from aqd_deploy.quantization.state import Arrays
from aqd_deploy.records.lookup import Tuned
from aqd_deploy.targets import Target
from aqd_deploy.workflow.bit_widths import BitWidths, uniform
from aqd_deploy.workflow.search_costs import Costs, costs_of
from aqd_deploy.workflow.search_quality import Judge

BITS = (2, 3, 4, 6, 8)
SCHEMA = 1


class Goal(Enum):
    """What is limited: milliseconds, megabytes (2^20 bytes) of weights, or what `Judge.drop` tells."""

    MS = "ms"
    MB = "MB"
    DROP = "drop"


@dataclass(frozen=True)
class Found:
    """`recipe` makes the network by `quantize`; `document` is JSON-able: a row a unit, and totals."""

    recipe: Recipe
    document: dict[str, Any]


Table = dict[tuple[str, int], float]


def search(
    model: ModelProto,
    calibration: Calibration,
    recipe: Recipe,
    goal: Goal,
    limit: float,
    *,
    target: Target | None,
    threads: int = 1,
    run: Run | None = None,
    described: Mapping[str, Any] | None = None,
    tuned: Tuned | None = None,
) -> Found:
    """Bits for each layer of a float model, of `BITS`; method and steps are the recipe's. `target` may be
    None for `Goal.MB`. `described` as in `quantize`; `tuned` has times that were measured.

    Raises RecipeError for a limit that no widths meet, and what `quantize`, `lower` and `costs_of` raise.
    """
    run = run or Run()
    network = Network.of(model, fold=recipe.steps.fold_batch_norms)
    networks = BitWidths(network, recipe, BITS, calibration, run, described)
    judge = Judge(network.model, calibration, described)
    costs = costs_of(networks, target, threads, run, tuned)
    alone = _alone(networks, judge, run)
    saved = costs.megabytes if goal is Goal.MB else costs.milliseconds
    path = steps_down(networks, alone, saved)
    if goal is Goal.DROP:
        widths = good_enough(networks, judge, path, limit, run)
    else:
        widths = _cheap_enough(path, costs, saved, limit, goal)
    rows = _rows(networks, judge, alone, costs, widths, run)
    whole = networks.model(widths)
    names = {layer: widths[unit.weight] for unit in networks.units for layer in unit.layers}
    widest = {layer: bits for layer, bits in names.items() if bits != BITS[-1]}
    document = {
        "schema": SCHEMA,
        "goal": {goal.value: limit},
        "judged_by": "AP of the float network's own boxes" if judge.detects else "mean square of the outputs",
        "milliseconds_from": costs.told,
        "layers": rows,
        "total": {
            "drop": judge.drop(whole),
            "loss": judge.loss(whole),
            **_totals(costs, widths),
        },
        "uniform": {
            str(bits): {"drop": judge.drop(networks.model(networks.everywhere(bits))),
                        **_totals(costs, networks.everywhere(bits))}
            for bits in run.steps("uniform widths", BITS)
        },
    }  # fmt: skip
    return Found(uniform(recipe, BITS[-1]).with_bits(widest), document)


def _alone(networks: BitWidths, judge: Judge, run: Run) -> Table:
    """The loss of each unit at each width with all others float. What is found is kept in the state of
    `run`.
    """
    found: Table = {}
    for unit, bits in run.steps("layers alone", [(u, b) for u in networks.units for b in networks.bits]):
        found[unit.weight, bits] = _kept(networks, judge, run, unit.weight, bits)
    return found


def _kept(networks: BitWidths, judge: Judge, run: Run, unit: str, bits: int) -> float:
    def make() -> Arrays:
        return {"loss": np.array(judge.loss(networks.model({unit: bits})))}

    return float(run.state.once(f"alone {unit} {bits}", make)["loss"])


def steps_down(networks: BitWidths, loss: Table, cost: Table) -> list[dict[str, int]]:
    """Widths from the widest to those where no step saves anything any more, each one step narrower."""
    widths = networks.everywhere(networks.bits[-1])
    path = [dict(widths)]
    while True:
        best, worth = None, 0.0
        for unit, bits in widths.items():
            for fewer in (each for each in networks.bits if each < bits):
                saving = cost[unit, bits] - cost[unit, fewer]
                # A layer that comes out better with fewer bits does so by chance.
                added = max(loss[unit, fewer] - loss[unit, bits], 1e-12)
                if saving > 1e-9 * cost[unit, bits] and saving / added > worth:
                    best, worth = (unit, fewer), saving / added
        if best is None:
            return path
        widths[best[0]] = best[1]
        path.append(dict(widths))


def _cheap_enough(
    path: Sequence[dict[str, int]], costs: Costs, table: Table, limit: float, goal: Goal
) -> dict[str, int]:
    """The first, which is the best, within the limit."""
    totals = [costs.total(table, widths) for widths in path]
    for total, widths in zip(totals, path, strict=True):
        if total <= limit:
            return widths
    raise RecipeError(
        f"no bits of layers bring the network to {limit:g} {goal.value}",
        received=f"{totals[0]:.4g} {goal.value} with {BITS[-1]} bits, {min(totals):.4g} at least",
        valid=f"a limit of {min(totals):.4g} {goal.value} or more",
        next_command="the same command with a larger limit",
    )


def good_enough(
    networks: BitWidths, judge: Judge, path: Sequence[dict[str, int]], limit: float, run: Run
) -> dict[str, int]:
    """The last of the path within the limit, by bisection: more steps are taken to lose more."""
    low, high = 0, len(path)
    first = judge.drop(networks.model(path[0]))
    if first > limit:
        raise RecipeError(
            f"even {BITS[-1]} bits everywhere lose more than that",
            received=f"a drop of {first:.3g} against a limit of {limit:g}",
            valid=f"a limit of {first:.3g} or more",
            next_command="the same command with a larger --max-drop",
        )
    for _ in run.steps("judging", range(len(path).bit_length())):
        if high - low > 1:
            middle = (low + high) // 2
            good = judge.drop(networks.model(path[middle])) <= limit
            low, high = (middle, high) if good else (low, middle)
    return path[low]


def _rows(
    networks: BitWidths, judge: Judge, alone: Table, costs: Costs, widths: dict[str, int], run: Run
) -> list[dict[str, Any]]:
    """Each unit, in order: its bits, its loss alone and with all before it quantized, its costs."""
    rows = []
    so_far: dict[str, int] = {}
    for unit in run.steps("accumulating", networks.units):
        bits = so_far[unit.weight] = widths[unit.weight]
        key = unit.weight, bits
        rows.append({
            "layer": unit.name,
            "layers": list(unit.layers),
            "bits": bits,
            "loss_alone": alone[key],
            "loss_accumulated": judge.loss(networks.model(so_far)),
            "sensitivity": {str(each): alone[unit.weight, each] for each in networks.bits},
            "ms": costs.milliseconds.get(key),
            "ms_widest": costs.milliseconds.get((unit.weight, networks.bits[-1])),
            "megabytes": costs.megabytes[key],
        })  # fmt: skip
    return rows


def _totals(costs: Costs, widths: dict[str, int]) -> dict[str, float | None]:
    return {
        "ms": costs.total(costs.milliseconds, widths) if costs.milliseconds else None,
        "megabytes": costs.total(costs.megabytes, widths),
    }
