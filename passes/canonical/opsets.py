"""Files of old operator sets."""

from __future__ import annotations

from onnx import helper, version_converter

from aqd_deploy.passes.canonical.draft import Draft, is_standard

OLDEST, WANTED = 10, 13
"""QuantizeLinear came with 10; from 13 on it has axes."""


def raise_opset(draft: Draft) -> None:
    """Operators as ONNX 13 writes them.

        x ── Clip(min=0, max=6) ── y (opset 10)        x ── Clip(0, 6) ── y (opset 13)

    1. Opsets 10 to 12 are converted by onnx. A file that it can't convert stays as it is; check_model
       refuses it.
    2. Resize of opset 10 counts from the corner, which later ones have to be told.
    """
    version = draft.opset
    if not OLDEST <= version < WANTED:
        return
    try:
        converted = version_converter.convert_version(draft.write(), WANTED)
    except (RuntimeError, ValueError):
        return
    draft.load(converted)
    if version == OLDEST:
        for node in draft.nodes:
            if is_standard(node, "Resize"):
                node.attribute.append(helper.make_attribute("coordinate_transformation_mode", "asymmetric"))
                node.attribute.append(helper.make_attribute("nearest_mode", "floor"))
    draft.changed.append(f"opset {version} brought to {WANTED}")
