"""Targets: of profiles by name, of this machine, of TVM's target strings.

To add a device, put `<name>.toml` beside this file or into a folder of your own (`files.py`): `description`,
`architecture`, `triple`, `cpu` (LLVM's name), `features` (names of /proc/cpuinfo that its programs need;
`extends` adds those of another profile) and optionally `attributes` (LLVM `mattr`) and what is published
about the device. Which kernels are used follows from the features. docs/targets.md lists every key.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from aqd_deploy.errors import TargetError
from aqd_deploy.targets import cards
from aqd_deploy.targets.cores import is_group, runs_in_order
from aqd_deploy.targets.cpu import Cpu, read_cpu
from aqd_deploy.targets.files import read_tables, user_folders
from aqd_deploy.targets.isa import best_isa
from aqd_deploy.targets.target_strings import fields_of, is_target_string

# The name of the target that stands for this machine.
HOST = "host"
# The name of the target that stands for this machine's first card.
CARD = "cuda"
# Whose kernels a target is compiled with that names no backend.
DEFAULT_BACKEND = "cpu"
_CORE_FIGURES = ("l1d_kib", "int8_macs_per_cycle")


@dataclass(frozen=True)
class Target:
    """A device to compile for.

    `features` are the /proc/cpuinfo names that a program for this target demands; `cpu`, `triple`,
    `attributes` and `float_abi` ("hard", "soft" or LLVM's default "") go to LLVM. `profile` is the name of
    the file the values come from ("raw" for a TVM target string). `backend` names the kernels that it is
    compiled with (`kernels.backends`).

    What is known of the device, None where it is not: `cores`, `clock_ghz`, data caches in KiB (`l1d_kib`,
    `l2_kib` of `l2_cores` cores or of one, `l3_kib` of all), `bandwidth_gb_s` of main memory in 10⁹ bytes/s,
    `int8_macs_per_cycle` of a core, and `in_order` of one whose name does not tell it (`runs_in_order`).
    `sources` says where each number is from. `toolchain` is a C++ compiler command, `device` how the board is
    reached. `card` is the architecture of a graphics card that programs run on, "" where they run on the CPU.
    """

    name: str
    description: str
    architecture: str
    triple: str
    cpu: str
    features: tuple[str, ...]
    attributes: tuple[str, ...] = ()
    profile: str = ""
    aliases: tuple[str, ...] = ()
    float_abi: str = ""
    soc: str = ""
    cores: int | None = None
    clock_ghz: float | None = None
    l1d_kib: float | None = None
    l2_kib: float | None = None
    l3_kib: float | None = None
    l2_cores: int | None = None
    in_order: bool | None = None
    bandwidth_gb_s: float | None = None
    int8_macs_per_cycle: float | None = None
    toolchain: str = ""
    device: str = ""
    backend: str = DEFAULT_BACKEND
    card: str = ""
    sources: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def is_host(self) -> bool:
        """Whether it stands for this machine, whatever that is, and not for a device by its name."""
        return self.name == HOST

    @property
    def kernels(self) -> str:
        """What the kernels are written for: the card, else the instruction set that the features allow, a
        value of `isa.Isa`.
        """
        return self.card or best_isa(self.features).value

    def tvm(self) -> dict[str, Any]:
        """The TVM target as the dictionary that `tvm.target.Target` takes."""
        target: dict[str, Any] = {"kind": "llvm", "mtriple": self.triple, "mcpu": self.cpu}
        if self.attributes:
            target["mattr"] = list(self.attributes)
        if self.float_abi:
            target["mfloat-abi"] = self.float_abi
        return target

    def missing_on(self, cpu: Cpu) -> list[str]:
        """Features the programs need and `cpu` lacks, sorted; another architecture is one entry."""
        if cpu.architecture != self.architecture:
            return [f"architecture {self.architecture}"]
        return cpu.lacks(self.features)

    @property
    def runs_in_order(self) -> bool:
        """Whether its cores run instructions in the order of the program, as small ones do."""
        return runs_in_order(self.cpu) if self.in_order is None else self.in_order


@functools.cache
def _load(folders: tuple[Path, ...]) -> dict[str, Target]:
    return {name: _from_table(name, table) for name, table in read_tables(folders).tables.items()}


def _profiles() -> dict[str, Target]:
    return _load(user_folders())


def _from_table(name: str, table: dict[str, Any]) -> Target:
    values: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in table.items()
    }
    values.pop("extends", None)
    values["features"] = tuple(sorted(values["features"]))
    return Target(name=name, profile=name, **values)


def _aliases() -> dict[str, str]:
    """Profile names by alias; no alias hides a name."""
    return {alias: name for name, target in _profiles().items() for alias in target.aliases}


def problems() -> dict[str, TargetError]:
    """The profile files that cannot be used, by the name they would have."""
    return dict(read_tables(user_folders()).problems)


def path_of(target: Target) -> str:
    """The file of a target's profile, "" for a TVM target string."""
    return read_tables(user_folders()).paths.get(target.profile, "")


def names() -> list[str]:
    """Names that `get` takes: `host`, then every profile."""
    return [HOST, *_profiles()]


def get(name: str | Target) -> Target:
    """The target called `name`, or the one a TVM target string describes.

    Raises TargetError for an unknown name (with the nearest ones), for a profile whose file cannot be used,
    and for a string that is not an LLVM target or of an unknown architecture; what `detect_card` raises.
    """
    if isinstance(name, Target):
        return name
    text = name.strip()
    if text == HOST:
        return detect_host()
    if text == CARD:
        return detect_card()
    if is_target_string(text):
        return Target(**fields_of(text, {key: each.features for key, each in _profiles().items()}))
    known = text.lower()
    if known in _profiles():
        return _profiles()[known]
    if known in problems():
        raise problems()[known]
    if known in _aliases():
        return _profiles()[_aliases()[known]]
    aliases = _aliases()
    close = difflib.get_close_matches(known, [*names(), *aliases], n=6, cutoff=0.5)
    nearest = list(dict.fromkeys(aliases.get(each, each) for each in close))[:3]
    valid = ", ".join(nearest) if nearest else ", ".join(names())
    raise TargetError(
        "unknown target",
        received=repr(name),
        valid=f"{'nearest ' if nearest else ''}{valid}, or a TVM target string",
        next_command="aqd-deploy targets list",
    )


def detect_host(cpu: Cpu | None = None) -> Target:
    """The most capable shipped profile that `cpu` (default: this machine's) satisfies, under the name `host`:
    that of its own core, where that is known, else of a group of CPUs the one that demands the most features.

    Raises TargetError where no profile fits.
    """
    cpu = cpu or read_cpu()
    shipped = {name: profile for name, profile in _load(()).items() if not profile.card}
    same_core = sorted(name for name, profile in shipped.items() if cpu.core and profile.cpu == cpu.core)
    groups = sorted(
        (name for name, profile in shipped.items() if is_group(profile.cpu)),
        key=lambda name: -len(shipped[name].features),
    )
    for name in (*same_core, *groups):
        if not shipped[name].missing_on(cpu):
            return _as_host(shipped[name], cpu)
    raise TargetError(
        "no profile fits this machine's CPU",
        received=f"{cpu.architecture} {cpu.model}",
        valid=", ".join(groups),
        next_command="aqd-deploy targets list",
    )


def detect_card() -> Target:
    """The shipped profile whose code this machine's first card runs: that of its own architecture, else of
    the newest older one.

    Raises DeviceError where there is no driver or card, TargetError where no profile fits.
    """
    here = cards.architecture(0)
    shipped = {profile.card: profile for profile in _load(()).values() if profile.card and not profile.soc}
    fitting = sorted(card for card in shipped if cards.runs(card, here))
    if not fitting:
        raise TargetError(
            "no profile fits this machine's card", received=here, valid=", ".join(sorted(shipped)),
            next_command="aqd-deploy targets list",
        )  # fmt: skip
    return shipped[fitting[-1]]


def _as_host(profile: Target, cpu: Cpu) -> Target:
    """`profile` for this machine: what is published of its core stays, what is of one board goes; the
    second-level cache is the core's in groups of cores.
    """
    figures = (*_CORE_FIGURES, "l2_kib") if is_group(profile.cpu) else _CORE_FIGURES
    return replace(
        profile,
        name=HOST,
        description=f"this machine: {profile.description}",
        aliases=(),
        soc="",
        cores=cpu.threads,
        clock_ghz=None,
        l2_kib=profile.l2_kib if "l2_kib" in figures else None,
        l2_cores=None,
        l3_kib=None,
        bandwidth_gb_s=None,
        toolchain="",
        device="",
        sources={key: profile.sources[key] for key in figures if key in profile.sources},
    )
