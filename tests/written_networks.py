"""An integer program's reference against the float64 meaning of the file that it was lowered from, piece by
piece: each piece begins with the codes that the integers had there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
from canonical_meaning import canonical, codes_of, manifest_entry
from float64_reference import Float64Network

from aqd_deploy.integer.reference import ReferenceRunner
from aqd_deploy.passes.pipeline import LoweringResult


@dataclass
class Deviations:
    """Codes that differ from the float64 meaning, by the tensor of a quantizer: (how many, of how many, the
    most steps). `outputs`: by output, how far it leaves its proven bound, in units of its scale; negative
    where it doesn't. `end_to_end`: how many differ, of how many, where no piece begins anew.
    """

    pieces: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    outputs: dict[str, float] = field(default_factory=dict)
    end_to_end: tuple[int, int] = (0, 0)

    @property
    def differing(self) -> int:
        """Codes that differ in their own piece."""
        return sum(count for count, _, _ in self.pieces.values())

    @property
    def most_steps(self) -> int:
        """The largest difference of a code in its own piece."""
        return max((steps for _, _, steps in self.pieces.values()), default=0)


def deviations(
    model: onnx.ModelProto, result: LoweringResult, inputs: Mapping[str, np.ndarray]
) -> Deviations:
    """Both run on the same image."""
    form = canonical(model).model
    feeds = codes_of(form, inputs)
    integers = ReferenceRunner(result.model, threads=1, with_intermediates=True).run(feeds)
    network = Float64Network(form)
    whole = network.run(feeds)
    ends = {node.input[0] for node in form.graph.node if node.op_type == "DequantizeLinear"}
    shared = sorted(
        name for name in ends if name in integers and name in whole and name not in network.constants
    )
    forced = {name: integers[name].astype(whole[name].dtype) for name in shared}
    pieces = network.run(feeds, forced)
    found = Deviations()
    for name in shared:
        steps = np.abs(pieces[name].astype(np.int64) - integers[name])
        found.pieces[name] = (int((steps > 0).sum()), steps.size, int(steps.max()))
        far = np.abs(whole[name].astype(np.int64) - integers[name]) > 0
        found.end_to_end = (found.end_to_end[0] + int(far.sum()), found.end_to_end[1] + far.size)
    manifest = manifest_entry(result.model)
    for name, entry in manifest["outputs"].items():
        found.outputs[name] = _distance(
            entry, integers[name], pieces[name], result.report["output_errors"][name]
        )
    return found


def _distance(entry: dict, integers: np.ndarray, real: np.ndarray, bound: float) -> float:
    """How far an output is from the float64 one, in units of its scale beyond its proven bound."""
    scale = np.array(entry["scale"], np.float64).reshape(1, -1, 1, 1)
    got = integers.astype(np.float64) - np.array(entry.get("zero_point", 0), np.float64)
    # A float64 sum of large products has an error of its own.
    slack = 1e-9 * (1 + np.abs(real / scale).max())
    return float(np.abs(got - real / scale).max() - bound - slack)
