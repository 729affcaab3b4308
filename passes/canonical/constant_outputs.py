"""Outputs that no image changes."""

from __future__ import annotations

from aqd_deploy.passes.canonical.draft import Draft


def leave_constant_outputs_out(draft: Draft) -> None:
    """A program computes its outputs; what is known beforehand is told, and isn't one.

        outputs y, y_scale (an initializer)        output y

    1. Brevitas lists the scale, zero point and bits of a quantized output beside it.
    2. Where every output is a constant, all stay: check_model refuses them.
    """
    constant = draft.constants()
    outputs = list(draft.model.graph.output)
    kept = [value for value in outputs if value.name not in constant]
    if kept and len(kept) < len(outputs):
        left = ", ".join(value.name for value in outputs if value.name in constant)
        draft.changed.append(f"constant outputs left out: {left}")
        del draft.model.graph.output[:]
        draft.model.graph.output.extend(kept)
