"""Whether the machine had other work during a measurement: CPU time that other processes got, from the
kernel's own counters.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_STAT = Path("/proc/stat")
BUSY_SHARE = 0.05
"""Of the CPUs' time. A quiet machine's own services stay below this; from here on medians move."""
_IDLE, _WAITING, _COUNTED = 3, 4, 8
"""Fields of /proc/stat: user, nice, system, idle, iowait, irq, softirq, steal. What follows is in user."""


@dataclass(frozen=True)
class Busyness:
    """`others_cpus`: how many CPUs other processes kept busy on average (with time that a hypervisor took),
    None where the system does not tell; `busy`: whether that is more than BUSY_SHARE of all CPUs.
    """

    seconds: float
    cpus: int
    others_cpus: float | None

    @property
    def busy(self) -> bool | None:
        """None where the system does not tell."""
        return None if self.others_cpus is None else self.others_cpus > BUSY_SHARE * self.cpus

    def told(self) -> dict[str, Any]:
        """JSON-able, for a document's `environment`."""
        others = None if self.others_cpus is None else round(self.others_cpus, 3)
        return {"busy": self.busy, "others_cpus": others, "cpus": self.cpus}


class Watch:
    """Counts from when it is made. Child processes count as this one's once they have ended."""

    def __init__(self, stat: Path = _STAT) -> None:
        self._stat = stat
        self._started = _clocks(stat)

    def so_far(self) -> Busyness:
        """Since the watch was made."""
        wall, own, whole = (b - a for a, b in zip(self._started, _clocks(self._stat), strict=True))
        cpus = os.cpu_count() or 1
        if whole != whole or wall <= 0:
            return Busyness(wall, cpus, None)
        return Busyness(wall, cpus, max(whole - own, 0.0) / wall)


def _clocks(stat: Path) -> tuple[float, float, float]:
    """Seconds of the wall clock, of this process's CPU time, and of all CPU time (NaN if not told)."""
    times = os.times()
    return time.perf_counter(), sum(times[:4]), _all_cpu_seconds(stat)


def _all_cpu_seconds(stat: Path) -> float:
    try:
        fields = stat.read_text(encoding="ascii").split("\n", 1)[0].split()[1 : 1 + _COUNTED]
        ticks = [int(field) for field in fields]
    except (OSError, ValueError, IndexError):
        return float("nan")
    if len(ticks) < _COUNTED:
        return float("nan")
    return (sum(ticks) - ticks[_IDLE] - ticks[_WAITING]) / os.sysconf("SC_CLK_TCK")
