"""TVM's target strings, which `--target` takes beside the names of profiles.

They are JSON (`{"kind": "llvm", "mcpu": ...}`) or in the older way `llvm -mcpu=... -mattr=+...`.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Collection, Mapping
from typing import Any

from aqd_deploy.errors import TargetError
from aqd_deploy.targets import architectures
from aqd_deploy.targets.architectures import Architecture, architecture_of
from aqd_deploy.targets.llvm_features import cpuinfo_name

_OPTIONS = ("mtriple", "mcpu", "mattr", "mfloat-abi")


def is_target_string(text: str) -> bool:
    """Whether `text` is meant as a target string: no profile is called like that."""
    return text.startswith("{") or text.split(" ")[0] == "llvm"


def fields_of(text: str, features_of: Mapping[str, Collection[str]]) -> dict[str, Any]:
    """The fields of the `Target` that a target string describes. `features_of` has the features of CPUs that
    a profile is named after; those that LLVM knows of a CPU are added when it is compiled for.

    Raises TargetError for a string that cannot be read, that is not for LLVM, or of an unknown architecture.
    """
    table = _parse_json(text) if text.startswith("{") else _parse_options(text)
    if table.get("kind") != "llvm":
        raise TargetError(
            "only LLVM targets can be compiled", received=repr(text), valid='{"kind": "llvm", ...}'
        )
    unknown = sorted(set(table) - {"kind", *_OPTIONS})
    if unknown:
        raise TargetError(
            f"unknown target option {', '.join(unknown)}", received=repr(text), valid=", ".join(_OPTIONS)
        )
    triple = str(table.get("mtriple", architectures.ARCHITECTURES[0].gnu_triple))
    architecture = _architecture_of_triple(triple)
    cpu = str(table.get("mcpu", architecture.default_cpu))
    attributes = tuple(str(each) for each in table.get("mattr", ()))
    asked = [each[1:] for each in attributes if each.startswith("+")]
    added = {cpuinfo_name(each, architecture.name) or each for each in asked}
    return {
        "name": text,
        "description": "TVM target string",
        "architecture": architecture.name,
        "triple": triple,
        "cpu": cpu,
        "features": tuple(sorted({*features_of.get(cpu, ()), *added})),
        "attributes": attributes,
        "float_abi": str(table.get("mfloat-abi", "")),
        "profile": "raw",
    }


def _architecture_of_triple(triple: str) -> Architecture:
    try:
        return architectures.get(architecture_of(triple.split("-")[0]))
    except TargetError as error:
        what = f"{error.what} of the triple {triple!r}"
        raise TargetError(
            what, received=error.received, valid=error.valid, next_command=error.next_command
        ) from None


def _parse_json(text: str) -> dict[str, Any]:
    try:
        table = json.loads(text)
    except json.JSONDecodeError as error:
        raise TargetError(f"the target string is not JSON ({error})", received=repr(text)) from error
    if not isinstance(table, dict):
        raise TargetError("the target string is not a JSON object", received=repr(text))
    return table


def _parse_options(text: str) -> dict[str, Any]:
    """`llvm -mcpu=x -mattr=+a,+b`, which TVM itself does not read."""
    table: dict[str, Any] = {"kind": "llvm"}
    for word in shlex.split(text)[1:]:
        key, equals, value = word.partition("=")
        if not key.startswith("-") or not equals:
            raise TargetError(
                "the target string cannot be read", received=repr(text), valid="llvm -mcpu=NAME -mattr=+F"
            )
        table[key.lstrip("-")] = value.split(",") if key == "-mattr" else value
    return table
