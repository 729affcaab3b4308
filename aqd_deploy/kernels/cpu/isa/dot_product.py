"""What a convolution asks of a dot product: a class is how an instruction multiplies, an object of it is that
with the figures of one instruction set.

The classes lie in `x86`, `arm` and `portable`; `select` chooses among the objects.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from tvm import tirx

from aqd_deploy.kernels.contract.caches import CORE, Core
from aqd_deploy.kernels.contract.spec import ConvSpec
from aqd_deploy.kernels.cpu.emit import Buffer, Expr, broadcast, const, load, vector
from aqd_deploy.targets.isa import Isa


@dataclass(frozen=True)
class DotProduct(ABC):
    """`lanes` output channels times `dot` inputs an instruction.

    Of the instruction: `name`, `mnemonics` that its assembly must have (a regular expression, "" for none),
    `sample_dtype`, the type activations have in memory when they are multiplied ("" keeps the type of the
    input), `weight_bytes`, the size of a weight in memory. `pixels` share a product: their sums are one
    accumulator, int32 [`sums`] (`start`, `of_pixel`). `sums_bytes`: a vector of bytes from memory is an
    operand as it is, so lanes may lie along the input channels.

    Of the instruction set: how many vector `registers` accumulators, weights and one activation may fill; the
    sums of a pixel take `width` of them, a weight vector `width`·`pixels`. `sample_steps`: neighbouring steps
    whose samples are loaded as one register, from which each product takes its own.

    Of the operands (`fitted`): `offset`, what is added to activations to make them samples; `partial_steps`,
    steps that may be accumulated in fewer bits (0: accumulate in 32 bits at once); `fused_steps`, steps whose
    products are added before they are widened.

    The costs choose blocks: `product_cycles` of the vector ports for one dot product, `sample_cycles` for
    making one pixel's part of an operand, `widen_cycles` for adding partial sums to those in memory, and the
    micro-operations issued for one product, one weight vector and one load of samples; `core` tells the
    caches.
    """

    name: ClassVar[str]
    mnemonics: ClassVar[str]
    dot: ClassVar[int]
    sample_dtype: ClassVar[str]
    weight_bytes: ClassVar[int] = 1
    pixels: ClassVar[int] = 1
    sums_bytes: ClassVar[bool] = False

    isa: Isa
    lanes: int
    product_cycles: float
    registers: int = 32
    spare_registers: int = 1
    width: int = 1
    product_uops: int = 1
    weight_uops: int = 1
    sample_uops: int = 1
    widen_cycles: float = 1.5
    sample_steps: int = 1
    sample_cycles: float = 0.0
    offset: int = 0
    partial_steps: int = 0
    fused_steps: int = 1
    core: Core = CORE

    def fitted(self, spec: ConvSpec, core: Core) -> DotProduct | None:
        """The product for the operands of `spec`, None where their ranges do not prove it exact."""
        return replace(self, core=core)

    @property
    def reason(self) -> str:
        """Why this product, in a phrase."""
        return self.name

    @property
    def signed_bytes(self) -> bool:
        """Whether samples are int8; unsigned activations up to 127 are such bytes as they are."""
        return self.sample_dtype == "int8"

    @property
    def vector_bytes(self) -> int:
        """Bytes of the weights that one step of one block takes."""
        return self.lanes * self.dot * self.weight_bytes

    @property
    def sample_bytes(self) -> int:
        """The size of a sample in memory."""
        return 2 if self.sample_dtype == "int16" else 1

    @property
    def word(self) -> str:
        """The integer type that `dot` samples fill."""
        return f"int{8 * self.sample_bytes * self.dot}"

    @property
    def sums(self) -> int:
        """Values of an accumulator."""
        return self.lanes * self.pixels

    def most_pixels(self, blocks: int) -> int:
        """Pixels of a register tile with `blocks` vectors of weights. One sample is held at a time; of
        `sample_steps` steps those of all pixels.
        """
        free = (self.registers - self.spare_registers) // self.width
        free -= blocks * self.pixels * self.fused_steps
        return free // (blocks + 1 if self.sample_steps > 1 else blocks)

    def converts(self, spec: ConvSpec) -> bool:
        """Whether activations have other bits as samples than in memory."""
        if self.signed_bytes:
            return self.offset != 0
        return self.sample_dtype not in ("", "int8" if spec.input_signed else "uint8")

    def start(self, values: Expr) -> Expr:
        """An accumulator whose pixels all have the sums `values`, int32 [lanes]."""
        return values

    def of_pixel(self, acc: Expr, pixel: int) -> Expr:
        """The sums of one pixel of an accumulator, int32 [lanes]."""
        return acc

    def sample(self, samples: Buffer, index: Expr) -> Expr:
        """`dot` neighbouring activations, in every lane."""
        return self.from_words(broadcast(self.words(samples, index, 1), self.lanes))

    def words(self, samples: Buffer, index: Expr, steps: int) -> Expr:
        """The words of `steps` steps, `dot` neighbouring activations each."""
        return tirx.reinterpret(vector(self.word, steps), load(samples, index, steps * self.dot))

    def sample_of(self, words: Expr, step: int) -> Expr:
        """As `sample`: the word of one of the steps of `words`."""
        return self.from_words(tirx.Shuffle([words], [const(step)] * self.lanes))

    def samples_of(self, words: Sequence[Expr], step: int) -> Expr:
        """As `sample_of`, for the words of `pixels` pixels."""
        return self.sample_of(words[0], step)

    def from_words(self, words: Expr) -> Expr:
        """`words` of all lanes as the operand of `accumulate`."""
        dtype = "int16" if self.sample_dtype == "int16" else "int8"
        return tirx.reinterpret(vector(dtype, self.lanes * self.dot), words)

    def ones(self, count: int) -> Expr:
        """In every lane a word whose first `count` samples are 1 and the others 0: samples and weights."""
        bits = 8 * self.sample_bytes
        return self.from_words(const(sum(1 << (bits * i) for i in range(count)), self.word, self.lanes))

    def weight(self, weights: Buffer, index: Expr) -> Expr:
        """The weights of one step: `lanes` channels with `dot` inputs each; `weights` holds bytes."""
        value = load(weights, index, self.vector_bytes)
        if self.weight_bytes == 1:
            return value
        return tirx.reinterpret(vector("int16", self.lanes * self.dot), value)

    @abstractmethod
    def accumulate(self, acc: Expr, sample: Expr, weight: Expr) -> Expr:
        """acc + the dot products, int32 in each lane; sums of 16-bit weights may wrap."""

    def accumulate_fused(self, acc: Expr, samples: Sequence[Expr], weights: Sequence[Expr]) -> Expr:
        """As `accumulate`, for up to `fused_steps` steps."""
        for sample, weight in zip(samples, weights, strict=True):
            acc = self.accumulate(acc, sample, weight)
        return acc

    @property
    def narrow(self) -> NarrowSums | None:
        """This product where its sums are kept in fewer bits for the operands at hand."""
        return None

    @property
    def peak_sums(self) -> tuple[str, int]:
        """Type and number of the sums of `peak_step`."""
        return "int32", self.sums

    def peak_step(self, acc: Expr, weight: Expr) -> Expr:
        """One product on an accumulator that is its own sample, so that nothing leaves the loop (`peak`)."""
        return self.accumulate(acc, self.from_words(acc), weight)


class NarrowSums(DotProduct):
    """A dot product that may add in fewer bits for `partial_steps` steps: in `partial`, then `widen`."""

    @property
    def narrow(self) -> NarrowSums | None:
        return self if self.partial_steps else None

    @property
    def peak_sums(self) -> tuple[str, int]:
        return self.partial

    def peak_step(self, acc: Expr, weight: Expr) -> Expr:
        return self.add_partial(acc, self.from_words(acc), weight)

    @property
    @abstractmethod
    def partial(self) -> tuple[str, int]:
        """Type and number of the partial sums of one dot product."""

    @abstractmethod
    def add_partial(self, acc: Expr, sample: Expr, weight: Expr) -> Expr:
        """acc + the products or the sums of pairs, of the type `partial`; exact for `partial_steps` steps
        from 0 on.
        """

    @abstractmethod
    def widen(self, acc: Expr, partial: Expr) -> Expr:
        """int32 acc + neighbouring ones of the partial sums."""


def first_half(acc: Expr, count: int) -> Expr:
    """The first `count` of twice as many bytes."""
    samples = tirx.reinterpret(vector("int8", 2 * count), acc)
    return tirx.Shuffle([samples], [tirx.IntImm("int32", index) for index in range(count)])
