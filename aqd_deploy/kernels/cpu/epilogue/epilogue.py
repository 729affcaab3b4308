"""What follows the accumulators, written lane by lane: stages (bias, ReLU, multiply-shift, skip-add, …) and
stores. `tables` has the functions that are tables, `fixed_point` the multiply-shifts; every result is the
integer of docs/integer-dialect.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tvm import tirx

from aqd_deploy.integer.types import is_signed
from aqd_deploy.kernels.contract.spec import (
    AddBias,
    Bound,
    Epilogue,
    Lookup,
    Multiply,
    MultiplyShift,
    Pieces,
    Relu,
    Requantize,
    RequantizeMax,
    Scaling,
    SkipAdd,
    SkipAddCodes,
    Stage,
    Steps,
    Store,
    StoreCodes,
    StoreInPlace,
    StoreRequantize,
    StoreStream,
    StoreThreshold,
    StreamMultiply,
    Threshold,
)
from aqd_deploy.kernels.cpu.emit import Buffer, Emitter, Expr, const, convert, load
from aqd_deploy.kernels.cpu.epilogue import fixed_point, tables
from aqd_deploy.kernels.cpu.epilogue.fixed_point import Lanes, Rows
from aqd_deploy.kernels.cpu.isa.select import instruction_set
from aqd_deploy.targets.isa import Isa

BYTES = ("int8", "uint8")


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
    isa: Isa
    height: int
    width: int
    channels: int
    levels: int = 1
    stage_params: list[list[Buffer]] = field(default_factory=list)
    store_params: list[list[Buffer]] = field(default_factory=list)
    outputs: list[Buffer] = field(default_factory=list)

    def at(self, y: Expr, x: Expr) -> Place:
        """The pixel (y, x) of an output that is one map."""
        return Place(y * self.width + x, y, x)

    @property
    def rows(self) -> Rows:
        """The rows of the parameters."""
        return Rows(self.channels, self.levels)

    def emit(self, em: Emitter, value: Expr, place: Place, channel: Expr, lanes: int) -> None:
        """Applies everything to int32 `value`: `lanes` channels from `channel` on of the pixel at `place`.

        `channel` is a multiple of the lanes of a vector.
        """
        value = self.after_stages(em, value, place, channel, lanes)
        at = self._parameter_lanes(em, place, channel, lanes)
        position = em.bind("at", place.pixel * self.channels + channel)
        for store, params, output in zip(self.epilogue.stores, self.store_params, self.outputs, strict=True):
            em.store(output, position, self._stored(em, store, params, value, at), lanes)

    def vectors_together(self, lanes: int, most: int) -> int:
        """How many neighbouring vectors `emit` should get as one, a divisor of `most`: as many as a table
        looks up at once, or else as become bytes together.
        """
        entry = instruction_set(self.isa)
        wanted: list[int] = []
        if entry.byte_table and any(isinstance(stage, Lookup) for stage in self.epilogue.stages):
            wanted += entry.byte_table.lanes
        if entry.packing and any(_is_bytes(store) for store in self.epilogue.stores):
            wanted.append(entry.packing.lanes)
        return next((n // lanes for n in wanted if lanes * most % n == 0 and n % lanes == 0), 1)

    @property
    def added(self) -> list[Buffer]:
        """The streams of skip-adds, without those read upsampled: few bytes, many times."""
        stages = zip(self.epilogue.stages, self.stage_params, strict=True)
        return [params[0] for stage, params in stages if type(stage) is SkipAdd and stage.upsample == 1]

    @property
    def streams(self) -> list[Buffer]:
        """What is read or written as int32 at the place of the result."""
        stores = zip(self.epilogue.stores, self.outputs, strict=True)
        return self.added + [output for store, output in stores if type(store) is StoreStream]

    def prefetch(self, em: Emitter, place: Place, channel: Expr, level: int) -> None:
        """Brings `streams` at the pixel of `place` from `channel` on to the cache `level`."""
        for stream in self.streams:
            em.prefetch(stream, place.pixel * self.channels + channel, level)

    def after_stages(self, em: Emitter, value: Expr, place: Place, channel: Expr, lanes: int) -> Expr:
        """The value after the stages; arguments as of `emit`."""
        at = self._parameter_lanes(em, place, channel, lanes)
        for stage, params in zip(self.epilogue.stages, self.stage_params, strict=True):
            value = em.bind("v", self._staged(em, stage, params, value, place, channel, at))
        return value

    def _parameter_lanes(self, em: Emitter, place: Place, channel: Expr, lanes: int) -> Lanes:
        shuffled = instruction_set(self.isa).wide_products_by_shuffle
        if place.level is None:
            return Lanes(channel, channel, lanes, shuffled)
        row = em.bind_held("parameter", place.level * self.channels + channel)
        if self.channels % 2 == 0:
            return Lanes(row, row, lanes, shuffled)
        pair = em.bind_held("pair", place.level * (self.channels + 1) + channel)
        return Lanes(row, pair, lanes, shuffled)

    def _staged(
        self,
        em: Emitter,
        stage: Stage,
        params: list[Buffer],
        value: Expr,
        place: Place,
        channel: Expr,
        at: Lanes,
    ) -> Expr:
        match stage:
            case AddBias():
                return value + em.hold("bias", load(params[0], at.row, at.count))
            case Relu():
                return tirx.Max(value, const(0, "int32", at.count))
            case MultiplyShift():
                return self._scaled(em, value, stage.scaling, params, at)
            case Bound(upper):
                bound = em.hold("bound", load(params[0], at.row, at.count))
                return tirx.Min(value, bound) if upper else tirx.Max(value, bound)
            case Requantize() | Threshold():
                return convert(self._code(em, stage, params, value, at), "int32", at.count)
            case RequantizeMax():
                return self._larger(em, stage, params, value, at)
            case Lookup():
                return tables.looked_up(em, instruction_set(self.isa), stage, params, value, at.count)
            case Pieces():
                return tables.of_its_piece(em, stage, params, value, at.count)
            case Steps():
                return tables.stepped(em, instruction_set(self.isa), stage, params, value, at.count)
            case Multiply():
                pixel = const(0) if stage.one_pixel else place.pixel
                other = load(params[0], pixel * self.channels + channel, at.count)
                other = _centred(convert(other, "int32", at.count), stage.other_zero, at.count)
                return _centred(value, stage.zero, at.count) * other
            case StreamMultiply():
                pixel = const(0) if stage.one_pixel else place.pixel
                other = load(params[0], pixel * self.channels + channel, at.count)
                factor, (b, d) = (
                    convert(other, "int64", at.count),
                    (load(buffer, at.row, at.count) for buffer in params[1:]),
                )
                total = fixed_point.product_shift(value, factor, b, d, at.count)
                return convert(total, "int32", at.count)
            case SkipAdd():
                pixel, up = place.pixel, stage.upsample
                if up != 1:
                    pixel = place.y // up * (self.width // up) + place.x // up
                other = load(params[0], pixel * self.channels + channel, at.count)
                if isinstance(stage, SkipAddCodes):
                    other = convert(other, "int32", at.count)
                split = 1 + fixed_point.parameter_count(stage.self_scaling)
                if not stage.self_identity:
                    value = self._scaled(em, value, stage.self_scaling, params[1:split], at)
                if not stage.other_identity:
                    other = self._scaled(em, other, stage.other_scaling, params[split:], at)
                return value + other

    def _scaled(self, em: Emitter, value: Expr, scaling: Scaling, params: list[Buffer], at: Lanes) -> Expr:
        return fixed_point.multiply_shift(em, value, scaling, params, self.rows, at)

    def _larger(
        self, em: Emitter, stage: RequantizeMax, params: list[Buffer], value: Expr, at: Lanes
    ) -> Expr:
        """The larger of two codes: clips do not change which one that is."""
        first, limits = stage.scalings[0], (stage.lo, stage.hi)
        split = fixed_point.parameter_count(first)
        codes = [
            fixed_point.requantized(em, value, scaling, own, self.rows, at, limits)
            for scaling, own in zip(stage.scalings, (params[:split], params[split:]), strict=True)
        ]
        return tirx.Max(*(convert(code, "int32", at.count) for code in codes))

    def _stored(self, em: Emitter, store: Store, params: list[Buffer], value: Expr, at: Lanes) -> Expr:
        match store:
            case StoreStream():
                return value
            case StoreCodes(dtype):
                return self._narrowed(value, dtype, at.count)
            case StoreRequantize() if store.scaling.saturates and self._packs(store.dtype, at.count):
                value = fixed_point.saturating(em, value, store.scaling, params, self.rows, at)
                return _clipped(self._narrowed(value, store.dtype, at.count), store, at.count)
            case StoreRequantize() | StoreThreshold():
                return self._narrowed(self._code(em, store, params, value, at), store.dtype, at.count)

    def _packs(self, dtype: str, lanes: int) -> bool:
        """Whether so many values become `dtype` together, by saturation."""
        packing = instruction_set(self.isa).packing
        return packing is not None and lanes == packing.lanes and dtype in BYTES

    def _narrowed(self, codes: Expr, dtype: str, lanes: int) -> Expr:
        """Values as `dtype`: within its range, or saturated where they become bytes together."""
        packing = instruction_set(self.isa).packing
        if packing is not None and self._packs(dtype, lanes):
            return packing.packed(convert(codes, "int32", lanes), dtype)
        return convert(codes, dtype, lanes)

    def _code(
        self,
        em: Emitter,
        store: StoreRequantize | StoreThreshold,
        params: list[Buffer],
        value: Expr,
        at: Lanes,
    ) -> Expr:
        """The code of a quantizer, in any integer type."""
        lanes = at.count
        match store:
            case StoreRequantize():
                limits = (store.lo, store.hi)
                return fixed_point.requantized(em, value, store.scaling, params, self.rows, at, limits)
            case StoreThreshold():
                signed = value * em.hold("sign", load(params[0], at.row, lanes))
                total = const(store.lo, "int32", lanes)
                for k in range(store.steps):
                    threshold = em.hold("T", load(params[1], at.row + k * self.rows.count, lanes))
                    reached = signed >= threshold
                    total = total + tirx.Select(reached, const(1, "int32", lanes), const(0, "int32", lanes))
                return total


def _clipped(codes: Expr, store: StoreRequantize, lanes: int) -> Expr:
    """Bytes within the limits of a store, where those of their type are wider."""
    least, most = (-128, 127) if is_signed(store.dtype) else (0, 255)
    if store.lo > least:
        codes = tirx.Max(codes, const(store.lo, store.dtype, lanes))
    if store.hi < most:
        codes = tirx.Min(codes, const(store.hi, store.dtype, lanes))
    return codes


def _is_bytes(store: Store) -> bool:
    return not isinstance(store, StoreStream) and store.dtype in BYTES


def _centred(value: Expr, zero: int, lanes: int) -> Expr:
    return value - const(zero, "int32", lanes) if zero else value


def bind_epilogue(
    em: Emitter, epilogue: Epilogue, isa: Isa, height: int, width: int, channels: int, levels: int = 1
) -> BoundEpilogue:
    """Declares the parameters in the order of `spec.Epilogue`: stages, stores, outputs."""
    bound = BoundEpilogue(epilogue, isa, height, width, channels, levels)
    rows = bound.rows
    for stage in epilogue.stages:
        bound.stage_params.append(_stage_parameters(em, stage, height, width, rows))
    for store in epilogue.stores:
        bound.store_params.append(_store_parameters(em, store, rows))
    for store in epilogue.stores:
        if isinstance(store, StoreInPlace):
            (operand,) = bound.added
            bound.outputs.append(operand)
        else:
            dtype = "int32" if isinstance(store, StoreStream) else store.dtype
            bound.outputs.append(em.parameter("out", (height, width, channels), dtype))
    return bound


def _stage_parameters(em: Emitter, stage: Stage, height: int, width: int, rows: Rows) -> list[Buffer]:
    match stage:
        case AddBias():
            return [em.parameter("bias", (rows.count,), "int32")]
        case Relu():
            return []
        case MultiplyShift():
            return fixed_point.declare(em, stage.scaling, rows)
        case Bound():
            return [em.parameter("bound", (rows.count,), "int32")]
        case Requantize() | Threshold():
            return _store_parameters(em, stage, rows)
        case RequantizeMax():
            return [buffer for scaling in stage.scalings for buffer in fixed_point.declare(em, scaling, rows)]
        case Lookup():
            return tables.declare_lookup(em, stage)
        case Pieces():
            return tables.declare_pieces(em, stage)
        case Steps():
            return tables.declare_steps(em, stage)
        case Multiply():
            size = (1, 1) if stage.one_pixel else (height, width)
            return [em.parameter("other", (*size, rows.channels), stage.dtype)]
        case StreamMultiply():
            size = (1, 1) if stage.one_pixel else (height, width)
            return [
                em.parameter("other", (*size, rows.channels), "int32"),
                em.parameter("B", (rows.count,), "int64"),
                em.parameter("d", (rows.count,), "int32"),
            ]
        case SkipAdd(upsample=up):
            dtype = stage.dtype if isinstance(stage, SkipAddCodes) else "int32"
            other = em.parameter("other", (height // up, width // up, rows.channels), dtype)
            mine, theirs = stage.self_scaling, stage.other_scaling
            return [
                other,
                *fixed_point.declare(em, mine, rows),
                *fixed_point.declare(em, theirs, rows),
            ]


def _store_parameters(em: Emitter, store: Store, rows: Rows) -> list[Buffer]:
    match store:
        case StoreStream() | StoreCodes():
            return []
        case StoreRequantize():
            return fixed_point.declare(em, store.scaling, rows)
        case StoreThreshold(steps=steps):
            return [
                em.parameter("sign", (rows.count,), "int32"),
                em.parameter("T", (steps, rows.count), "int32"),
            ]
