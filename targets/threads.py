"""How many threads this process has use for: the CPUs it may run on, and the quota of its control groups.

A quota, as containers have, is CPU time and no set of CPUs: threads beyond it only spend it sooner, and then
the kernel stops them all until the next period. `OMP_NUM_THREADS` is how many are used where nobody asks for
a number. `bundle/native/threads.cc` reads the same for `aqd-run`.
"""

from __future__ import annotations

import functools
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path("/")
_OPENMP = "OMP_NUM_THREADS"
# Where the kernel does not tell the period, in microseconds.
_PERIOD = 100_000


@dataclass(frozen=True)
class ThreadLimits:
    """`affinity` CPUs to run on; `quota` CPUs' time, None without a limit; `openmp` what OMP_NUM_THREADS
    says, None where it is not set or no number.
    """

    affinity: int
    quota: float | None = None
    openmp: int | None = None

    @property
    def available(self) -> int:
        """The most threads that are of use: the quota counts rounded up."""
        return self.affinity if self.quota is None else min(self.affinity, max(1, math.ceil(self.quota)))

    @property
    def usual(self) -> int:
        """How many to use where no number is asked for."""
        return self.available if self.openmp is None else min(self.available, self.openmp)

    def __str__(self) -> str:
        """For people, after a number of threads: what limits it."""
        parts = [f"{self.affinity} CPU{'s' if self.affinity > 1 else ''} to run on"]
        if self.quota is not None:
            parts.append(f"a quota of {self.quota:g} CPUs")
        if self.openmp is not None:
            parts.append(f"{_OPENMP}={self.openmp}")
        return ", ".join(parts)


def thread_limits() -> ThreadLimits:
    """The limits of this process. The quota is that of the first call."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    return ThreadLimits(affinity, read_quota(_ROOT), parse_openmp(os.environ.get(_OPENMP, "")))


def parse_openmp(text: str) -> int | None:
    """The number in OMP_NUM_THREADS, of a list (one a level of nesting) the first; None for anything else."""
    match = re.match(r"[ \t]*([0-9]+)[ \t]*(,|\Z)", text)
    return int(match[1]) or None if match else None


@functools.cache
def read_quota(root: Path) -> float | None:
    """How many CPUs' time the control groups (versions 1 and 2) of this process have, None without a limit.

    The least of its group and of all around it that are to be seen. `root` is the folder of `proc` and of
    what is mounted.
    """
    found = [
        quota
        for version, folder in _groups(_read(root / "proc/self/cgroup"), _read(root / "proc/self/mountinfo"))
        if (quota := _quota(version, root / folder.lstrip("/"))) is not None
    ]
    return min(found, default=None)


def _groups(groups: str, mounts: str) -> Iterator[tuple[int, str]]:
    """The version and folder of each control group that the process is in, by the texts of
    /proc/self/cgroup and /proc/self/mountinfo.
    """
    paths = dict(_paths(groups))
    for version, path in paths.items():
        mounted = [(point, _below(top, path)) for kind, top, point in _mounts(mounts) if kind == version]
        seen = [(point, below) for point, below in mounted if below is not None]
        # In a namespace where no mount shows the own group, the mount is the group's own.
        for point, below in seen or [(point, "") for point, _ in mounted[:1]]:
            parts = [part for part in below.split("/") if part]
            for count in range(len(parts) + 1):
                yield version, "/".join([point.rstrip("/"), *parts[:count]])


def _paths(groups: str) -> Iterator[tuple[int, str]]:
    for line in groups.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            yield 2, path
        elif "cpu" in controllers.split(","):
            yield 1, path


def _mounts(mounts: str) -> Iterator[tuple[int, str, str]]:
    """Version, the group at the top, and the folder of each mount that tells quotas."""
    for line in mounts.splitlines():
        left, _, right = line.partition(" - ")
        fields, kind = left.split(" "), right.split(" ")
        if len(fields) < 5 or len(kind) < 3:
            continue
        version = (
            2 if kind[0] == "cgroup2" else 1 if kind[0] == "cgroup" and "cpu" in kind[2].split(",") else 0
        )
        if version:
            yield version, _unescaped(fields[3]), _unescaped(fields[4])


def _below(top: str, path: str) -> str | None:
    """The group `path` seen from the group `top`, None where it is not below it."""
    top = top.rstrip("/")
    if (path != top and not path.startswith(f"{top}/")) or ".." in path.split("/"):
        return None
    return path[len(top) :]


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def _quota(version: int, folder: Path) -> float | None:
    if version == 2:
        words = [*_read(folder / "cpu.max").split(), "", ""]
        quota, period = words[0], words[1] or str(_PERIOD)
    else:
        quota, period = (_read(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period"))
    numbers = [int(word) if re.fullmatch(r"[0-9]{1,18}", word) else 0 for word in (quota, period)]
    return numbers[0] / numbers[1] if all(numbers) else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except (OSError, ValueError):
        return ""
