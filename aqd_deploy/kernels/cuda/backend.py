"""The backend of NVIDIA's cards."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

import numpy as np

from aqd_deploy.kernels.contract.choice import Choice
from aqd_deploy.kernels.contract.launches import (
    Address,
    Border,
    Buffer,
    CardConv,
    Function,
    Launch,
    Room,
    whole,
)
from aqd_deploy.kernels.contract.spec import ConvSpec, Epilogue
from aqd_deploy.kernels.cuda import conv, wgmma
from aqd_deploy.kernels.cuda.cards import card_named
from aqd_deploy.kernels.cuda.chain import C_TYPES, Chain, chain_of
from aqd_deploy.kernels.cuda.layout import THREADS, blocks_of
from aqd_deploy.kernels.storage.rice_codes import CHUNK, RiceCodes

_HEADERS = ("conv_mma.cuh", "conv_wg.cuh", "conv_direct.cuh", "unpack.cuh")
_UNIT = 16


@dataclass(frozen=True)
class CudaBackend:
    """Kernels for `card`. Raises TargetError where there are none for it."""

    card: str

    def __post_init__(self) -> None:
        card_named(self.card)

    def convolution(
        self,
        spec: ConvSpec,
        epilogue: Epilogue,
        constants: Sequence[np.ndarray],
        images: int,
        border: Border | None = None,
        choice: Choice | None = None,
    ) -> CardConv:
        chain = _chain(spec, epilogue, constants, border)
        return conv.convolution(spec, chain, images, card_named(self.card), choice)

    def choices(
        self,
        spec: ConvSpec,
        epilogue: Epilogue,
        constants: Sequence[np.ndarray],
        images: int,
        border: Border | None = None,
    ) -> list[Choice]:
        chain = _chain(spec, epilogue, constants, border)
        return conv.choices_of(spec, chain, images, card_named(self.card))

    def source(self, functions: Sequence[Function]) -> str:
        lines = [f'#include "{name}"' for name in _HEADERS]
        for index, each in enumerate(functions):
            bounds = f"__launch_bounds__({each.threads}, {each.blocks})"
            lines.append(
                f"AQD_GLOBAL void {bounds} k{index}(AQD_PARAM {each.parameter} p) {{ {each.code}(p); }}"
            )
        return "\n".join(lines) + "\n"

    def sources(self) -> dict[str, str]:
        folder = resources.files("aqd_deploy.kernels.cuda") / "native"
        files = sorted(folder.iterdir(), key=lambda file: file.name)
        return {file.name: file.read_text("utf-8") for file in files} | {"wgmma.cuh": wgmma.source()}

    def pointwise(
        self,
        source: Buffer,
        epilogue: Epilogue,
        constants: Sequence[np.ndarray],
        others: Sequence[Buffer],
        outputs: Sequence[Buffer],
        room: Room,
    ) -> Launch:
        chain = chain_of(epilogue, constants, 1, 1)
        code = f"pointwise<{C_TYPES[source.dtype]}, {chain.code}>"
        rows = source.images * source.height * source.width
        size = (source.height, source.width)
        pointers = (source.address, room.store(chain.words), *chain.addresses(others, outputs, room))
        numbers = (source.channels, source.pitch, *size, *size, 0, 0, rows, 0)
        return _launch(code, f"PointwiseArgs<{chain.tensors}>", rows * source.pitch // 4, pointers, numbers)

    def max_pool(
        self,
        source: Buffer,
        out: Buffer,
        kernel: tuple[int, int],
        strides: tuple[int, int],
        pads: tuple[int, int, int, int],
    ) -> Launch:
        return _map("max_pool", source, out, None, (*kernel, *strides, *pads[:2]))

    def upsample(self, source: Buffer, out: Buffer, factors: tuple[int, int]) -> Launch:
        return _map("resize", source, out, None, (1, 1, *factors, 0, 0))

    def pad(
        self,
        source: Buffer,
        out: Buffer,
        pads: tuple[int, int, int, int],
        values: Sequence[int],
        room: Room,
    ) -> Launch:
        return _map("pad", source, out, room.store(_padded(values)), (1, 1, 1, 1, *pads[:2]))

    def sum_pool(
        self,
        source: Buffer,
        out: Buffer,
        kernel: tuple[int, int],
        strides: tuple[int, int],
        pads: tuple[int, int, int, int],
        pad_value: int,
        room: Room,
    ) -> Launch:
        values = room.store(_padded([pad_value] * out.channels))
        return _map("sum_pool", source, out, values, (*kernel, *strides, *pads[:2]))

    def resize_linear(self, source: Buffer, out: Buffer, factors: tuple[int, int], half_pixel: int) -> Launch:
        top, left = (half_pixel * (1 - factor) for factor in factors)
        return _map("resize_linear", source, out, None, (1, 1, *factors, top, left))

    def pick(
        self,
        source: Buffer,
        out: Buffer,
        first: tuple[int, int],
        steps: tuple[int, int],
        channels: np.ndarray,
        room: Room,
    ) -> Launch:
        block = math.isqrt(len(channels))
        named = room.store(_padded(channels))
        sizes = (source.images, source.height, source.width, out.height, out.width, source.pitch, out.pitch)
        count = out.images * out.height * out.width * out.pitch * out.itemsize // _UNIT
        pointers, numbers = (source.address, out.address, named), (*sizes, block, *steps, *first)
        return _launch(f"pick<{C_TYPES[out.dtype]}>", "PickArgs", count, pointers, numbers)

    def rearrange(self, source: Buffer, out: Buffer, indices: np.ndarray, room: Room) -> Launch:
        pixels, channels = np.divmod(indices.reshape(-1, out.channels), source.channels)
        named = room.store(_padded(pixels * source.pitch + channels))
        elements = source.height * source.width * source.pitch, out.height * out.width * out.pitch
        code = f"rearrange<{C_TYPES[out.dtype]}>"
        count = out.images * elements[1]
        pointers, numbers = (source.address, out.address, named), (count, *elements, 0)
        return _launch(code, "RearrangeArgs", count, pointers, numbers)

    def concat(self, sources: Sequence[Buffer], out: Buffer) -> list[Launch]:
        made, first, pixels = [], 0, out.images * out.height * out.width
        for part in sources:
            numbers = (pixels, out.images, part.channels, 0, part.pitch, out.pitch, first)
            code = f"concat<{C_TYPES[out.dtype]}>"
            made.append(_copy(code, part.address, out.address, pixels * part.channels, numbers))
            first += part.channels
        return made

    def copy(self, source: Address, out: Address, size: int) -> Launch:
        count = size // _UNIT
        return _copy("copy", source, out, count, (count, 0, 0, 0, 0, 0, 0))

    def to_channels_last(self, source: Address, out: Buffer) -> Launch:
        pixels = out.height * out.width
        numbers = (0, out.images, out.channels, pixels, 0, out.pitch, 0)
        code = f"to_channels_last<{C_TYPES[out.dtype]}>"
        return _copy(code, source, out.address, out.images * pixels * out.pitch // 4, numbers)

    def patches(
        self,
        image: Buffer,
        out: Buffer,
        steps: tuple[int, int, int],
        pads: tuple[int, int, int, int],
        values: Sequence[int],
        room: Room,
    ) -> Launch:
        sizes = (out.images, image.height, image.width, out.height, out.width, out.pitch)
        width, stride, dilation = steps
        numbers = (*sizes, image.channels, width, dilation, stride, *pads[:2])
        pointers = (image.address, out.address, room.store(np.array(values, np.int32)))
        count = out.images * out.height * out.width
        return _launch("patches", "MapArgs", count, pointers, numbers)

    def to_channels_first(self, source: Address, out: Buffer) -> Launch:
        pixels = out.height * out.width
        numbers = (0, out.images, out.channels, pixels, out.pitch, 0, 0)
        code = f"to_channels_first<{C_TYPES[out.dtype]}>"
        return _copy(code, source, out.address, out.images * pixels * -(-out.channels // 4), numbers)

    def expand_rice_codes(self, stored: RiceCodes, out: Address, room: Room) -> Launch:
        pointers = (room.store(stored.words), room.store(stored.starts), out)
        numbers = (stored.count, stored.centre, stored.shift, 0)
        return _launch("expand_rice", "RiceArgs", -(-stored.count // CHUNK), pointers, numbers)


def _chain(
    spec: ConvSpec, epilogue: Epilogue, constants: Sequence[np.ndarray], border: Border | None
) -> Chain:
    """All that follows the accumulators of a convolution."""
    return chain_of(epilogue, constants, len(spec.levels) or 1, len(spec.maps), border)


def _padded(values: Sequence[int] | np.ndarray) -> np.ndarray:
    """int32 [..., channels] with zeros up to the pitch."""
    array = np.asarray(values, np.int32)
    more = whole(array.shape[-1]) - array.shape[-1]
    return np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, more)])


def _map(name: str, source: Buffer, out: Buffer, values: Address | None, numbers: tuple[int, ...]) -> Launch:
    sizes = (source.images, source.height, source.width, out.height, out.width, source.pitch)
    count = out.images * out.height * out.width * out.pitch * out.itemsize // _UNIT
    pointers = (source.address, out.address, values)
    return _launch(f"{name}<{C_TYPES[source.dtype]}>", "MapArgs", count, pointers, (*sizes, *numbers))


def _copy(code: str, source: Address, out: Address, threads: int, numbers: tuple[int, ...]) -> Launch:
    return _launch(code, "CopyArgs", threads, (source, out), (*numbers, 0))


def _launch(
    code: str, parameter: str, threads: int, pointers: tuple[Address | None, ...], numbers: tuple[int, ...]
) -> Launch:
    return Launch(Function(code, parameter, THREADS), blocks_of(threads), pointers, numbers)
