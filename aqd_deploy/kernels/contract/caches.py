"""What the cost models know of a core."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from aqd_deploy.targets import architectures

if TYPE_CHECKING:
    from aqd_deploy.targets import Target

KIB = 1024


@dataclass(frozen=True)
class Core:
    """Data caches in bytes: the first level, a core's share of the second, and the third (0: none).

    Where a profile tells nothing they are those of a server's x86 core, which the models were fitted to.
    `in_order`: a small core, which multiplies sixteen bytes (`mla`) as fast as eight (`smlal`).
    """

    l1d: int = 32 * KIB
    l2: int = 1024 * KIB
    l3: int = 8192 * KIB
    in_order: bool = False

    @classmethod
    def of(cls, target: Target) -> Core:
        """From a profile's figures. One that tells the second level and no third has none, but on an
        architecture whose CPUs all have one. Raises TargetError for an unknown architecture.
        """
        architecture = architectures.get(target.architecture)
        known = {"l1d": target.l1d_kib, "l2": target.l2_kib, "l3": target.l3_kib}
        sizes = {name: int(kib * KIB) for name, kib in known.items() if kib is not None}
        if "l2" in sizes:
            sizes["l2"] //= target.l2_cores or 1
            if not architecture.has_third_level:
                sizes.setdefault("l3", 0)
        return cls(**sizes, in_order=target.runs_in_order)

    def to_json(self) -> dict[str, Any]:
        """The fields that are not the default."""
        return {name: value for name, value in asdict(self).items() if value != getattr(CORE, name)}


CORE = Core()
