"""Names that the integer file can keep."""

from __future__ import annotations

from aqd_deploy.integer.names import RESERVED_SUFFIX, is_text
from aqd_deploy.passes.canonical.draft import Draft

LONGEST_NAME = 230
"""An integer file's names have at most 250 characters, and lowering adds to them."""

_SHORT = 200


def can_be_kept(name: str) -> bool:
    """Whether a name is printable, short enough, and not one of the compiler's."""
    return is_text(name, LONGEST_NAME) and not name.endswith(RESERVED_SUFFIX)


def rename_inside(draft: Draft) -> None:
    """Exporters name tensors after whole paths of modules.

        x ── Relu ── "body.0.…" (300 letters) ── Conv        x ── Relu ── "body.0.…" (200 letters) ── Conv

    1. Tensors, initializers and nodes whose names are too long, aren't printable, or end like the compiler's
       own get others, which nothing has.
    2. Those of inputs and outputs are the user's: they stay, and check_model refuses them.
    """
    fixed = {*draft.outputs, *draft.inputs}
    names: dict[str, str] = {}
    made = (name for node in draft.nodes for name in node.output)
    for name in (*draft.initializers, *made):
        if name not in fixed and name not in names and not can_be_kept(name):
            plain = "".join(letter for letter in name[:_SHORT] if letter.isprintable())
            names[name] = draft.names.fresh(plain.removesuffix(RESERVED_SUFFIX) or "tensor")
    for name in names.keys() & draft.initializers.keys():
        tensor = draft.initializers.pop(name)
        tensor.name = names[name]
        draft.initializers[tensor.name] = tensor
    if names:
        draft.rename(names)
        draft.changed.append(f"{len(names)} tensors have names that an integer file can keep")
    for node in draft.nodes:
        if not can_be_kept(node.name):
            node.name = next(filter(None, node.output), "")
