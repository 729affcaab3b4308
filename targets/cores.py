"""CPU cores by name: how Linux numbers ARM's, which run in order, and which of LLVM's names are of groups.

A core that is not listed works all the same: its profile says what is not known here (`in_order`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class ArmCore:
    """A core of ARM's own (implementer 0x41): `part` as in the line "CPU part" of /proc/cpuinfo, `name` as
    LLVM calls it, `in_order` for small ones that run instructions in the order of the program.
    """

    part: str
    name: str
    in_order: bool = False


# The smallest first: the profile of a machine with two kinds of cores is that of its big ones.
ARM_CORES = (
    ArmCore("0xc07", "cortex-a7"),
    ArmCore("0xc09", "cortex-a9"),
    ArmCore("0xc0f", "cortex-a15"),
    ArmCore("0xd04", "cortex-a35", in_order=True),
    ArmCore("0xd03", "cortex-a53", in_order=True),
    ArmCore("0xd05", "cortex-a55", in_order=True),
    ArmCore("0xd07", "cortex-a57"),
    ArmCore("0xd08", "cortex-a72"),
    ArmCore("0xd09", "cortex-a73"),
    ArmCore("0xd0a", "cortex-a75"),
    ArmCore("0xd0b", "cortex-a76"),
    ArmCore("0xd0c", "neoverse-n1"),
    ArmCore("0xd41", "cortex-a78"),
    ArmCore("0xd42", "cortex-a78ae"),
    ArmCore("0xd40", "neoverse-v1"),
)
_GROUP = re.compile(r"generic(-.*)?|x86-64(-v\d)?|")


def parse_core(text: str) -> str:
    """LLVM's name of the biggest ARM core in the text of /proc/cpuinfo, "" where none is known."""
    implementers = set(re.findall(r"^CPU implementer\s*:\s*(\S+)", text, re.MULTILINE))
    parts = set(re.findall(r"^CPU part\s*:\s*(\S+)", text, re.MULTILINE))
    known = [core.name for core in ARM_CORES if core.part in parts]
    return known[-1] if known and implementers == {"0x41"} else ""


def runs_in_order(cpu: str) -> bool:
    """Whether LLVM's CPU `cpu` is a core that is known to run in order."""
    return any(core.name == cpu and core.in_order for core in ARM_CORES)


def is_group(cpu: str) -> bool:
    """Whether LLVM's CPU `cpu` is a group of CPUs, rather than one whose pipelines LLVM knows."""
    return _GROUP.fullmatch(cpu) is not None
