"""Brings files of other writers to the form that the passes read."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import onnx
from onnx import ModelProto

from aqd_deploy.integer.domain import DOMAIN
from aqd_deploy.integer.manifest import MANIFEST_KEY, SCHEMA, read_manifest
from aqd_deploy.passes.canonical.draft import Draft
from aqd_deploy.passes.canonical.input_shapes import set_shapes
from aqd_deploy.passes.canonical.rewrites import OF_QUANTIZED_FILES
from aqd_deploy.passes.contract import Lowering, Pass, PassError, PassResult
from aqd_deploy.passes.inference import first_line
from aqd_deploy.passes.operators import label_of


class Canonicalise(Pass):
    """The first pass; it works on the ONNX file, by the rewrites of `canonical/`, a file each.

        image (float) ── Q ── QLinearConv ── DQ ── y        image (uint8) ── DQ ── Conv ── y

    1. An input shape that is asked for is set, before anything is inferred from it.
    2. A valid file is rewritten (`canonical/rewrites.py`); one in the form of docs/qdq-form.md is already as
       it is to be, and stays.
    3. What was learned of inputs and outputs goes to the manifest, which is made where there is none; the
       float tail becomes a model of its own.
    4. An integer file, or one that onnx finds damaged, stays as it is: check_model says what is wrong.
    """

    name = "canonicalise"

    def requires(self, state: Lowering) -> None:
        """To be the first."""
        if state.is_read:
            raise PassError("the graph has been read, and would not see a change of the file")

    def ensures(self, state: Lowering) -> None:
        """A tail that is whole, where there is one."""
        if state.tail is not None and not state.tail.graph.output:
            raise PassError("the tail has no outputs")

    def run(self, state: Lowering) -> PassResult:
        """ShapeError for a shape that doesn't fit, UnsupportedModelError for what no rewrite can take."""
        result = PassResult(self.name)
        set_shapes(state.model, state.shape, result)
        reason = _reason_to_leave(state.model)
        if reason:
            result.left_alone.append(reason)
            return result
        draft = Draft(state.model)
        for rewrite in OF_QUANTIZED_FILES:
            rewrite(draft)
        dead = draft.remove_dead()
        draft.changed += [f"{label_of(node)}: {node.op_type} that nothing reads, removed" for node in dead]
        state.model, state.tail = draft.write(), draft.tail
        _note(state.model, draft)
        result.changed += draft.changed
        return result


def _reason_to_leave(model: ModelProto) -> str:
    """Case 4; empty where the file is to be rewritten."""
    if not model.graph.output:
        return "the graph has no outputs"
    if any(entry.domain == DOMAIN for entry in model.opset_import):
        return "the file is integer ONNX"
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError) as error:
        return f"the file isn't valid: {first_line(error)}"
    return ""


def _note(model: ModelProto, draft: Draft) -> None:
    """Case 3."""
    learned: dict[str, Any] = dict(draft.manifest)
    if draft.tail is not None:
        inputs: dict[str, Any] = {value.name: {} for value in draft.tail.graph.input}
        digest = hashlib.sha256(draft.tail.SerializeToString(deterministic=True)).hexdigest()
        learned["tail"] = {"inputs": inputs, "sha256": digest}
    if not learned:
        return
    manifest = read_manifest(model) or {"schema": SCHEMA, "name": model.graph.name or "model"}
    kept = [entry for entry in model.metadata_props if entry.key != MANIFEST_KEY]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    model.metadata_props.add(key=MANIFEST_KEY, value=json.dumps({**manifest, **learned}))
