"""What a compiler asks of the kernels of a card: launches of CUDA functions, in place of TIR.

A program for a card has one memory, addressed in regions; its launches run one after the other. Maps are
[image][y][x][pitch], channels-last; the pitch is the channels in whole sixteens, and what lies behind the
channels may be anything. Several maps in one tensor lie one after the other, each with all its images. Maps
at the borders of a program are [image][channel][y][x].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import numpy as np

from aqd_deploy.kernels.contract.choice import Choice
from aqd_deploy.kernels.contract.spec import ConvSpec, Epilogue
from aqd_deploy.kernels.storage.rice_codes import RiceCodes

PITCH = 16


class Region(Enum):
    """Where an address lies. STORED: bytes that the program has, never written. ARENA: tensors of a run.
    KEPT: what `prepare` wrote. BORDER: inputs and outputs. SUMS: zeros between launches, as all but STORED
    are when the program is loaded.
    """

    STORED = "stored"
    ARENA = "arena"
    KEPT = "kept"
    BORDER = "border"
    SUMS = "sums"


@dataclass(frozen=True)
class Address:
    """A byte of a region; addresses of tensors are multiples of 64."""

    region: Region
    offset: int = 0

    def __add__(self, more: int) -> Address:
        return Address(self.region, self.offset + more)


@dataclass(frozen=True)
class Buffer:
    """A tensor of `images` maps [height][width][pitch] of `dtype` (uint8, int8 or int32)."""

    address: Address
    images: int
    height: int
    width: int
    channels: int
    dtype: str

    @property
    def pitch(self) -> int:
        """Elements of a pixel."""
        return whole(self.channels)

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return int(np.dtype(self.dtype).itemsize)

    def pixel(self, index: int) -> Address:
        """Where pixel `index` begins, counted over all images."""
        return self.address + index * self.pitch * self.itemsize


def whole(channels: int) -> int:
    """Elements that a pixel of so many channels takes."""
    return -(-channels // PITCH) * PITCH


@dataclass(frozen=True)
class Function:
    """A CUDA function: C++ that names it with its template's arguments, the type of its only parameter, and
    its launch bounds: threads, and blocks that a multiprocessor must hold.
    """

    code: str
    parameter: str
    threads: int = 256
    blocks: int = 1


@dataclass(frozen=True)
class Launch:
    """One call. The parameter is a structure: `pointers`, then `numbers`, int32. `shared`: dynamic shared
    memory in bytes.
    """

    function: Function
    grid: int
    pointers: tuple[Address | None, ...]
    numbers: tuple[int, ...]
    shared: int = 0


class Room(Protocol):
    """Where a kernel puts what it needs beside its tensors."""

    def store(self, array: np.ndarray) -> Address:
        """Where the bytes of `array` lie in the program; equal ones are there once."""

    def sums(self, size: int) -> Address:
        """`size` bytes of zeros, which a launch must leave as zeros: all launches share them."""


@dataclass(frozen=True)
class StoredCodes:
    """Weights offset + step·code [out, in, kh, kw], whose codes of `bits` bits lie at `address` in the order
    [out, kh, kw, in].
    """

    address: Address
    bits: int
    offset: int
    step: int
    shape: tuple[int, int, int, int]


class CardLayout(Protocol):
    """How the weights of a kernel lie in memory; equal layouts are equal and have one hash."""

    @property
    def bytes(self) -> int:
        """Size in memory."""

    def unpack(self, codes: StoredCodes, out: Address) -> Launch:
        """The launch that writes the weights to `out`."""


@dataclass(frozen=True)
class Border:
    """What is added to accumulators at the edges of maps: `edges` (top, left, bottom, right) are the rows and
    columns that have sums of their own. `sums` int32 [kinds, levels·C], a kind a pair of kinds of rows and of
    columns: the first ones, all between, the last ones.
    """

    edges: tuple[int, int, int, int]
    sums: np.ndarray


class CardConv(Protocol):
    """A convolution with its epilogue. `name`: its family, `why` the reason for it; `executed_macs` as in
    `kernel.Kernel`, of one image.
    """

    @property
    def name(self) -> str: ...

    @property
    def why(self) -> str: ...

    @property
    def choice(self) -> Choice: ...

    @property
    def executed_macs(self) -> int: ...

    @property
    def layout(self) -> CardLayout: ...

    def launches(
        self,
        source: Buffer,
        weights: Address,
        others: Sequence[Buffer],
        outputs: Sequence[Buffer],
        room: Room,
    ) -> list[Launch]:
        """The calls. `others` are the tensors among the operands, `outputs` one a store, or one a map for a
        `spec.StoreBorder`.
        """


class CardBackend(Protocol):
    """The kernels of cards."""

    @property
    def card(self) -> str:
        """The architecture, for example "sm_87"."""

    def source(self, functions: Sequence[Function]) -> str:
        """CUDA C++ that has every function, called k0, k1, …, and includes files of `sources`."""

    def sources(self) -> dict[str, str]:
        """Included files by name."""

    def convolution(
        self,
        spec: ConvSpec,
        epilogue: Epilogue,
        constants: Sequence[np.ndarray],
        images: int,
        border: Border | None = None,
        choice: Choice | None = None,
    ) -> CardConv:
        """The kernel of a convolution without pool or more specialised scaling than GENERAL, whose padding is
        zeros and what `border` adds; `constants` are the arrays among its operands; `choice` is one of
        `choices`, the first where it is None. Raises ShapeError where it has no output or no such choice.
        """

    def choices(
        self,
        spec: ConvSpec,
        epilogue: Epilogue,
        constants: Sequence[np.ndarray],
        images: int,
        border: Border | None = None,
    ) -> list[Choice]:
        """What kernels a convolution may have, each once, the fastest first by an estimate. Raises ShapeError
        where it has no output.
        """

    def pointwise(
        self,
        source: Buffer,
        epilogue: Epilogue,
        constants: Sequence[np.ndarray],
        others: Sequence[Buffer],
        outputs: Sequence[Buffer],
        room: Room,
    ) -> Launch:
        """An epilogue of no convolution."""

    def max_pool(
        self,
        source: Buffer,
        out: Buffer,
        kernel: tuple[int, int],
        strides: tuple[int, int],
        pads: tuple[int, int, int, int],
    ) -> Launch:
        """ONNX MaxPool, floor mode; padding (top, left, bottom, right) never wins."""

    def upsample(self, source: Buffer, out: Buffer, factors: tuple[int, int]) -> Launch:
        """Nearest neighbour, whole factors (rows, columns)."""

    def pad(
        self,
        source: Buffer,
        out: Buffer,
        pads: tuple[int, int, int, int],
        values: Sequence[int],
        room: Room,
    ) -> Launch:
        """Padding (top, left, bottom, right) with one value a channel."""

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
        """int32 sums of windows of codes; the padding (top, left, bottom, right) is `pad_value`."""

    def resize_linear(self, source: Buffer, out: Buffer, factors: tuple[int, int], half_pixel: int) -> Launch:
        """The dialect's ResizeLinear of codes, int32."""

    def pick(
        self,
        source: Buffer,
        out: Buffer,
        first: tuple[int, int],
        steps: tuple[int, int],
        channels: np.ndarray,
        room: Room,
    ) -> Launch:
        """Every `steps`-th row and column from `first` on, each pixel as a square of r x r pixels, of which
        pixel i has the input's channels `channels` int32 [r·r, channels of `out`][i].
        """

    def rearrange(self, source: Buffer, out: Buffer, indices: np.ndarray, room: Room) -> Launch:
        """Element k of each image is its element `indices`[k], int32; both are counted in [H, W, C]."""

    def concat(self, sources: Sequence[Buffer], out: Buffer) -> list[Launch]:
        """Along channels."""

    def copy(self, source: Address, out: Address, size: int) -> Launch:
        """`size` bytes, a multiple of 16."""

    def to_channels_last(self, source: Address, out: Buffer) -> Launch:
        """From [image][channel][y][x] to a map."""

    def patches(
        self,
        image: Buffer,
        out: Buffer,
        steps: tuple[int, int, int],
        pads: tuple[int, int, int, int],
        values: Sequence[int],
        room: Room,
    ) -> Launch:
        """From `image` [image][channel][y][x] rows of patches, [y + pads][x of `out`][x of the
        patch][channel]; `steps` are the width of a patch, its stride and dilation; `values` of the pads (top,
        left, bottom, right) one a channel.
        """

    def to_channels_first(self, source: Address, out: Buffer) -> Launch:
        """The reverse: from a map at `source`, whose sizes `out` has, to [image][channel][y][x] at `out`."""

    def expand_rice_codes(self, stored: RiceCodes, out: Address, room: Room) -> Launch:
        """`storage.rice_codes.decode`, uint8 at `out`."""
