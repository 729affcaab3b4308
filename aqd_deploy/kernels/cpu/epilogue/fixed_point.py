"""(v·c + B) >> d in vectors, one way to compute it for each form of `spec.Scaling`.

Products of "wide" and "high" are computed for the even and the odd lanes apart: a vector of int32 read as
int64 has its even lanes in the lower halves, and a shift by 32 brings the odd ones there. Written as the
product of two sign-extended lower halves, that is one widening multiplication (x86: vpmuldq) without any
conversion. ARM multiplies halves of registers (smull, vmull), so there lanes are taken apart by shuffles
(`Lanes.shuffled`). Their constants therefore lie in pairs: int64 [n, 2, rows / 2], first those of the even
rows, then those of the odd ones. A "high" product has its result in the upper halves, a "wide" one is shifted
there: right by d in the even lanes, left by 32 − d in the odd ones.

Additions and multiplications of TIR's int32 may not overflow: "narrow" and "shift" are chosen only where
nothing does (`contract.scaling`).
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx

from aqd_deploy.errors import UnsupportedModelError
from aqd_deploy.kernels.contract.spec import Scaling
from aqd_deploy.kernels.cpu.emit import Buffer, Emitter, Expr, const, convert, load

# int32 parameters of each form, without the clamps, and int64 ones that lie in pairs.
_WORDS = {"shift": 2, "narrow": 3, "wide": 0, "high": 1}
_PAIRED = {"shift": 0, "narrow": 0, "wide": 3, "high": 2}


@dataclass(frozen=True)
class Rows:
    """Where the constants of a channel lie: `levels` rows of `channels`, padded to an even number of channels
    where they lie in pairs.
    """

    channels: int
    levels: int = 1

    @property
    def count(self) -> int:
        return self.levels * self.channels

    @property
    def half(self) -> int:
        """Pairs of channels, over all levels."""
        return self.levels * -(-self.channels // 2)


@dataclass(frozen=True)
class Lanes:
    """The channels that a vector holds: `count` from `row` on; `pair` is the row with padded levels.
    `shuffled`: even and odd ones are taken apart by shuffles.
    """

    row: Expr
    pair: Expr
    count: int
    shuffled: bool = False


def declare(em: Emitter, scaling: Scaling, rows: Rows) -> list[Buffer]:
    """The parameters of a multiply-shift, in the order of `scaling.Scaled.arrays`."""
    if scaling.form == "general":
        return [
            em.parameter("c", (rows.count,), "int32"),
            em.parameter("B", (rows.count,), "int64"),
            em.parameter("d", (rows.count,), "int32"),
        ]
    buffers = []
    words = _words(scaling)
    if words:
        buffers.append(em.parameter("words", (words, rows.count), "int32"))
    if _PAIRED[scaling.form]:
        buffers.append(em.parameter("pairs", (_PAIRED[scaling.form], 2, rows.half), "int64"))
    return buffers


def parameter_count(scaling: Scaling) -> int:
    """How many buffers `declare` declares."""
    if scaling.form == "general":
        return 3
    return bool(_words(scaling)) + bool(_PAIRED[scaling.form])


def multiply_shift(
    em: Emitter, value: Expr, scaling: Scaling, params: list[Buffer], rows: Rows, lanes: Lanes
) -> Expr:
    """(value·c + B) >> d as int32."""
    if scaling.form == "general":
        return convert(_general(value, params, lanes), "int32", lanes.count)
    return _Specialised(em, scaling, params, rows, lanes).scaled(value)


def requantized(
    em: Emitter,
    value: Expr,
    scaling: Scaling,
    params: list[Buffer],
    rows: Rows,
    lanes: Lanes,
    limits: tuple[int, int],
) -> Expr:
    """clip((value·c + B) >> d, *limits) in any integer type."""
    general = scaling.form == "general"
    result = (
        _general(value, params, lanes) if general else multiply_shift(em, value, scaling, params, rows, lanes)
    )
    if not scaling.clip:
        return result
    lo, hi = (const(limit, "int64" if general else "int32", lanes.count) for limit in limits)
    return tirx.Min(tirx.Max(result, lo), hi)


def saturating(
    em: Emitter, value: Expr, scaling: Scaling, params: list[Buffer], rows: Rows, lanes: Lanes
) -> Expr:
    """(value·c + B) >> d as int32, which the caller has to clip; of a scaling that `saturates`."""
    return _Specialised(em, scaling, params, rows, lanes, clamped=False).scaled(value)


def _general(value: Expr, params: list[Buffer], lanes: Lanes) -> Expr:
    factor, addend, shift = (load(p, lanes.row, lanes.count) for p in params)
    return product_shift(value, convert(factor, "int64", lanes.count), addend, shift, lanes.count)


def product_shift(value: Expr, factor: Expr, addend: Expr, shift: Expr, count: int) -> Expr:
    """(value·factor + addend) >> shift in int64; factor and addend are int64."""
    product = convert(value, "int64", count) * factor
    return tirx.shift_right(product + addend, convert(shift, "int64", count))


def _words(scaling: Scaling) -> int:
    """int32 parameters of a form that is not "general", with the clamps."""
    if scaling.form not in _WORDS:
        raise _unknown_form(scaling.form)
    return _WORDS[scaling.form] + scaling.lower + scaling.upper


def _unknown_form(form: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        "no kernel computes this multiply-shift",
        received=form,
        valid=", ".join(("general", *_WORDS)),
    )


class _Specialised:
    """One multiply-shift of one vector."""

    def __init__(
        self, em: Emitter, scaling: Scaling, params: list[Buffer], rows: Rows, lanes: Lanes,
        clamped: bool = True,
    ) -> None:  # fmt: skip
        self.em = em
        self.scaling = scaling
        self.clamped = clamped
        self.rows = rows
        self.lanes = lanes
        form = scaling.form
        self.words = params[0] if _words(scaling) else None
        self.pairs = params[-1] if _PAIRED[form] else None

    def scaled(self, value: Expr) -> Expr:
        value = self._clamped(value) if self.clamped else value
        match self.scaling.form:
            case "shift":
                return tirx.shift_left(value, self._word(0)) + self._word(1)
            case "narrow":
                return tirx.shift_right(value * self._word(0) + self._word(1), self._word(2))
            case "wide":
                return self._wide(value)
            case "high":
                return self._high(value)
            case other:
                raise _unknown_form(other)

    def _clamped(self, value: Expr) -> Expr:
        row = _WORDS[self.scaling.form]
        if self.scaling.lower:
            value = tirx.Max(value, self._word(row))
            row += 1
        if self.scaling.upper:
            value = tirx.Min(value, self._word(row))
        return value

    def _word(self, index: int) -> Expr:
        at = self.lanes.row + index * self.rows.count
        return self.em.hold("word", load(self.words, at, self.lanes.count))

    def _paired(self, index: int, odd: int) -> Expr:
        """int64 constants of the even or the odd half of the lanes."""
        at = self.lanes.pair // 2 + (2 * index + odd) * self.rows.half
        return self.em.hold("pair", load(self.pairs, at, self.lanes.count // 2))

    def _single(self, index: int) -> Expr:
        """The int64 constant of a single lane."""
        pair = self.lanes.pair
        return load(self.pairs, (pair % 2) * self.rows.half + pair // 2 + 2 * index * self.rows.half)

    def _halves(self, value: Expr) -> tuple[Expr, Expr]:
        """value·c + B, int64, of the even and the odd lanes."""
        half = self.lanes.count // 2
        if self.lanes.shuffled:
            value = self.em.bind("both", value)
            even, odd = (
                _of_lanes(value, first, half) * _of_lanes(self._paired(0, first), 0, half)
                + self._paired(1, first)
                for first in (0, 1)
            )
            return even, odd
        both = self.em.bind("both", tirx.reinterpret(f"int64x{half}", value))
        even = _low(both, half) * _low(self._paired(0, 0), half) + self._paired(1, 0)
        odd_lanes = tirx.shift_right(both, const(32, "int64", half))
        odd = odd_lanes * _low(self._paired(0, 1), half) + self._paired(1, 1)
        return even, odd

    def _wide(self, value: Expr) -> Expr:
        count = self.lanes.count
        if count == 1:
            # The constant of an odd row is 32 − d.
            shift = self._single(2)
            shift = tirx.Select(tirx.EQ(self.lanes.pair % 2, const(1)), const(32, "int64") - shift, shift)
            return convert(
                product_shift(value, self._single(0), self._single(1), shift, count), "int32", count
            )
        even, odd = self._halves(value)
        unsigned = f"uint64x{count // 2}"
        right = tirx.shift_right(
            tirx.reinterpret(unsigned, even), tirx.reinterpret(unsigned, self._paired(2, 0))
        )
        left = tirx.shift_left(odd, self._paired(2, 1))
        return _interleaved(right, left, 0, count)

    def _high(self, value: Expr) -> Expr:
        count = self.lanes.count
        if count == 1:
            product = convert(value, "int64") * self._single(0) + self._single(1)
            upper = convert(tirx.shift_right(product, const(32, "int64")), "int32")
            return tirx.shift_right(upper, self._word(0))
        even, odd = self._halves(value)
        return tirx.shift_right(_interleaved(even, odd, 1, count), self._word(0))


def _low(pairs: Expr, half: int) -> Expr:
    """The lower halves of int64 lanes, sign-extended."""
    by = const(32, "int64", half)
    return tirx.shift_right(tirx.shift_left(pairs, by), by)


def _of_lanes(values: Expr, first: int, half: int) -> Expr:
    """Every other of 2·`half` int32 lanes from `first` on, sign-extended; `values` has the lanes' bits."""
    lanes = [const(lane) for lane in range(first, 2 * half, 2)]
    return convert(tirx.Shuffle([tirx.reinterpret(f"int32x{2 * half}", values)], lanes), "int64", half)


def _interleaved(even: Expr, odd: Expr, part: int, count: int) -> Expr:
    """int32 lanes: halves `part` of `even` and upper halves of `odd`, alternating."""
    order = [index for pair in range(0, count, 2) for index in (pair + part, count + pair + 1)]
    vectors = [tirx.reinterpret(f"int32x{count}", v) for v in (even, odd)]
    return tirx.Shuffle(vectors, [const(index) for index in order])
