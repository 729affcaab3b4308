"""The rules of value propagation: of every operation on real tensors, how it moves past the scales, and
whether a quantizer may be exchanged with it. Who adds an operation adds its line here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aqd_deploy.passes import operations as ops
from aqd_deploy.passes.foreign_operations import DepthToSpace, Gather, Lookup, Rearrange, Slice
from aqd_deploy.passes.graph import Node, Operation
from aqd_deploy.passes.rules import (
    binary,
    convolution,
    curves,
    elementwise,
    functions,
    pooling,
    quantizer,
    structure,
)
from aqd_deploy.passes.slices import QuantizedFunction, RealFunction
from aqd_deploy.passes.values import Values


@dataclass(frozen=True)
class Rule:
    """`move` emits the integers of one node, and notes what they stand for. `commutes`: it is non-decreasing
    in each element, so a quantizer behind it may stand in front.
    """

    move: Callable[[Values, Node, Any], None]
    commutes: bool = False


RULES: Mapping[type[Operation], Rule] = {
    ops.Scale: Rule(elementwise.scale),
    ops.Quantize: Rule(quantizer.quantize),
    ops.BatchNormalization: Rule(elementwise.batch_norm),
    ops.Relu: Rule(elementwise.relu, commutes=True),
    ops.Clip: Rule(elementwise.clip, commutes=True),
    ops.Identity: Rule(elementwise.identity),
    ops.Function: Rule(elementwise.leaky_relu),
    ops.PRelu: Rule(elementwise.leaky_relu),
    QuantizedFunction: Rule(functions.quantized_function),
    RealFunction: Rule(curves.real_function),
    ops.Conv: Rule(convolution.convolution),
    ops.Add: Rule(binary.add),
    ops.Sub: Rule(binary.subtract),
    ops.Mul: Rule(binary.multiply),
    ops.Div: Rule(binary.divide),
    ops.MaxPool: Rule(pooling.max_pool, commutes=True),
    ops.AveragePool: Rule(pooling.average_pool),
    ops.LinearResize: Rule(pooling.resize_linear),
    ops.Resize: Rule(structure.resize, commutes=True),
    ops.Concat: Rule(structure.concat, commutes=True),
    ops.Pad: Rule(structure.pad, commutes=True),
    Slice: Rule(structure.select, commutes=True),
    Gather: Rule(structure.select, commutes=True),
    DepthToSpace: Rule(structure.depth_to_space, commutes=True),
    Rearrange: Rule(structure.rearrange, commutes=True),
    Lookup: Rule(structure.lookup),
}
