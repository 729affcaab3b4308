"""What the ranges of the operands prove about sums of few bits.

`vpmaddubsw` multiplies u8 by s8 and adds two neighbouring products in 16 bits, *saturating*; a following
16-bit addition wraps. Both are exact where the ranges of the operands prove it: with samples in [0, a] and
weights in [w₀, w₁], any sum of 2n products lies in [2n·min(0, a·w₀), 2n·max(0, a·w₁)], so n steps may be
accumulated in 16 bits before they are widened to 32 as long as this interval lies in [−2¹⁵, 2¹⁵ − 1]
(`exact_steps`). For 4 bits (a = 15, |w| ≤ 15) that is 72 steps, for 2 bits (3, 3) 1820, for 8 bits none.

ARM's `smlal` adds one product to each 16-bit sum, exact for n steps where n times each end of the products'
interval lies in [−2¹⁵, 2¹⁵ − 1] (`exact_sums`): 145 steps at 4 bits. `mla` adds one product to each 8-bit
sum: 14 steps at 2 bits.
"""

from __future__ import annotations

from aqd_deploy.kernels.contract.spec import ConvSpec

# Fewer exact steps than this are widened at once: a trip through memory costs more than it saves.
PARTIAL_STEPS = 8


def exact_steps(sample_high: int, weight_range: tuple[int, int]) -> int:
    """n of the module's inequality for samples in [0, sample_high]: 0 where one step may already saturate."""
    low = -2 * sample_high * min(0, weight_range[0])
    high = 2 * sample_high * max(0, weight_range[1])
    # A bound for weights that are all zero is never needed: one step more than any reduction has.
    limits = [limit // size for limit, size in ((2**15, low), (2**15 - 1, high)) if size]
    return min(limits, default=2**15)


def exact_sums(samples: tuple[int, int], weights: tuple[int, int], bits: int = 16) -> int:
    """Products of samples and weights in these closed intervals whose sum cannot leave signed integers of
    `bits` bits, however many of them are added in whatever order.
    """
    products = [s * w for s in samples for w in weights]
    low, high = -min(0, *products), max(0, *products)
    most = 2 ** (bits - 1)
    return min((limit // size for limit, size in ((most, low), (most - 1, high)) if size), default=most)


def sample_range(spec: ConvSpec) -> tuple[int, int]:
    """The closed interval that holds every activation and every value of the padding."""
    lo, hi = spec.input_range or ((-128, 127) if spec.input_signed else (0, 255))
    padding = spec.pad_values or ((0,) if any(spec.pads) else ())
    return min((lo, *padding)), max((hi, *padding))


def weight_range(spec: ConvSpec) -> tuple[int, int]:
    """The closed interval that holds every weight."""
    return spec.weight_range or (-128, 127)
