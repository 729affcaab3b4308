"""A network and its quantizers as a QDQ file (docs/qdq-form.md)."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, helper

from aqd_deploy.integer.manifest import MANIFEST_KEY, SCHEMA, read_manifest
from aqd_deploy.passes.canonical.draft import Draft
from aqd_deploy.quantization.network import Network
from aqd_deploy.quantization.placement import Site
from aqd_deploy.quantization.quantizer import QuantizerParameters
from aqd_deploy.quantization.recipe import Recipe


def write_qdq(
    network: Network,
    quantizers: Mapping[Site, QuantizerParameters],
    codes: Mapping[Site, np.ndarray] | None = None,
    recipe: Recipe | None = None,
) -> ModelProto:
    """The network with a quantizer at each site, for the site's readers alone.

        x ── QuantizeLinear ── Clip (below 8 bits) ── DequantizeLinear ── Conv
        codes of w (int8) ─────────────────────────── DequantizeLinear ───┘

    Weights are rounded to the nearest code unless `codes` has others, of the weight's shape. The manifest
    gets the recipe as its entry `quantization`.
    """
    writer = _Writer(network)
    for site, parameters in quantizers.items():
        if site.is_weight:
            weights = network.array(site.tensor)
            axis = site.axis if parameters.scale.ndim else None
            own = parameters.codes(weights, axis) if codes is None or site not in codes else codes[site]
            writer.weight(site, parameters, own, axis)
        else:
            writer.activation(site, parameters)
    model = writer.model()
    if recipe is not None:
        _note(model, recipe)
    onnx.checker.check_model(model)
    return model


class _Writer:
    """`behind` are the new nodes that stand right behind a tensor."""

    def __init__(self, network: Network) -> None:
        self.draft = Draft(copy.deepcopy(network.model))
        self.behind: dict[str, list[NodeProto]] = {}
        self.reads: dict[tuple[str, int], str] = {}

    def activation(self, site: Site, parameters: QuantizerParameters) -> None:
        """QuantizeLinear, Clip, DequantizeLinear; of whole bytes without the Clip."""
        draft, dtype = self.draft, np.int8 if parameters.signed else np.uint8
        name = f"{site.tensor}_q{parameters.bits}"
        constants = [
            draft.constant(f"{name}_scale", parameters.scale),
            draft.constant(f"{name}_zero", np.array(parameters.zero_point, dtype)),
        ]
        codes = self._node(site, "QuantizeLinear", [site.tensor, *constants], name)
        if (parameters.low, parameters.high) != (np.iinfo(dtype).min, np.iinfo(dtype).max):
            bounds = [
                draft.constant(f"{name}_{end}", np.array(value, dtype))
                for end, value in (("low", parameters.low), ("high", parameters.high))
            ]
            codes = self._node(site, "Clip", [codes, *bounds], f"{name}_clipped")
        self._read(site, self._node(site, "DequantizeLinear", [codes, *constants], f"{name}_real"))

    def weight(
        self, site: Site, parameters: QuantizerParameters, codes: np.ndarray, axis: int | None
    ) -> None:
        """Codes, and what they stand for. They have the weight's name, unless others read the weight."""
        draft, readers = self.draft, {(reader.node, reader.index) for reader in site.readers}
        own = all(
            (node.output[0], index) in readers
            for node in draft.nodes
            for index, name in enumerate(node.input)
            if name == site.tensor
        )
        name = site.tensor if own else draft.names.fresh(f"{site.tensor}_codes")
        draft.set_constant(name, codes.astype(np.int8))
        inputs = [
            name,
            draft.constant(f"{site.tensor}_scale", parameters.scale),
            draft.constant(f"{site.tensor}_zero", np.zeros(parameters.scale.shape, np.int8)),
        ]
        attributes: dict[str, Any] = {} if axis is None else {"axis": axis}
        self._read(site, self._node(site, "DequantizeLinear", inputs, f"{site.tensor}_real", **attributes))

    def _node(self, site: Site, op_type: str, inputs: list[str], name: str, **attributes: Any) -> str:
        output = self.draft.names.fresh(name)
        node = helper.make_node(op_type, inputs, [output], name=output, **attributes)
        self.behind.setdefault(site.tensor, []).append(node)
        return output

    def _read(self, site: Site, name: str) -> None:
        for reader in site.readers:
            self.reads[reader.node, reader.index] = name

    def model(self) -> ModelProto:
        """The model, its nodes in topological order."""
        draft = self.draft
        nodes = [node for name in (*draft.initializers, *draft.inputs) for node in self.behind.get(name, [])]
        for node in draft.nodes:
            for index in range(len(node.input)):
                node.input[index] = self.reads.get((node.output[0], index), node.input[index])
            nodes.append(node)
            for name in node.output:
                nodes += self.behind.get(name, [])
        draft.nodes = nodes
        return draft.write()


def _note(model: ModelProto, recipe: Recipe) -> None:
    manifest = read_manifest(model) or {"schema": SCHEMA, "name": model.graph.name or "model"}
    manifest["quantization"] = recipe.document()
    kept = [entry for entry in model.metadata_props if entry.key != MANIFEST_KEY]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    model.metadata_props.add(key=MANIFEST_KEY, value=json.dumps(manifest))
