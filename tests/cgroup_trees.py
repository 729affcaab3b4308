"""Fake trees of /proc and of control groups, each with the CPUs' time that it grants: a helper of tests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

V2 = "35 24 0:30 {top} {point} rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = "33 24 0:29 {top} {point} rw shared:8 - cgroup cgroup rw,cpu,cpuacct\n"
OTHER = (
    "24 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw\n"
    "28 24 0:25 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755\n"
    "34 28 0:31 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    "36 28 0:33 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n"
)
ROOT = "/sys/fs/cgroup"


@dataclass(frozen=True)
class Tree:
    """Texts of /proc/self/cgroup and /proc/self/mountinfo, files of groups by path, and the quota in CPUs."""

    groups: str
    mounts: str
    files: dict[str, str]
    quota: float | None

    def write(self, root: Path) -> Path:
        """Make the tree in the folder `root`, and return it."""
        texts = {"/proc/self/cgroup": self.groups, "/proc/self/mountinfo": self.mounts, **self.files}
        for path, text in texts.items():
            file = root / path.lstrip("/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return root


def v2(
    files: dict[str, str], quota: float | None, path: str = "/", top: str = "/", point: str = ROOT
) -> Tree:
    """A tree of version 2 alone; `files` are by the folder of their group."""
    mounts = OTHER + V2.format(top=top, point=point)
    return Tree(f"0::{path}\n", mounts, {f"{folder}/cpu.max": text for folder, text in files.items()}, quota)


def v1(files: dict[str, tuple[str, str]], quota: float | None, path: str = "/", top: str = "/") -> Tree:
    """A tree of version 1 beside an empty one of version 2; `files` are quota and period by folder."""
    texts = {}
    for folder, (time, period) in files.items():
        texts[f"{folder}/cpu.cfs_quota_us"], texts[f"{folder}/cpu.cfs_period_us"] = time, period
    groups = f"5:memory:/elsewhere\n4:cpu,cpuacct:{path}\n3:cpuset:/elsewhere\n1:name=systemd:/x\n0::/x\n"
    mounts = (
        OTHER + V1.format(top=top, point=f"{ROOT}/cpu,cpuacct") + V2.format(top="/", point=f"{ROOT}/unified")
    )
    return Tree(groups, mounts, texts, quota)


CPU = f"{ROOT}/cpu,cpuacct"
TREES = {
    "nothing is mounted": Tree("", "", {}, None),
    "no limit": v2({ROOT: "max 100000\n"}, None),
    "half a CPU in a container": v2({ROOT: "50000 100000\n"}, 0.5),
    "a whole number": v2({ROOT: "300000 100000\n"}, 3),
    "one and a half": v2({ROOT: "150000 100000\n"}, 1.5),
    "another period": v2({ROOT: "5000 20000\n"}, 0.25),
    "no period": v2({ROOT: "50000\n"}, 0.5),
    "no file at the root": v2({f"{ROOT}/a/b": "80000 100000\n"}, 0.8, "/a/b"),
    "the least of all above": v2(
        {f"{ROOT}/a": "40000 100000\n", f"{ROOT}/a/b": "200000 100000\n", f"{ROOT}/a/b/c": "max 100000\n"},
        0.4, "/a/b/c",
    ),
    "another group": v2({f"{ROOT}/other": "10000 100000\n", f"{ROOT}/a": "max 100000\n"}, None, "/a"),
    "a mount of the own group": v2({ROOT: "70000 100000\n"}, 0.7, "/docker/1", "/docker/1"),
    "below the mounted group": v2({f"{ROOT}/x": "60000 100000\n"}, 0.6, "/docker/1/x", "/docker/1"),
    "a name that begins alike": v2({f"{ROOT}/0": "60000 100000\n", ROOT: "90000 100000\n"}, 0.9,
                                   "/docker/10", "/docker/1"),
    "outside of the namespace": v2({ROOT: "90000 100000\n"}, 0.9, "/../../x"),
    "a folder with a space": v2({"/a b/c": "20000 100000\n"}, 0.2, "/c", point="/a\\040b"),
    "a colon in the name": v2({f"{ROOT}/a:b": "20000 100000\n"}, 0.2, "/a:b"),
    "nonsense": v2({ROOT: "some text\n"}, None),
    "nothing in the file": v2({ROOT: ""}, None),
    "a quota of nothing": v2({ROOT: "0 100000\n"}, None),
    "a period of nothing": v2({ROOT: "50000 0\n"}, None),
    "two mounts, one of the own group": Tree(
        "0::/a\n", OTHER + V2.format(top="/b", point="/mnt/b") + V2.format(top="/", point=ROOT),
        {"/mnt/b/cpu.max": "10000 100000\n", f"{ROOT}/a/cpu.max": "30000 100000\n"}, 0.3,
    ),
    "damaged lines": Tree(
        "0\n\nx:y\n0::/a\n", "1 2\n - cgroup2\n35 24 - cgroup2 a rw\n" + V2.format(top="/", point=ROOT),
        {f"{ROOT}/a/cpu.max": "30000 100000\n"}, 0.3,
    ),
    "version 1, no limit": v1({CPU: ("-1\n", "100000\n")}, None),
    "version 1, half a CPU": v1({CPU: ("50000\n", "100000\n")}, 0.5),
    "version 1, the least of all above": v1(
        {CPU: ("-1\n", "100000\n"), f"{CPU}/a": ("25000\n", "50000\n"),
         f"{CPU}/a/b": ("90000\n", "100000\n")},
        0.5, "/a/b",
    ),
    "version 1, a mount of the own group": v1({CPU: ("120000\n", "100000\n")}, 1.2, "/docker/1", "/docker/1"),
    "version 1, no period": v1({CPU: ("50000\n", "")}, None),
    "both versions": Tree(
        "4:cpu,cpuacct:/a\n0::/b\n",
        V1.format(top="/", point=CPU) + V2.format(top="/", point=f"{ROOT}/unified"),
        {f"{CPU}/a/cpu.cfs_quota_us": "80000\n", f"{CPU}/a/cpu.cfs_period_us": "100000\n",
         f"{ROOT}/unified/b/cpu.max": "60000 100000\n"}, 0.6,
    ),
}  # fmt: skip

# What OMP_NUM_THREADS says, and the number that it means.
OPENMP = {
    "": None, "1": 1, "4": 4, " 2 ": 2, "4,3,2": 4, "3 ,2": 3, "0": None, "-1": None, "many": None,
    "2x": None, "2.5": None, ",2": None, "1000000000000": 10**12, "\t8": 8, "0x2": None,
    "+2": None, "4\n": None,
}  # fmt: skip
