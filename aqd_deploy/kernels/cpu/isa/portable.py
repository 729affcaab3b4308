"""Plain integer arithmetic, for any CPU."""

from __future__ import annotations

from aqd_deploy.kernels.cpu.emit import Buffer, Expr, const, convert, load
from aqd_deploy.kernels.cpu.isa.dot_product import DotProduct
from aqd_deploy.kernels.cpu.isa.instruction_set import InstructionSet
from aqd_deploy.targets.isa import Isa


class Plain(DotProduct):
    """Multiplication and addition in 32 bits; samples have the type of the input and are widened as they are
    loaded.
    """

    name = "plain"
    # Compilers may write a multiplication in many ways.
    mnemonics = ""
    dot = 1
    sample_dtype = ""

    @property
    def reason(self) -> str:
        return "portable arithmetic"

    def words(self, samples: Buffer, index: Expr, steps: int) -> Expr:
        return convert(load(samples, index, steps), "int32", steps)

    def from_words(self, words: Expr) -> Expr:
        return words

    def ones(self, count: int) -> Expr:
        return const(1, "int32", self.lanes)

    def weight(self, weights: Buffer, index: Expr) -> Expr:
        return convert(super().weight(weights, index), "int32", self.lanes)

    def accumulate(self, acc: Expr, sample: Expr, weight: Expr) -> Expr:
        return acc + sample * weight


# Sixteen registers of 128 bits: a vector of eight lanes fills two.
PLAIN = Plain(
    Isa.PORTABLE,
    lanes=8,
    product_cycles=2.0,
    registers=16,
    spare_registers=2,
    width=2,
    product_uops=6,
    weight_uops=4,
    sample_uops=3,
)


def products_of(line: str) -> int:
    """It has no instructions of its own: compilers take those of the other sets."""
    return 0


ENTRIES = (
    InstructionSet(
        Isa.PORTABLE,
        "an estimate: compilers write a product in many ways",
        (PLAIN,),
        products_of=products_of,
        depthwise_lanes=8,
        wide_products_by_shuffle=False,
    ),
)
