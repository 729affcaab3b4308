"""Energy and area of single operations: Table 1 of the AQD paper.

Chen, Liu, Zhuang, Tan, Shen: "AQD: Towards Accurate Quantized Object Detection", CVPR 2021, Table 1, "on
45nm CMOS technology", which it takes from Horowitz, "Computing's energy problem (and what we can do about
it)", ISSCC 2014, from Han et al., ISCA 2016, and from Lian et al., TVLSI 2019. The table has no rows of fewer
than 8 bits, and none of 16-bit integers.
"""

from __future__ import annotations

from dataclasses import dataclass

SOURCE = "Table 1 of the AQD paper (CVPR 2021), 45 nm; an estimate"


@dataclass(frozen=True)
class Price:
    """Energy in pJ and area in µm² of one operation."""

    energy_pj: float
    area_um2: float


ADD = {
    "float16": Price(0.4, 1360),
    "float32": Price(0.9, 4184),
    "int8": Price(0.03, 36),
    "int32": Price(0.1, 137),
}
MULTIPLY = {
    "float16": Price(1.1, 1640),
    "float32": Price(3.7, 7700),
    "int8": Price(0.2, 282),
    "int32": Price(3.1, 3495),
}
_TABLE_BITS = 8


def product_of_codes(weight_bits: int, activation_bits: int) -> Price:
    """A product by the table alone: that of the next wider row, so an upper bound below 8 bits."""
    widest = max(weight_bits, activation_bits)
    return MULTIPLY["int8" if widest <= _TABLE_BITS else "int32"]


def scaled_product(weight_bits: int, activation_bits: int) -> Price:
    """A product of fewer bits, extrapolated by us: an array multiplier has weight_bits·activation_bits cells,
    so energy and area are those of 8 bits times that share of 64.

    The same law makes 3.2 pJ and 4512 µm² of the row of 8 bits for 32, where the table has 3.1 and 3495.
    """
    if max(weight_bits, activation_bits) > _TABLE_BITS:
        return product_of_codes(weight_bits, activation_bits)
    share = weight_bits * activation_bits / _TABLE_BITS**2
    known = MULTIPLY["int8"]
    return Price(known.energy_pj * share, known.area_um2 * share)
