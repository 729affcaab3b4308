"""Codes of a lowered file against a float64 evaluation of the QDQ file, island by island."""

import json

import numpy as np
from float64_reference import Float64Network
from odd_graphs import inputs_of

from aqd_deploy.integer.reference import ReferenceRunner
from aqd_deploy.passes.pipeline import lower


def assert_islands_agree(model, seed=0, exact=True):
    """Every quantizer's codes and every output, each measured alone: what stands in front of it are the
    program's own codes.

    Codes are equal everywhere where `exact`; else where the report proves it, and one step off at most
    elsewhere. Outputs lie within their bound. Returns the lowering.
    """
    result, inputs = lower(model), inputs_of(model, seed)
    integers = ReferenceRunner(result.model, threads=1, with_intermediates=True).run(inputs)
    quantizers = [n.output[0] for n in model.graph.node if n.op_type == "QuantizeLinear"]
    outputs = [value.name for value in model.graph.output]
    seen = [name for name in quantizers if name in integers and name not in outputs]
    codes = {name: integers[name] for name in seen}
    network = Float64Network(model)
    entries = {entry["output"]: entry for entry in result.report["requantizations"]}
    for name in seen:
        wanted = network.run(inputs, {other: codes[other] for other in seen if other != name})[name]
        off = np.abs(codes[name].astype(int) - wanted.astype(int))
        entry = entries.get(name)
        proven = entry is None or entry["proven_of_network"] == entry["channels"]
        assert off.max() <= (0 if exact or proven else 1), (name, int(off.max()), int((off > 0).sum()))
    _assert_outputs(network.run(inputs, codes), integers, result, entries)
    return result


def _assert_outputs(wanted, integers, result, entries):
    manifest = json.loads(result.model.metadata_props[0].value)
    for name, told in manifest["outputs"].items():
        scale = np.array(told["scale"]).reshape(1, -1, 1, 1)
        off = np.abs(integers[name].astype(np.int64) - told.get("zero_point", 0) - wanted[name] / scale)
        entry = entries.get(name)
        rounded = entry is not None and entry["proven_of_network"] < entry["channels"]
        # float64 has 2^-52 of values below 2^31.
        assert off.max() <= result.report["output_errors"][name] + rounded + 1e-6, (name, float(off.max()))
