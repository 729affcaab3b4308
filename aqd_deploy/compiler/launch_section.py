"""Launches as a program's manifest lists them: addresses are bytes of one memory, functions have numbers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from aqd_deploy.compiler.launches import BuiltLaunches
from aqd_deploy.compiler.plan import border
from aqd_deploy.kernels.contract.launches import Address, Function, Launch


def functions_of(built: BuiltLaunches) -> list[Function]:
    """Every function that is launched, once, in the order of their numbers."""
    return list(dict.fromkeys(launch.function for launch in _launches(built)))


def _launches(built: BuiltLaunches) -> list[Launch]:
    return [*built.prepare, *(launch for _, launch in built.run)]


def launch_section(
    built: BuiltLaunches, code_bytes: int, inputs: Sequence[str], outputs: Sequence[str]
) -> dict[str, Any]:
    """The section of the manifest, for code of so many bytes with the functions of `functions_of`, called k0,
    k1, …; `inputs` and `outputs` are names of the network.
    """
    sizes = built.region_bytes()
    starts = dict(zip(sizes, accumulate(sizes.values(), initial=0), strict=False))

    def place(address: Address | None) -> int:
        return -1 if address is None else starts[address.region] + address.offset

    numbers = {function: number for number, function in enumerate(functions_of(built))}

    def entry(launch: Launch) -> dict[str, Any]:
        return {
            "function": numbers[launch.function],
            "grid": launch.grid,
            "threads": launch.function.threads,
            "shared": launch.shared,
            "pointers": [place(pointer) for pointer in launch.pointers],
            "numbers": list(launch.numbers),
        }

    return {
        "images": built.images,
        "code_bytes": code_bytes,
        "stored_bytes": built.data.bytes,
        "memory_bytes": sum(sizes.values()),
        "functions": [f"k{number}" for number in numbers.values()],
        "code": [function.code for function in numbers],
        "prepare": [entry(launch) for launch in built.prepare],
        "run": [{**entry(launch), "layer": layer} for layer, launch in built.run],
        "inputs": [place(built.borders[border(name)]) for name in inputs],
        "outputs": [place(built.borders[border(name)]) for name in outputs],
    }
