"""Sums over images of how a tensor of integers differs from what it stands for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from aqd_deploy.evaluation.lowered import Stands
from aqd_deploy.quantization.noise import Noise


@dataclass
class Difference:
    """`differing` of `count` integers are not those that the exact value rounds to; `largest` is how far one
    is from the exact value, in steps: of codes a whole number. `noise` is of the reals.
    """

    differing: int = 0
    count: int = 0
    largest: float = 0.0
    noise: Noise = field(default_factory=Noise)

    @classmethod
    def of(
        cls, stands: Stands, integers: np.ndarray, exact: np.ndarray, *, with_noise: bool = True
    ) -> Difference:
        """Of one image: integers [1, C, H, W], and that tensor of the canonical file, codes or float64."""
        given = integers.astype(np.float64)
        wanted = exact.astype(np.float64)
        noise = Noise()
        if with_noise:
            noise.add(stands.reals(wanted) if stands.is_codes else wanted, stands.reals(given))
        if not stands.is_codes:
            wanted = stands.integers(wanted)
            given = np.where(stands.scale.reshape(1, -1, 1, 1) == 0, 0.0, given)
        differing = int(np.count_nonzero(given != np.rint(wanted)))
        return cls(differing, given.size, float(np.abs(given - wanted).max(initial=0)), noise)

    def join(self, other: Difference) -> None:
        """Adds another image's, or tensor's."""
        self.differing += other.differing
        self.count += other.count
        self.largest = max(self.largest, other.largest)
        self.noise.join(other.noise)

    def counted(self) -> dict[str, Any]:
        """JSON-able, without the noise."""
        return {"differing": self.differing, "count": self.count, "largest": round(self.largest, 6)}

    def told(self) -> dict[str, Any]:
        """JSON-able; `snr_db` is None where there is no noise (or no signal)."""
        return {"snr_db": self.noise.told()["snr_db"], **self.counted()}
