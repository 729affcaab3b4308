"""Operands to check and time a task with: a layer's own weights and constants, random activations.

Weights and constants must be those of the network, because kernels rely on what is proven of them (Winograd's
exact forms, fixed-point forms). Activations are uniform over their proven range.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aqd_deploy.compiler.plan import Conv, Plan
from aqd_deploy.kernels.contract.spec import ConvSpec

# A skip-add's other operand: well within the proven range of a stream.
_STREAM_BOUND = 1 << 12


@dataclass
class Operands:
    """`data` uint8 or int8 [H, W, I], `weights` int8 [O, I/group, kh, kw], the epilogue's parameters, and
    the outputs that the kernel must return.
    """

    data: np.ndarray
    weights: np.ndarray
    parameters: list[np.ndarray]
    expected: list[np.ndarray]

    def save(self, folder: Path) -> None:
        """Write them as .npy files for the worker processes."""
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / "data.npy", self.data)
        np.save(folder / "weights.npy", self.weights)
        for kind, arrays in (("parameter", self.parameters), ("expected", self.expected)):
            for index, array in enumerate(arrays):
                np.save(folder / f"{kind}{index:02}.npy", array)

    @classmethod
    def load(cls, folder: Path) -> Operands:
        """The inverse of `save`."""
        parameters, expected = (
            [np.load(path) for path in sorted(folder.glob(f"{kind}*.npy"))]
            for kind in ("parameter", "expected")
        )
        return cls(np.load(folder / "data.npy"), np.load(folder / "weights.npy"), parameters, expected)


def layer_operands(plan: Plan, operation: Conv) -> Operands:
    """Operands of a layer of `plan`, with its own weights and constants."""
    from aqd_deploy.kernels.reference import expected_outputs

    generator = np.random.default_rng(0)
    spec = operation.spec
    lo, hi = spec.input_range or ((-128, 127) if spec.input_signed else (0, 255))
    dtype = np.int8 if spec.input_signed else np.uint8
    data = generator.integers(lo, hi + 1, (spec.height, spec.width, spec.in_channels)).astype(dtype)
    weights = plan.weights[operation.weight]
    parameters = [
        _stream(generator, plan, operand) if isinstance(operand, str) else np.ascontiguousarray(operand)
        for operand in operation.operands
    ]
    expected = expected_outputs(spec, operation.epilogue, data, weights, parameters)
    return Operands(data, weights, parameters, expected)


def _stream(generator: np.random.Generator, plan: Plan, name: str) -> np.ndarray:
    tensor = plan.tensors[name]
    return generator.integers(-_STREAM_BOUND, _STREAM_BOUND, tensor.shape).astype(tensor.dtype)


def random_weights(spec: ConvSpec, seed: int = 0) -> np.ndarray:
    """Uniform int8 weights [O, I/group, kh, kw] within the spec's range, at its steps."""
    lo, hi = spec.weight_range or (-128, 127)
    shape = (spec.out_channels, spec.in_channels // spec.group, *spec.kernel)
    steps = np.random.default_rng(seed).integers(0, (hi - lo) // spec.weight_step + 1, shape)
    return (lo + spec.weight_step * steps).astype(np.int8)
