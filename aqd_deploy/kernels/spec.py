"""What a kernel is asked for: the geometry of a convolution and what follows its accumulators.

The compiler builds these from integer ONNX; every kernel family turns them into one TIR function. Activations
are channels-last: uint8 [H, W, C] (batch 1), int32 streams [H, W, C].
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ConvSpec:
    """Geometry of an integer convolution, batch 1.

    `odd`: weights are q = 2·w + 1 with w the int8 tensor (`aqd.integer.ConvOdd`).
    `pad_values`: value of the padding a channel (`aqd.integer.PadImage`), None for 0.
    `input_signed`: int8 input instead of uint8.
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

    @property
    def out_height(self) -> int:
        span = (self.kernel[0] - 1) * self.dilations[0] + 1
        return (self.height + self.pads[0] + self.pads[2] - span) // self.strides[0] + 1

    @property
    def out_width(self) -> int:
        span = (self.kernel[1] - 1) * self.dilations[1] + 1
        return (self.width + self.pads[1] + self.pads[3] - span) // self.strides[1] + 1


@dataclass(frozen=True)
class AddBias:
    """v += bias; parameters: bias int32 [C]."""


@dataclass(frozen=True)
class Relu:
    """v = max(v, 0); no parameters."""


@dataclass(frozen=True)
class MultiplyShift:
    """v = (v·c + B) >> d; parameters: c int32 [C], B int64 [C], d int32 [C]."""


@dataclass(frozen=True)
class SkipAdd:
    """v = ms(v; ca, Ba, da) + ms(other; cb, Bb, db).

    Parameters: other int32 [H/upsample, W/upsample, C], then ca int32, Ba int64, da int32, cb int32,
    Bb int64, db int32, each [C]. `upsample` is the nearest upsampling fused into the read of `other`.
    `self_identity` and `other_identity`: that side is c=1, B=0, d=0 in every channel (its three parameters
    are still passed).
    """

    upsample: int = 1
    self_identity: bool = False
    other_identity: bool = False


Step = AddBias | Relu | MultiplyShift | SkipAdd


@dataclass(frozen=True)
class StoreStream:
    """Store v as int32; no parameters."""


@dataclass(frozen=True)
class StoreRequantize:
    """Store clip((v·c + B) >> d, lo, hi); parameters: c int32 [C], B int64 [C], d int32 [C]."""

    lo: int
    hi: int
    dtype: str = "uint8"


@dataclass(frozen=True)
class StoreThreshold:
    """Store lo + Σ_k [sign·v ≥ T_k]; parameters: sign int32 [C], T int32 [steps, C]."""

    lo: int
    steps: int
    dtype: str = "uint8"


Store = StoreStream | StoreRequantize | StoreThreshold


@dataclass(frozen=True)
class Epilogue:
    """Steps in order, then the stores, each of the value after the last step.

    The TIR function's parameters are: input, packed weights, (parameters of each step in order), (parameters
    of each store in order), then one output buffer a store in order.
    """

    steps: tuple[Step, ...] = ()
    stores: tuple[Store, ...] = (StoreStream(),)
