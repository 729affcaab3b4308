"""What the cost models know of a core."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aqd_deploy.targets import Target

KIB = 1024
# As LLVM calls them.
_IN_ORDER = ("cortex-a35", "cortex-a53", "cortex-a55")


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
        """From a profile's figures. An ARM profile that tells the second level and no third has none."""
        known = {"l1d": target.l1d_kib, "l2": target.l2_kib, "l3": target.l3_kib}
        sizes = {name: int(kib * KIB) for name, kib in known.items() if kib is not None}
        if "l2" in sizes:
            sizes["l2"] //= target.l2_cores or 1
            if target.architecture != "x86_64":
                sizes.setdefault("l3", 0)
        return cls(**sizes, in_order=target.cpu in _IN_ORDER)

    def to_json(self) -> dict[str, Any]:
        """The fields that are not the default."""
        return {name: value for name, value in asdict(self).items() if value != getattr(CORE, name)}


CORE = Core()
