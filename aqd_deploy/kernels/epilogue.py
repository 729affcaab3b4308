"""What follows the accumulators, written lane by lane: steps (bias, ReLU, multiply-shift, skip-add) and
stores.

64-bit products are written as sext(int32)·sext(int32), the form that instruction selection turns into one
widening multiplication; shifts are arithmetic, so every result is the integer of docs/integer-dialect.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tvm import tirx

from aqd_deploy.kernels.emit import Buffer, Emitter, Expr, const, convert, load
from aqd_deploy.kernels.spec import (
    AddBias,
    Epilogue,
    MultiplyShift,
    Relu,
    SkipAdd,
    Step,
    StoreRequantize,
    StoreStream,
    StoreThreshold,
)


@dataclass(frozen=True)
class Place:
    """An output pixel: its index among all pixels, its row and column, and its level (`ConvSpec.levels`)."""

    pixel: Expr
    y: Expr
    x: Expr
    level: Expr | None = None


@dataclass
class BoundEpilogue:
    """An epilogue whose parameters are declared in a function under construction.

    `width` and `channels` are those of the output map [height, width, channels]; parameters have `levels`
    rows of `channels`.
    """

    epilogue: Epilogue
    height: int
    width: int
    channels: int
    levels: int = 1
    step_params: list[list[Buffer]] = field(default_factory=list)
    store_params: list[list[Buffer]] = field(default_factory=list)
    outputs: list[Buffer] = field(default_factory=list)

    def at(self, y: Expr, x: Expr) -> Place:
        """The pixel (y, x) of an output that is one map."""
        return Place(y * self.width + x, y, x)

    def emit(self, em: Emitter, value: Expr, place: Place, channel: Expr, lanes: int) -> None:
        """Applies everything to int32 `value`: `lanes` channels from `channel` on of the pixel at `place`."""
        c = channel
        if place.level is not None:
            c = em.bind("parameter", place.level * self.channels + channel)
        for step, params in zip(self.epilogue.steps, self.step_params, strict=True):
            value = em.bind("v", self._step(step, params, value, place, channel, c, lanes))
        position = em.bind("at", place.pixel * self.channels + channel)
        for store, params, output in zip(self.epilogue.stores, self.store_params, self.outputs, strict=True):
            em.store(output, position, self._stored(store, params, value, c, lanes), lanes)

    def _step(
        self, step: Step, params: list[Buffer], value: Expr, place: Place, channel: Expr, c: Expr, lanes: int
    ) -> Expr:
        match step:
            case AddBias():
                return value + load(params[0], c, lanes)
            case Relu():
                return tirx.Max(value, const(0, "int32", lanes))
            case MultiplyShift():
                return convert(multiply_shift(value, params, c, lanes), "int32", lanes)
            case SkipAdd():
                pixel, up = place.pixel, step.upsample
                if up != 1:
                    pixel = place.y // up * (self.width // up) + place.x // up
                other = load(params[0], pixel * self.channels + channel, lanes)
                if not step.self_identity:
                    value = convert(multiply_shift(value, params[1:4], c, lanes), "int32", lanes)
                if not step.other_identity:
                    other = convert(multiply_shift(other, params[4:7], c, lanes), "int32", lanes)
                return value + other

    def _stored(
        self,
        store: StoreStream | StoreRequantize | StoreThreshold,
        params: list[Buffer],
        value: Expr,
        c: Expr,
        lanes: int,
    ) -> Expr:
        match store:
            case StoreStream():
                return value
            case StoreRequantize():
                wide = multiply_shift(value, params, c, lanes)
                clipped = tirx.Min(
                    tirx.Max(wide, const(store.lo, "int64", lanes)), const(store.hi, "int64", lanes)
                )
                return convert(clipped, store.dtype, lanes)
            case StoreThreshold():
                signed = value * load(params[0], c, lanes)
                total = const(store.lo, "int32", lanes)
                for k in range(store.steps):
                    reached = signed >= load(params[1], c + k * (self.levels * self.channels), lanes)
                    total = total + tirx.Select(reached, const(1, "int32", lanes), const(0, "int32", lanes))
                return convert(total, store.dtype, lanes)


def multiply_shift(value: Expr, params: list[Buffer], c: Expr, lanes: int) -> Expr:
    """(value·c + B) >> d as int64; `params` are c int32, B int64, d int32, each [C]."""
    factor, addend, shift = (load(p, c, lanes) for p in params)
    product = convert(value, "int64", lanes) * convert(factor, "int64", lanes)
    return tirx.shift_right(product + addend, convert(shift, "int64", lanes))


def bind_epilogue(
    em: Emitter, epilogue: Epilogue, height: int, width: int, channels: int, levels: int = 1
) -> BoundEpilogue:
    """Declares the parameters in the order of `spec.Epilogue`: steps, stores, outputs."""
    bound = BoundEpilogue(epilogue, height, width, channels, levels)
    for step in epilogue.steps:
        bound.step_params.append(_step_parameters(em, step, height, width, channels, levels))
    for store in epilogue.stores:
        bound.store_params.append(_store_parameters(em, store, levels * channels))
    for store in epilogue.stores:
        dtype = "int32" if isinstance(store, StoreStream) else store.dtype
        bound.outputs.append(em.parameter("out", (height, width, channels), dtype))
    return bound


def _multiply_shift_parameters(em: Emitter, channels: int) -> list[Buffer]:
    return [
        em.parameter("c", (channels,), "int32"),
        em.parameter("B", (channels,), "int64"),
        em.parameter("d", (channels,), "int32"),
    ]


def _step_parameters(
    em: Emitter, step: Step, height: int, width: int, channels: int, levels: int
) -> list[Buffer]:
    rows = levels * channels
    match step:
        case AddBias():
            return [em.parameter("bias", (rows,), "int32")]
        case Relu():
            return []
        case MultiplyShift():
            return _multiply_shift_parameters(em, rows)
        case SkipAdd(upsample=up):
            other = em.parameter("other", (height // up, width // up, channels), "int32")
            return [other, *_multiply_shift_parameters(em, rows), *_multiply_shift_parameters(em, rows)]


def _store_parameters(
    em: Emitter, store: StoreStream | StoreRequantize | StoreThreshold, channels: int
) -> list[Buffer]:
    match store:
        case StoreStream():
            return []
        case StoreRequantize():
            return _multiply_shift_parameters(em, channels)
        case StoreThreshold(steps=steps):
            return [em.parameter("sign", (channels,), "int32"), em.parameter("T", (steps, channels), "int32")]
