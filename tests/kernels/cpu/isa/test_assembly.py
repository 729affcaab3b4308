"""The innermost loop of assembly: which one, its instructions, and the products that count."""

import pytest

from aqd_deploy.kernels.cpu.isa.assembly import count, inner_loop, innermost_loops

NESTED = """
kernel:
.LBB0_1:
\tmov\tx1, #0
.LBB0_2:
\t.p2align\t4
\tldr\tq0, [x2], #16
\tsdot\tv1.4s, v0.16b, v2.4b[0]
\tsdot\tv3.4s, v0.16b, v2.4b[1]
\tmul\tv4.4s, v4.4s, v5.4s
\tb.ne\t.LBB0_2
.LBB0_3:
\tsdot\tv1.4s, v0.16b, v2.4b[0]
\tcbnz\tx3, .LBB0_3
\tsubs\tx4, x4, #1
\tb.ne\t.LBB0_1
\tbl\tmemcpy
\tret
"""


def test_the_loop_with_the_most_products():
    loop = inner_loop(NESTED)
    # The multiplication of words beside the dot products does not count, and the outer loop is none.
    assert loop.products == 32
    assert len(innermost_loops(NESTED)) == 2
    assert loop.lines[0] == "\tldr\tq0, [x2], #16" and loop.lines[-1] == "\tb.ne\t.LBB0_2"


@pytest.mark.parametrize(
    ("instruction", "products"),
    [
        ("vpdpbusd\t%zmm1, %zmm2, %zmm3", 64),
        ("vpdpbusd\t(%rax){1to16}, %zmm2, %zmm3", 64),
        ("tdpbusd\t%tmm6, %tmm4, %tmm0", 16384),
        ("tdpbssd\t%tmm6, %tmm4, %tmm0", 16384),
        ("{vex}\tvpdpbusd\t%ymm1, %ymm2, %ymm3", 32),
        ("vpmaddubsw\t%ymm1, %ymm2, %ymm3", 32),
        ("pmaddwd\t%xmm1, %xmm2", 8),
        ("sdot\tv1.4s, v2.16b, v3.4b[0]", 16),
        ("smmla\tv1.4s, v2.16b, v3.16b", 32),
        ("smlal2\tv1.8h, v2.16b, v3.16b", 8),
        ("smull\tv1.4s, v2.4h, v3.4h", 4),
        ("vmlal.s8\tq8, d1, d2", 8),
        ("vmull.s16\tq8, d1, d2", 4),
        # A multiply-shift, an address, and no product at all.
        ("smull\tv1.2d, v2.2s, v3.2s", 0),
        ("madd\tx1, x2, x3, x4", 0),
        ("paddd\t%xmm1, %xmm2", 0),
    ],
)
def test_products_of_an_instruction(instruction, products):
    jump = "jne" if "%" in instruction else "bne"
    loop = inner_loop(f".LBB0_1:\n\t{instruction}\n\t{instruction}\n\t{jump}\t.LBB0_1\n")
    assert (loop.products if loop else 0) == 2 * products


def test_pairs_that_sum_products_are_no_products():
    loop = inner_loop(
        ".LBB1_4:\n\tvpmaddubsw\t%zmm1, %zmm2, %zmm3\n\tvpmaddwd\t%zmm3, %zmm4, %zmm3\n\tjb\t.LBB1_4\n"
    )
    assert loop.products == 64


def test_alternatives_of_a_pattern_are_all_counted():
    lines = NESTED.splitlines()
    assert count(lines, "sdot|mul") == count(lines, "mul|sdot") == 4


def test_simulators_do_not_know_tiles():
    loop = ".LBB0_1:\n\t{}\n\tjne\t.LBB0_1\n"
    assert inner_loop(loop.format("vpdpbusd\t%zmm1, %zmm2, %zmm3")).modelled
    assert not inner_loop(loop.format("tdpbusd\t%tmm6, %tmm4, %tmm0")).modelled
    beside = loop.format("vpdpbusd\t%zmm1, %zmm2, %zmm3") + "\ttdpbssd\t%tmm6, %tmm4, %tmm0\n"
    assert not inner_loop(beside).modelled
