"""A family of convolution kernels: what `families` asks of each. A new one is a class in a file of its own
and an entry of `families.FAMILIES`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from math import prod
from typing import Any, ClassVar

from aqd_deploy.kernels.contract.caches import Core
from aqd_deploy.kernels.contract.choice import Choice
from aqd_deploy.kernels.contract.kernel import Layout
from aqd_deploy.kernels.contract.spec import ConvSpec, Epilogue
from aqd_deploy.kernels.cpu.isa.dot_product import DotProduct
from aqd_deploy.targets.isa import Isa


class Family(ABC):
    """`pools`: its kernels can be built with a max-pool in their epilogue."""

    name: str
    pools: ClassVar[bool] = False

    @abstractmethod
    def applies(self, spec: ConvSpec, isa: Isa) -> str:
        """Why the family can be used, in a phrase, "" where it cannot."""

    @abstractmethod
    def choices(self, spec: ConvSpec, isa: Isa, threads: int, core: Core) -> list[tuple[float, Choice]]:
        """What a kernel can be built with, each with the cycles that its cost model estimates, the best
        first; asked only where the family applies.
        """

    @abstractmethod
    def build(
        self, spec: ConvSpec, epilogue: Epilogue, isa: Isa, threads: int, choice: Choice, core: Core
    ) -> tuple[Any, Layout]:
        """The function that a choice makes, and how its weights lie."""

    def why(self, spec: ConvSpec, isa: Isa, choice: Choice) -> str:
        """Why a kernel could be built with `choice`, in a phrase."""
        return self.applies(spec, isa)

    def product(self, spec: ConvSpec, isa: Isa, choice: Choice) -> DotProduct | None:
        """What the kernel of `choice` multiplies with, None where it multiplies value by value."""
        return None

    def writes_once(self, spec: ConvSpec, isa: Isa, choice: Choice) -> bool:
        """As `Kernel.writes_once` of the kernel of `choice`."""
        return False

    def stores_borders(self, spec: ConvSpec, isa: Isa, choice: Choice) -> bool:
        """As `Kernel.stores_borders`."""
        return False

    def splits_borders(self, spec: ConvSpec, isa: Isa, choice: Choice) -> bool:
        """As `Kernel.splits_borders`."""
        return False

    def executed_macs(self, spec: ConvSpec, choice: Choice) -> int:
        """As `Kernel.executed_macs`: those of the convolution, where none is saved or added."""
        inputs = spec.in_channels // spec.group
        return spec.out_height * spec.out_width * spec.out_channels * prod(spec.kernel) * inputs
