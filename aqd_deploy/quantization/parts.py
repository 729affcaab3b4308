"""Parts of a network that run by themselves: what is in front of a tensor runs once, what is behind it once
for each of its candidates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import ModelProto, helper

from aqd_deploy.quantization.placement import Reader
from aqd_deploy.quantization.session import Session

Tensors = Mapping[str, np.ndarray]


class Parts:
    """The tensors of a float network, which its quantized versions have under the same names."""

    def __init__(self, model: ModelProto) -> None:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
        self._nodes = list(inferred.node)
        self._inputs = [value.name for value in inferred.input]
        self._types = {
            value.name: value for value in (*inferred.value_info, *inferred.input, *inferred.output)
        }
        self.outputs = [value.name for value in inferred.output]

    def live(self, readers: Sequence[Reader]) -> list[str]:
        """The tensors that are there in front of the first of these readers, and that it or nodes behind it
        read, or that are outputs; constants are none.
        """
        names = {reader.node for reader in readers}
        position = next(k for k, node in enumerate(self._nodes) if names.intersection(node.output))
        there = [*self._inputs, *(name for node in self._nodes[:position] for name in node.output)]
        read = {name for node in self._nodes[position:] for name in node.input}.union(self.outputs)
        return [name for name in there if name in read]

    def run(
        self, model: ModelProto, wanted: Sequence[str], there: Sequence[Tensors]
    ) -> list[dict[str, np.ndarray]]:
        """The tensors `wanted` of `model`, the network or a quantized version of it, made of those that are
        there, for each image.
        """
        made = [name for name in wanted if name not in there[0]]
        kept = [{name: each[name] for name in wanted if name in each} for each in there]
        if not made:
            return kept
        part = self._part(model, made, set(there[0]))
        session, read = Session(part, made), [value.name for value in part.graph.input]
        return [
            {**old, **session({name: each[name] for name in read})}
            for old, each in zip(kept, there, strict=True)
        ]

    def _part(self, model: ModelProto, wanted: Sequence[str], given: set[str]) -> ModelProto:
        """What makes `wanted` of the tensors `given`; its outputs are not declared."""
        needed, nodes = set(wanted), []
        for node in reversed(model.graph.node):
            if needed.intersection(node.output):
                nodes.append(node)
                needed.update(set(node.input) - given)
        read = {name for node in nodes for name in node.input}
        constants = [tensor for tensor in model.graph.initializer if tensor.name in needed]
        inputs = [self._types[name] for name in sorted(read & given)]
        graph = helper.make_graph(nodes[::-1], "part", inputs, [], constants)
        return helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
