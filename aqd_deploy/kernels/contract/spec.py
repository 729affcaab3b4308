"""What a kernel is asked for: the geometry of a convolution and what follows its accumulators.

The compiler builds these from integer ONNX; every kernel family turns them into one TIR function. Activations
are channels-last: uint8 [H, W, C] (batch 1), int32 streams [H, W, C].
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property


@dataclass(frozen=True)
class Map:
    """One feature map of a convolution, and where its pixels begin in the input and output buffers."""

    height: int
    width: int
    out_height: int
    out_width: int
    in_start: int = 0
    out_start: int = 0


@dataclass(frozen=True)
class ConvSpec:
    """Geometry of an integer convolution, batch 1, and what is proven of its operands.

    `odd`: weights are q = 2·w + 1 with w the int8 tensor (`aqd.integer.ConvOdd`).
    `pad_values`: value of the padding a channel (`aqd.integer.PadImage`), None for 0.
    `input_signed`: int8 input instead of uint8.
    `levels`: (height, width) of each map where one weight meets several, a detection head on its pyramid.
    Their pixels lie one map after the other, [pixels, 1, C]; `height` is the number of input pixels, `width`
    is 1, and every parameter of the epilogue has a row a level, [levels·C].
    `input_range` and `weight_range`: closed intervals that hold every activation and weight, None for those
    of their types. `weight_step`: every weight is the lower end of `weight_range` and a multiple of it more.
    `winograd`: the forms of `winograd.forms` that are exact for the weights.
    """

    height: int
    width: int
    in_channels: int
    out_channels: int
    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)  # top, left, bottom, right
    dilations: tuple[int, int] = (1, 1)
    group: int = 1
    odd: bool = False
    pad_values: tuple[int, ...] | None = None
    input_signed: bool = False
    levels: tuple[tuple[int, int], ...] = ()
    input_range: tuple[int, int] | None = None
    weight_range: tuple[int, int] | None = None
    winograd: tuple[str, ...] = ()
    weight_step: int = 1

    @cached_property
    def maps(self) -> tuple[Map, ...]:
        """The maps of `levels`, or the only one."""
        found: list[Map] = []
        in_start = out_start = 0
        for height, width in self.levels or ((self.height, self.width),):
            out_height, out_width = self._out(height, 0), self._out(width, 1)
            found.append(Map(height, width, out_height, out_width, in_start, out_start))
            in_start += height * width
            out_start += out_height * out_width
        return tuple(found)

    def alone(self, m: Map) -> ConvSpec:
        """The convolution of `m`, one of `maps`, as if it were the only one."""
        return replace(self, height=m.height, width=m.width, levels=())

    @property
    def out_height(self) -> int:
        """Rows of the output, or with `levels` the number of its pixels."""
        if self.levels:
            return sum(m.out_height * m.out_width for m in self.maps)
        return self._out(self.height, 0)

    @property
    def out_width(self) -> int:
        return 1 if self.levels else self._out(self.width, 1)

    def _out(self, size: int, axis: int) -> int:
        span = (self.kernel[axis] - 1) * self.dilations[axis] + 1
        return (size + self.pads[axis] + self.pads[axis + 2] - span) // self.strides[axis] + 1


@dataclass(frozen=True)
class Scaling:
    """How (v·c + B) >> d is computed and how its constants are passed; `scaling` chooses it.

    `form`: "general" takes any constants. The others are exact for the constants and operands that they were
    chosen for: "shift" (v << k) + B, "narrow" in 32 bits, "wide" 64-bit products of which the bits d … d + 31
    are taken, "high" of which the upper halves are taken and shifted on. `lower` and `upper`: v is first
    clamped per channel from below and from above; a requantization is clipped after the shift only where
    `clip` says so. `saturates`: a requantization that is always clipped after the shift does without clamps.
    """

    form: str = "general"
    lower: bool = False
    upper: bool = False
    clip: bool = False
    saturates: bool = False


GENERAL = Scaling(clip=True)


@dataclass(frozen=True)
class AddBias:
    """v += bias; parameters: bias int32 [C]."""


@dataclass(frozen=True)
class Relu:
    """v = max(v, 0); no parameters."""


@dataclass(frozen=True)
class MultiplyShift:
    """v = (v·c + B) >> d; parameters: c int32 [C], B int64 [C], d int32 [C], or those of `scaling`."""

    scaling: Scaling = GENERAL


@dataclass(frozen=True)
class SkipAdd:
    """v = ms(v; ca, Ba, da) + ms(other; cb, Bb, db).

    Parameters: other int32 [H/upsample, W/upsample, C], then ca int32, Ba int64, da int32, cb int32,
    Bb int64, db int32, each [C], or those of `self_scaling` and `other_scaling`. `upsample` is the nearest
    upsampling fused into the read of `other`. `self_identity` and `other_identity`: that side is c=1, B=0,
    d=0 in every channel (its three parameters are still passed).
    """

    upsample: int = 1
    self_identity: bool = False
    other_identity: bool = False
    self_scaling: Scaling = GENERAL
    other_scaling: Scaling = GENERAL


@dataclass(frozen=True)
class SkipAddCodes(SkipAdd):
    """A `SkipAdd` whose other operand is codes, of `dtype`."""

    dtype: str = "uint8"


@dataclass(frozen=True)
class Multiply:
    """v = (v − zero)·(other − other_zero); parameters: other `dtype` [H, W, C], or [1, 1, C] where it is
    `one_pixel`.
    """

    zero: int
    other_zero: int
    dtype: str = "uint8"
    one_pixel: bool = False


@dataclass(frozen=True)
class StreamMultiply:
    """v = (v·other + B) >> d; parameters: other int32 [H, W, C], or [1, 1, C] where it is `one_pixel`, then
    B int64 [C], d int32 [C].
    """

    one_pixel: bool = False


@dataclass(frozen=True)
class Bound:
    """v = max(v, bound), or with `upper` min(v, bound); parameters: bound int32 [C]."""

    upper: bool


@dataclass(frozen=True)
class Lookup:
    """v = table[v & 255]; parameters: table int32 [64], the bytes of which are 256 codes of `dtype`."""

    dtype: str = "uint8"


@dataclass(frozen=True)
class Steps:
    """v = codes[#{k: T_k ≤ v}] for one ascending table of T.

    Parameters, made by `contract.cells.cell_table`: header int32 [4], T int32 [`cells` · `most`] and codes
    int32 [`cells` · (`most` + 1)]. A cell is a range of values with at most `most` thresholds in it.
    """

    cells: int
    most: int


@dataclass(frozen=True)
class Pieces:
    """v = (v·c_k + B_k) >> d_k with k = #{k: T_k ≤ v}, of `count` pieces.

    Parameters: T int32 [2^`bits` − 1], those behind the last one the largest int32; c int32, B int64 and d
    int32, each [`count`].
    """

    count: int

    @property
    def bits(self) -> int:
        """Comparisons that find a piece."""
        return (self.count - 1).bit_length()


@dataclass(frozen=True)
class StoreStream:
    """Store v as int32; no parameters."""


@dataclass(frozen=True)
class StoreInPlace(StoreStream):
    """Store v as int32 over the `other` operand of the epilogue's only skip-add, which has `upsample` 1; no
    parameters, and no output of its own. For kernels that write each value once (`Kernel.writes_once`).
    """


@dataclass(frozen=True)
class StoreBorder(StoreStream):
    """Store v as int32 [1, C, H, W], one output a map; no parameters. The only store of its epilogue, of
    kernels with `Kernel.stores_borders`. `parts`: channels of several outputs one after the other, each for
    all maps; of kernels with `Kernel.splits_borders`.
    """

    parts: tuple[int, ...] = ()


@dataclass(frozen=True)
class StoreRequantize:
    """Store clip((v·c + B) >> d, lo, hi); parameters: c int32 [C], B int64 [C], d int32 [C], or those of
    `scaling`.
    """

    lo: int
    hi: int
    dtype: str = "uint8"
    scaling: Scaling = GENERAL


@dataclass(frozen=True)
class StoreThreshold:
    """Store lo + Σ_k [sign·v ≥ T_k]; parameters: sign int32 [C], T int32 [steps, C]."""

    lo: int
    steps: int
    dtype: str = "uint8"


@dataclass(frozen=True)
class StoreCodes:
    """Store v, which is a code, as `dtype`; no parameters."""

    dtype: str


Store = StoreStream | StoreRequantize | StoreThreshold | StoreCodes


@dataclass(frozen=True)
class Requantize(StoreRequantize):
    """v = what a `StoreRequantize` stores."""


@dataclass(frozen=True)
class RequantizeMax:
    """v = clip(max((v·ca + Ba) >> da, (v·cb + Bb) >> db), lo, hi).

    Parameters: ca int32, Ba int64, da int32, cb int32, Bb int64, db int32, each [C], or those of `scalings`.
    """

    lo: int
    hi: int
    scalings: tuple[Scaling, Scaling] = (GENERAL, GENERAL)


@dataclass(frozen=True)
class Threshold(StoreThreshold):
    """v = what a `StoreThreshold` stores."""


Stage = (
    AddBias
    | Relu
    | Bound
    | MultiplyShift
    | SkipAdd
    | SkipAddCodes
    | Multiply
    | StreamMultiply
    | Requantize
    | RequantizeMax
    | Threshold
    | Lookup
    | Steps
    | Pieces
)


# Elements of a pool's window whose maximum is a single expression; of a larger one a loop takes it.
UNROLLED_WINDOW = 256


@dataclass(frozen=True)
class Pool:
    """Max-pool between the stages and the stores, as ONNX MaxPool: padding never wins, floor mode."""

    kernel: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]  # top, left, bottom, right

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the pooled map."""
        top, left, bottom, right = self.pads
        return (
            (height + top + bottom - self.kernel[0]) // self.strides[0] + 1,
            (width + left + right - self.kernel[1]) // self.strides[1] + 1,
        )


@dataclass(frozen=True)
class Epilogue:
    """Stages in order, a max-pool if there is one, then the stores, each of the resulting value.

    The TIR function's parameters are: input, packed weights, (parameters of each stage in order), (parameters
    of each store in order), then one output buffer a store in order.
    """

    stages: tuple[Stage, ...] = ()
    stores: tuple[Store, ...] = (StoreStream(),)
    pool: Pool | None = None
