"""What a compiler asks of the kernels of a kind of device.

Everything that multiplies, moves or expands numbers is a TIR function that a backend makes; whoever compiles,
tunes or estimates is handed one (`kernels.backends`) and knows no kernels by name. Maps are channels-last
[H, W, C], those at the borders of a program [1, C, H, W], and several maps in one tensor [pixels, 1, C].
Functions have no global symbol, take inputs before outputs, and their outputs must not alias inputs. `dtype`
is uint8, int8 or int32; `threads` the size of the pool that a function will run in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from aqd_deploy.kernels.contract.caches import Core
from aqd_deploy.kernels.contract.choice import Choice
from aqd_deploy.kernels.contract.kernel import InnerLoop, Instructions, Kernel, Layout, Peak, Stream
from aqd_deploy.kernels.contract.spec import ConvSpec, Epilogue
from aqd_deploy.targets.isa import Isa

Sizes = Sequence[tuple[int, int]]


class Convolutions(Protocol):
    """How convolutions are built."""

    def threads_of(self, threads: int, *, macs: int = 0, moved: int = 0) -> int:
        """How many of `threads` a kernel is worth that does `macs` multiply-accumulates or moves so many
        bytes.
        """

    def choices(self, spec: ConvSpec, threads: int) -> tuple[Choice, ...]:
        """Every way to build a convolution, by estimated time: the first is the default, all are candidates
        for tuning.
        """

    def estimate(self, spec: ConvSpec, threads: int) -> float:
        """The cycles that the cost model estimates for the default choice."""

    def convolution(
        self, spec: ConvSpec, epilogue: Epilogue, threads: int, choice: Choice | None = None
    ) -> Kernel:
        """The kernel that `choice`, by default the first of `choices`, makes. The epilogue may have a pool,
        for which there is nothing to choose. Raises ShapeError where the convolution has no output or
        `choice` is none of its choices.
        """

    def instructions(self, spec: ConvSpec, choice: Choice) -> Instructions | None:
        """What the machine code of a choice must multiply with, None where anything will do."""


class Movements(Protocol):
    """What stands between convolutions."""

    def pointwise(
        self, height: int, width: int, channels: int, epilogue: Epilogue, threads: int, dtype: str
    ) -> Any:
        """(data [H, W, C], parameters and outputs as in `spec.Epilogue`): an epilogue of no convolution."""

    def max_pool(
        self,
        height: int,
        width: int,
        channels: int,
        kernel: tuple[int, int],
        strides: tuple[int, int],
        pads: tuple[int, int, int, int],
        dtype: str,
        threads: int,
    ) -> Any:
        """(data [H, W, C], out [OH, OW, C]): ONNX MaxPool, floor mode; padding (top, left, bottom, right)
        never wins. Raises ShapeError where a window would lie in the padding alone.
        """

    def upsample(
        self, height: int, width: int, channels: int, factor: tuple[int, int], dtype: str, threads: int
    ) -> Any:
        """(data [H, W, C], out [H·fy, W·fx, C]): nearest neighbour, whole factors."""

    def pad(
        self,
        height: int,
        width: int,
        channels: int,
        pads: tuple[int, int, int, int],
        values: Sequence[int],
        dtype: str,
    ) -> Any:
        """(data [H, W, C], out): padding (top, left, bottom, right) with one value a channel."""

    def concat(self, height: int, width: int, channels: Sequence[int], dtype: str, threads: int) -> Any:
        """(part [H, W, C_i] …, out [H, W, ΣC_i])."""

    def slice(
        self,
        height: int,
        width: int,
        channels: int,
        cuts: tuple[tuple[int, int, int], tuple[int, int, int], tuple[int, int, int]],
        dtype: str,
        threads: int,
    ) -> Any:
        """(data [H, W, C], out): of rows, columns and channels the (first, step, count) of `cuts`."""

    def gather(self, height: int, width: int, channels: int, count: int, dtype: str, threads: int) -> Any:
        """(data [H, W, C], indices int32 [count], out [H, W, count]): channels in the order of `indices`."""

    def depth_to_space(
        self,
        height: int,
        width: int,
        channels: int,
        blocksize: int,
        first: Sequence[int],
        step: int,
        dtype: str,
        threads: int,
    ) -> Any:
        """(data [H, W, C], out [H·r, W·r, C/r²]): channel c at place i of a square of r² pixels, row by row,
        is channel first[i] + step·c.
        """

    def rearrange(
        self, shape: tuple[int, int, int], result: tuple[int, int, int], dtype: str, threads: int
    ) -> Any:
        """(data `shape`, indices int32 [elements of out], out `result`), both [H, W, C]: element k of out is
        element indices[k] of data.
        """

    def sum_pool(
        self,
        height: int,
        width: int,
        channels: int,
        kernel: tuple[int, int],
        strides: tuple[int, int],
        pads: tuple[int, int, int, int],
        pad_value: int,
        dtype: str,
        threads: int,
    ) -> Any:
        """(data [H, W, C], out int32 [OH, OW, C]): sums of windows, floor mode; what is padded (top, left,
        bottom, right) is `pad_value`.
        """

    def resize_linear(
        self,
        height: int,
        width: int,
        channels: int,
        factors: tuple[int, int],
        half_pixel: int,
        dtype: str,
        threads: int,
    ) -> Any:
        """(data [H, W, C], out int32 [H·fy, W·fx, C]): the dialect's ResizeLinear."""

    def stack(self, sizes: Sizes, channels: int, dtype: str) -> Any:
        """(map [H, W, C] …, out [pixels, 1, C]): the maps of `sizes` (H, W) one after the other."""

    def unstack(self, pixels: int, starts: Sequence[int], sizes: Sizes, channels: int, dtype: str) -> Any:
        """(data [pixels, 1, C], map [H, W, C] …): the maps of `sizes` that begin at pixels `starts`."""

    def to_channels_last(self, height: int, width: int, channels: int, dtype: str, threads: int) -> Any:
        """(data [1, C, H, W], out [H, W, C])."""

    def to_channels_first(
        self, shape: tuple[int, int, int], starts: Sequence[int], sizes: Sizes, dtype: str, threads: int
    ) -> Any:
        """(data `shape`, [H, W, C] or [pixels, 1, C]; out [1, C, H, W] …): the maps of `sizes` that begin at
        pixels `starts`.
        """


class Expansions(Protocol):
    """From what a program stores to what its kernels read, when it is loaded. `stored` inputs lie in the
    program's data: in place of a tensor the function takes the byte, int64, at which it begins there.
    """

    def unpack_weights(
        self,
        weight_shape: tuple[int, int, int, int],
        bits: int,
        offset: int,
        step: int,
        layout: Layout,
        stored: bool = False,
    ) -> Any:
        """(codes uint8 [bytes], packed int8 `layout.shape`): `layout.pack` of the weights [out, in, kh, kw]
        offset + step·code, whose codes of `bits` bits lie in the order [out, kh, kw, in].
        """

    def expand_constants(self, frames: int, planes: int, dtype: str, stored: bool = False) -> Any:
        """(bases `dtype` [frames], widths uint8 [frames], planes uint64 [planes], values `dtype`
        [frames · 64]): `storage.bit_planes.decode` for int32 or int64.
        """

    def expand_rice_codes(self, count: int, words: int, centre: int, shift: int, stored: bool = False) -> Any:
        """(words uint32 [words], starts int32 [⌈count / 4096⌉], codes uint8 [count]):
        `storage.rice_codes.decode`.
        """

    def huge_pages(self, size: int) -> Any:
        """(memory uint8 [size]): large pages for memory that is new, where there are such."""


class Measures(Protocol):
    """What measurements and estimates ask."""

    def peaks(self, threads: int, steps: int) -> list[Peak]:
        """What the device can reach, with each instruction that is worth a look, in `steps` steps of each of
        `threads` threads.
        """

    def streams(self, threads: int) -> list[Stream]:
        """How fast `threads` threads read memory ("memory", the first) and caches near to a core."""

    def inner_loop(self, assembly: str) -> InnerLoop | None:
        """The innermost loop of a kernel's machine code with the most products, None where there is none."""


class Backend(Convolutions, Movements, Expansions, Measures, Protocol):
    """The kernels for devices with the instruction set `isa` and cores like `core`."""

    @property
    def isa(self) -> Isa: ...

    @property
    def core(self) -> Core: ...
