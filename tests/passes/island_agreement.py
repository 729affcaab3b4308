"""Codes of a lowered file against a float64 evaluation of the QDQ file, island by island."""

import numpy as np
from float64_reference import Float64Network
from odd_graphs import inputs_of

from aqd_deploy.integer.reference import ReferenceRunner
from aqd_deploy.passes.pipeline import lower


def assert_islands_agree(model, seed=0, exact=True):
    """Every quantizer's codes, each measured alone: what stands in front of it are the program's own codes.

    Equal everywhere where `exact`; else where the report proves it, and one step off at most elsewhere.
    Returns the lowering.
    """
    result, inputs = lower(model), inputs_of(model, seed)
    integers = ReferenceRunner(result.model, threads=1, with_intermediates=True).run(inputs)
    codes = [n.output[0] for n in model.graph.node if n.op_type == "QuantizeLinear"]
    real = {value.name for value in model.graph.output}
    seen = [name for name in codes if name in integers and name not in real]
    assert seen or not codes
    network = Float64Network(model)
    wanted = {}
    for name in seen:
        forced = {other: integers[other] for other in seen if other != name}
        wanted[name] = network.run(inputs, forced)[name]
    proven = {
        entry["output"]: entry["proven_of_network"] == entry["channels"]
        for entry in result.report["requantizations"]
    }
    for name in seen:
        off = np.abs(integers[name].astype(int) - wanted[name].astype(int))
        most = 0 if exact or proven.get(name, True) else 1
        assert off.max() <= most, (name, int(off.max()), int((off > 0).sum()))
    return result
