"""Nodes that do nothing at inference."""

from __future__ import annotations

from onnx import NodeProto

from aqd_deploy.passes.canonical.draft import Draft, attribute, is_standard
from aqd_deploy.passes.operators import label_of


def drop_identities(draft: Draft) -> None:
    """Readers read what the node reads.

        x ── Dropout ── Conv        x ── Conv
        x ── Sum(a, b, c)           x ── Add(a, b) ── Add(c)

    1. Identity of anything, Dropout outside training, Cast of codes to their own type.
    2. Concat, Sum, Min and Max of one tensor.
    3. Sum of several tensors becomes Adds, from the left.
    """
    alias: dict[str, str] = {}
    types = draft.types

    def rule(node: NodeProto) -> list[NodeProto] | None:
        same = is_standard(node, "Identity") and node.output[0] not in draft.outputs
        if is_standard(node, "Dropout"):
            same = _is_inference(draft, node)
        elif is_standard(node, "Cast"):
            same = attribute(node, "to") == types.get(node.input[0])
        elif is_standard(node, "Concat", "Sum", "Min", "Max"):
            same = len(node.input) == 1
        if same:
            alias[node.output[0]] = node.input[0]
            draft.changed.append(f"{label_of(node)}: {node.op_type} removed")
            return []
        return _sum(draft, node) if is_standard(node, "Sum") else None

    draft.rewrite(rule)
    draft.substitute(alias)


def _is_inference(draft: Draft, node: NodeProto) -> bool:
    """Whether a Dropout has no mask that is read, and `training_mode` is absent or false."""
    mode = node.input[2] if len(node.input) > 2 else ""
    training = draft.array(mode) if mode else None
    off = not mode or (training is not None and not training.any())
    return off and not (len(node.output) > 1 and node.output[1] in draft.readers())


def _sum(draft: Draft, node: NodeProto) -> list[NodeProto]:
    """Case 3."""
    made: list[NodeProto] = []
    left, *rest = node.input
    for index, right in enumerate(rest):
        last = index == len(rest) - 1
        made.append(draft.node("Add", [left, right], node.output[0] if last else "", like=node))
        left = made[-1].output[0]
    draft.changed.append(f"{label_of(node)}: Sum as {len(made)} Adds")
    return made
