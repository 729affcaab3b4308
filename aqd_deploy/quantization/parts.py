"""Parts of a network that run by themselves: what is in front of a tensor runs once, what is behind it once
for each of its candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, helper

from aqd_deploy.quantization.placement import Reader
from aqd_deploy.quantization.session import Session, over

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

    def run(self, model: ModelProto, wanted: Sequence[str], there: Sequence[Tensors]) -> list[Tensors]:
        """The tensors `wanted` of `model`, the network or a quantized version of it, made of those that are
        there, for each image.
        """
        return next(self.runs(model, wanted, there, [{}]))

    def runs(
        self, model: ModelProto, wanted: Sequence[str], there: Sequence[Tensors], constants: Sequence[Tensors]
    ) -> Iterator[list[Tensors]]:
        """The same for each of these values of some constants of the model, one after the other; what they
        do not change is computed once.
        """
        if len(constants) > 1:
            settled = self._settled(model, wanted, set(there[0]), constants[0])
            there = self.run(model, [*there[0], *settled], there)
        made = [name for name in wanted if name not in there[0]]
        part = self._part(model, made, set(there[0]), constants[0])
        session: Callable[[Tensors], Tensors] = Session(part, made, threads=1) if made else lambda feed: {}
        read = {value.name for value in part.graph.input}.intersection(there[0])
        for values in constants:

            def found(each: Tensors, values: Tensors = values) -> Tensors:
                return {
                    **{name: each[name] for name in wanted if name in each},
                    **session({**values, **{name: each[name] for name in read}}),
                }

            yield list(over(found, there))

    def _settled(self, model: ModelProto, wanted: Sequence[str], given: set[str], free: Tensors) -> list[str]:
        """Tensors of the float network that no constant of `free` changes, and that what makes `wanted` of
        the tensors `given` reads or returns.
        """
        nodes = _makers(model, set(wanted) - given, given)
        changed = set(free)
        for node in nodes:
            if changed.intersection(node.input):
                changed.update(node.output)
        read = set(wanted)
        for node in reversed(nodes):
            # Behind the float network's tensors there are quantizers, which cost nothing to compute again.
            inner = self._types.keys().isdisjoint(node.output) and read.intersection(node.output)
            if inner or changed.intersection(node.output):
                read.update(node.input)
        made = [name for node in nodes for name in node.output if name in self._types]
        return [name for name in made if name in read and name not in changed]

    def _part(self, model: ModelProto, wanted: Sequence[str], given: set[str], free: Tensors) -> ModelProto:
        """What makes `wanted` of the tensors `given` and of `free`, which are constants of the model; its
        outputs are not declared.
        """
        nodes = _makers(model, set(wanted), given)
        read = {name for node in nodes for name in node.input}
        fixed = [each for each in model.graph.initializer if each.name in read and each.name not in free]
        inputs = [self._types[name] for name in sorted(read & given)] + [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
            for name, value in free.items()
        ]
        graph = helper.make_graph(nodes, "part", inputs, [], fixed)
        return helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)


def _makers(model: ModelProto, wanted: set[str], given: set[str]) -> list[NodeProto]:
    """The nodes that make `wanted` of the tensors `given`, in order."""
    needed, nodes = set(wanted), []
    for node in reversed(model.graph.node):
        if needed.intersection(node.output):
            nodes.append(node)
            needed.update(set(node.input) - given)
    return nodes[::-1]
