"""Every index of tables of bytes, alone and behind convolutions: (label, function, inputs, outputs) each."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np
from kernel_reference import any_codes, convolve, epilogue_params, finish
from word_cases import Case

from aqd_deploy.kernels.contract.spec import ConvSpec, Epilogue, Lookup, Requantize, StoreCodes
from aqd_deploy.kernels.cpu.conv.families import conv2d
from aqd_deploy.kernels.cpu.movement.pointwise import epilogue_func
from aqd_deploy.targets.isa import Isa

CONVOLUTIONS = {
    "wide": ConvSpec(5, 6, 24, 64, (1, 1)),
    "a rest": ConvSpec(5, 6, 24, 37, (1, 1)),
    "depthwise": ConvSpec(5, 6, 32, 32, (3, 3), pads=(1, 1, 1, 1), group=32),
}


def every_index(isa: Isa) -> Iterator[Case]:
    """Tables of and for signed and unsigned codes; channels in whole vectors, and some that are not."""
    rng = np.random.default_rng(0)
    for source, dtype, channels in product(("uint8", "int8"), ("uint8", "int8"), (32, 24, 19)):
        codes = np.resize(np.arange(256, dtype=np.uint8), (14, 1, channels)).view(source)
        table = rng.permutation(256).astype(np.uint8)
        epilogue = Epilogue((Lookup(dtype),), (StoreCodes(dtype),))
        function = epilogue_func(*codes.shape, epilogue, isa, 1, source)
        expected = table.view(dtype)[codes.view(np.uint8)]
        yield f"{source} to {dtype}, {channels}", function, [codes, table.view(np.int32)], [expected]


def behind_convolutions(isa: Isa) -> Iterator[Case]:
    """A quantizer and a table in the epilogue of the first choice."""
    rng = np.random.default_rng(1)
    for label, spec in CONVOLUTIONS.items():
        data = any_codes(rng, "uint8", (spec.height, spec.width, spec.in_channels))
        weights = any_codes(rng, "int8", (spec.out_channels, spec.in_channels // spec.group, *spec.kernel))
        sums = convolve(spec, data, weights)
        epilogue = Epilogue((Requantize(0, 255), Lookup("int8")), (StoreCodes("int8"),))
        params = epilogue_params(rng, epilogue, sums.shape, int(abs(sums).max()))
        kernel = conv2d(spec, epilogue, isa, 1)
        inputs = [data, kernel.layout.pack(weights), *params]
        yield label, kernel.prim_func, inputs, finish(epilogue, sums, params)
