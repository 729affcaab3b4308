"""Model-local functions."""

from __future__ import annotations

from onnx import inliner

from aqd_deploy.passes.canonical.draft import Draft


def inline_functions(draft: Draft) -> None:
    """The bodies of functions in place of their calls.

        x ── pkg.Block ── y        x ── Conv ── Relu ── y

    1. Every call of a function that the file defines; functions of functions as well.
    """
    if not draft.model.functions:
        return
    count = len(draft.model.functions)
    draft.load(inliner.inline_local_functions(draft.model))
    draft.changed.append(f"{count} functions inlined")
