"""Convolutions on a card as tests have them: cases, and networks of one of them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from conv_cases import operands
from kernel_reference import convolve, epilogue_params, finish

from aqd_deploy.compiler.plan import Conv, Plan, ToChannelsFirst, ToChannelsLast, border
from aqd_deploy.integer.types import TensorType
from aqd_deploy.kernels.contract.spec import (
    AddBias,
    Bound,
    ConvSpec,
    Epilogue,
    Lookup,
    Multiply,
    MultiplyShift,
    Relu,
    Requantize,
    SkipAdd,
    SkipAddCodes,
    StoreCodes,
    StoreRequantize,
    StoreStream,
    StoreThreshold,
    Threshold,
)
from aqd_deploy.kernels.cuda.backend import CudaBackend
from aqd_deploy.kernels.cuda.cards import card_named
from aqd_deploy.kernels.cuda.chain import chain_of
from aqd_deploy.kernels.cuda.conv import matrix_conv, walks_of
from aqd_deploy.kernels.cuda.tiles import Chosen

CARD = "sm_90a"
CODES = Epilogue((), (StoreRequantize(0, 15),))
SKIP = Epilogue(
    (AddBias(), SkipAdd(other_identity=True), Relu()), (StoreStream(), StoreRequantize(-8, 7, "int8"))
)
WIDE_SKIP = Epilogue((MultiplyShift(), SkipAdd(upsample=2)), (StoreRequantize(2, 250), StoreThreshold(0, 3)))
STREAM = Epilogue((AddBias(),), (StoreStream(),))
BOUNDS = Epilogue(
    (Bound(upper=False), Bound(upper=True)), (StoreStream(), StoreRequantize(-128, 127, "int8"))
)
CODED_SKIP = Epilogue(
    (Requantize(-128, 127, "int8"), SkipAddCodes(2, other_identity=True, dtype="int8")), (StoreStream(),)
)
TABLE = Epilogue((Threshold(3, 5), SkipAddCodes(), Requantize(0, 255), Lookup("int8")), (StoreCodes("int8"),))
GATED = Epilogue(
    (
        Requantize(0, 200),
        Multiply(7, -3, "int8", one_pixel=True),
        Requantize(0, 255),
        Lookup(),
        Multiply(0, 9),
    ),
    (StoreStream(), StoreRequantize(0, 255)),
)


@dataclass(frozen=True)
class Case:
    """A convolution, its epilogue, and the tile, walk and splits to build it with (None: as chosen)."""

    spec: ConvSpec
    epilogue: Epilogue
    chosen: Chosen | None = None


# Operands of 4 bits: AQD's grids of 4 and 3 bits, and codes with a sign.
HALVES = (
    {"input_range": (0, 15), "weight_range": (-15, 15), "weight_step": 2},
    {"input_range": (0, 15), "weight_range": (-7, 7), "weight_step": 2},
    {"input_range": (-8, 7), "weight_range": (-7, 7), "input_signed": True},
)


class AsChosen(CudaBackend):
    """Builds one convolution with a given choice."""

    def __init__(self, chosen: Chosen | None) -> None:
        super().__init__(CARD)
        object.__setattr__(self, "chosen", chosen)

    def convolution(self, spec, epilogue, constants, images, border=None, choice=None):
        if self.chosen is None:
            return super().convolution(spec, epilogue, constants, images, border, choice)
        assert self.chosen.walk in walks_of(spec, self.chosen.tile.step)
        chain = chain_of(epilogue, constants, len(spec.levels) or 1, len(spec.maps), border)
        return matrix_conv(spec, chain, images, self.chosen, card_named(CARD))


def plan_of(case: Case, weights: np.ndarray, params: list[np.ndarray]) -> Plan:
    """A network of one convolution, whose other operands are inputs."""
    spec, epilogue = case.spec, case.epilogue
    out = (spec.out_height, spec.out_width, spec.out_channels)
    dtype = "int8" if spec.input_signed else "uint8"
    tensors = {"x": TensorType(spec.height, spec.width, spec.in_channels, dtype)}
    given, inputs = [], ["x"]
    for param in params:
        if param.ndim == 3:
            inputs.append(f"other{len(inputs)}")
            tensors[inputs[-1]] = TensorType(*param.shape, str(param.dtype))
            given.append(inputs[-1])
        else:
            given.append(param)
    outputs = []
    for index, store in enumerate(epilogue.stores):
        outputs.append(f"out{index}")
        tensors[outputs[-1]] = TensorType(*out, "int32" if isinstance(store, StoreStream) else store.dtype)
    conv = Conv("conv", "x", "w", spec, epilogue, tuple(given), tuple(outputs))
    plan = Plan(inputs, outputs, [conv], tensors, {"w": weights})
    last = [ToChannelsLast(name, border(name), name) for name in inputs]
    first = [ToChannelsFirst(name, name, (0,), (border(name),)) for name in outputs]
    borders = {border(name): plan.tensors[name] for name in (*inputs, *outputs)}
    return replace(plan, operations=[*last, *plan.operations, *first], tensors={**plan.tensors, **borders})


def prepared(case: Case, images: int):
    """The plan, the inputs of every image, and the outputs that they must have."""
    rng = np.random.default_rng(len(str(case)))
    data, weights = operands(case.spec, rng, extreme=False)
    acc = convolve(case.spec, data, weights).astype(np.int64)
    params = epilogue_params(rng, case.epilogue, acc.shape, int(np.abs(acc).max()) or 1)
    levels = len(case.spec.levels) or 1
    tiled = [param if param.ndim == 3 else np.tile(param, levels) for param in params]
    runs = []
    for image in range(images):
        data = operands(case.spec, rng, extreme=image == 1)[0] if image else data
        acc = convolve(case.spec, data, weights).astype(np.int64)
        arrays = [data, *(param for param in params if param.ndim == 3)]
        runs.append((arrays, finish(case.epilogue, acc, params)))
    return plan_of(case, weights, tiled), runs


def first_channels(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array.transpose(2, 0, 1))
