"""Where the constants of an integer file come together while its nodes are written."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import TensorProto

from aqd_deploy.integer import dialect
from aqd_deploy.integer.fixedpoint import MultiplyShift
from aqd_deploy.passes.graph import Graph

TYPES = {"uint8": TensorProto.UINT8, "int8": TensorProto.INT8, "int32": TensorProto.INT32}
"""ONNX's numbers of the types of integer tensors."""


class Writer:
    """The initializers of the integer file of `graph`, in the order in which nodes ask for them."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.initializers: dict[str, np.ndarray] = {}
        self._made: dict[str, str] = {}

    def constant(self, base: str, values: np.ndarray) -> str:
        """A new initializer; its name is `base` unless the graph has that already."""
        name = self.graph.fresh(base)
        self.initializers[name] = np.asarray(values, order="C")
        return name

    def once(self, base: str, values: np.ndarray) -> str:
        """A new initializer that all nodes share that ask for `base`."""
        if base not in self._made:
            self._made[base] = self.constant(base, values)
        return self._made[base]

    def shared(self, name: str) -> str:
        """A constant of the graph, stored once."""
        self.initializers[name] = np.asarray(self.graph.constants[name], order="C")
        return name

    def shift_constants(self, output: str, constants: Sequence[MultiplyShift], suffix: str = "") -> list[str]:
        """c, B and d of a multiply-shift."""
        return [
            self.constant(f"{output}_c{suffix}", dialect.per_channel([m.c for m in constants], np.int64)),
            self.constant(f"{output}_B{suffix}", dialect.per_channel([m.b for m in constants], np.int64)),
            self.constant(f"{output}_d{suffix}", dialect.per_channel([m.d for m in constants], np.uint64)),
        ]
