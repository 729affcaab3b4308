"""The launches of a program for a card, as its manifest lists them: checked, and ready to be called.

All that a card needs lies in one memory of `memory_bytes`: what the program stores first, zeros behind. A
pointer is a byte of it, −1 for none. The parameter of a function is its pointers, then its numbers.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aqd_deploy.errors import ProgramError
from aqd_deploy.runtime.container import Container

SECTION = "launches"


@dataclass(frozen=True)
class Call:
    """One launch: the index of its function, blocks, threads of a block, bytes of shared memory, and the
    parameter for a memory that begins at address 0.
    """

    function: int
    grid: int
    threads: int
    shared: int
    pointers: tuple[int, ...]
    numbers: tuple[int, ...]

    def parameter(self, base: int) -> bytes:
        """The structure that the function takes, for a memory that begins at `base`."""
        pointers = (base + each if each >= 0 else 0 for each in self.pointers)
        packed = struct.pack(f"<{len(self.pointers)}Q{len(self.numbers)}i", *pointers, *self.numbers)
        return packed.ljust(-(-len(packed) // 8) * 8, b"\0")


@dataclass(frozen=True)
class LaunchList:
    """`code` is the cubin, `stored` the first bytes of memory, `inputs` and `outputs` where they begin;
    `layers`: of each call of `run` the index of its layer.
    """

    code: memoryview
    stored: memoryview
    memory_bytes: int
    functions: tuple[str, ...]
    prepare: tuple[Call, ...]
    run: tuple[Call, ...]
    layers: tuple[int, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def is_launched(manifest: Mapping[str, Any]) -> bool:
    """Whether the program with this manifest is for a card."""
    return SECTION in manifest["program"]


def refuse_card(container: Container) -> None:
    """Raise ProgramError for a program that a CPU cannot run."""
    if is_launched(container.manifest):
        raise ProgramError(
            f"{container.path} is for a graphics card",
            received=f"a program for {container.manifest['program']['target']['name']}",
            valid="a program for a CPU",
            next_command="the same command with --device cuda",
        )


def read_launches(container: Container) -> LaunchList:
    """The launches of a verified program. Raises ProgramError where what it lists does not lie in it."""
    section = container.manifest["program"][SECTION]
    code, stored = section["code_bytes"], section["stored_bytes"]
    library = container.library
    memory = section["memory_bytes"]
    calls = [_call(each, len(section["functions"]), memory) for each in section["prepare"]]
    runs = [_call(each, len(section["functions"]), memory) for each in section["run"]]
    places = (*section["inputs"], *section["outputs"])
    told = [each for each in (*calls, *runs) if each is None]
    if told or code + stored != len(library) or stored > memory or any(at >= memory for at in places):
        raise ProgramError(
            f"the launches of {container.path} are not those of its code",
            next_command="aqd-deploy compile MODEL.onnx --target NAME -o PROGRAM.so",
        )
    return LaunchList(
        library[:code],
        library[code:],
        memory,
        tuple(section["functions"]),
        tuple(filter(None, calls)),
        tuple(filter(None, runs)),
        tuple(each["layer"] for each in section["run"]),
        tuple(section["inputs"]),
        tuple(section["outputs"]),
    )


def _call(entry: Mapping[str, Any], functions: int, memory: int) -> Call | None:
    """None where the function or a pointer does not exist."""
    call = Call(
        entry["function"],
        entry["grid"],
        entry["threads"],
        entry["shared"],
        tuple(entry["pointers"]),
        tuple(entry["numbers"]),
    )
    inside = all(-1 <= pointer < memory for pointer in call.pointers)
    return call if inside and call.function < functions else None
