"""Profile files: finding, reading and checking them. `profile.py` makes targets of the tables read here.

Shipped profiles lie beside this module. A user's lie in the folders of `AQD_DEPLOY_TARGETS` (separated like
PATH) and in `aqd-deploy/targets` of the user's configuration folder; theirs win over a shipped one of the
same name. A file that cannot be used is kept as its error, so that it spoils no other profile.
"""

from __future__ import annotations

import difflib
import functools
import os
import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from aqd_deploy.errors import TargetError
from aqd_deploy.inputs import MIB, FileKind
from aqd_deploy.targets import architectures

PROFILE_FILE = FileKind("profile", "a TOML file (docs/targets.md)", MIB, TargetError)
FOLDERS_VARIABLE = "AQD_DEPLOY_TARGETS"
# `extends` takes over whatever a profile does not say itself, but for these.
_OWN = ("description", "aliases", "extends")
_REQUIRED = ("description", "architecture", "triple", "cpu", "features")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")


# Figures are multiplied with each other: far below where a float ends, far above every device.
_LARGEST = 1e12


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_list(value: Any) -> bool:
    return isinstance(value, list) and all(_is_text(each) for each in value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _LARGEST


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= _LARGEST


def _is_sources(value: Any) -> bool:
    return isinstance(value, dict) and all(_is_text(each) for each in value.values())


_TEXT = (_is_text, 'a text, for example "…"')
_LIST = (_is_list, 'a list of texts, for example ["…"]')
_NUMBER = (_is_number, "a positive number")
KEYS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "description": _TEXT,
    "aliases": _LIST,
    "extends": _TEXT,
    "architecture": (
        lambda value: value in architectures.names(),
        " or ".join(f'"{name}"' for name in architectures.names()),
    ),
    "triple": _TEXT,
    "cpu": _TEXT,
    "attributes": (
        lambda value: _is_list(value) and all(each[0] in "+-" for each in value),
        'a list of LLVM attributes with their sign, for example ["+dotprod"]',
    ),
    "features": _LIST,
    "float_abi": (lambda value: value in ("hard", "soft"), '"hard" or "soft"'),
    "soc": _TEXT,
    "cores": (_is_count, "a positive whole number"),
    "clock_ghz": _NUMBER,
    "l1d_kib": _NUMBER,
    "l2_kib": _NUMBER,
    "l3_kib": _NUMBER,
    "l2_cores": (_is_count, "a positive whole number"),
    "in_order": (lambda value: isinstance(value, bool), "true or false"),
    "bandwidth_gb_s": _NUMBER,
    "int8_macs_per_cycle": _NUMBER,
    "toolchain": _TEXT,
    "backend": _TEXT,
    "card": (
        lambda value: isinstance(value, str) and re.fullmatch(r"sm_\d{2,3}a?", value) is not None,
        'an architecture of CUDA, for example "sm_87"',
    ),
    "device": _TEXT,
    "sources": (_is_sources, "a table of texts: where the number of a key is from"),
}


@dataclass
class Tables:
    """Complete, checked tables by profile name, the file of each, and the error of each file left out."""

    tables: dict[str, dict[str, Any]] = field(default_factory=dict)
    paths: dict[str, str] = field(default_factory=dict)
    problems: dict[str, TargetError] = field(default_factory=dict)


def user_folders() -> tuple[Path, ...]:
    """Folders in which the user's own profiles lie, the first wins; the last need not exist."""
    named = os.environ.get(FOLDERS_VARIABLE, "").split(os.pathsep)
    return (*(Path(each).expanduser() for each in named if each), _configuration_folder())


def _configuration_folder() -> Path:
    configuration = os.environ.get("XDG_CONFIG_HOME") or Path("~/.config").expanduser()
    return Path(configuration) / "aqd-deploy" / "targets"


@functools.cache
def read_tables(folders: tuple[Path, ...]) -> Tables:
    """The shipped profiles and those in `folders`, each complete with what it extends."""
    found = Tables()
    raw: dict[str, dict[str, Any]] = {}
    for name, path, read in _files(folders, found):
        found.paths[name] = path
        try:
            raw[name] = _checked(name, path, read)
        except TargetError as error:
            found.problems[name] = error
    for name in sorted(raw):
        try:
            found.tables[name] = _complete(name, raw, found, ())
        except TargetError as error:
            found.problems[name] = error
    return found


def _files(folders: tuple[Path, ...], found: Tables) -> list[tuple[str, str, Callable[[], str]]]:
    """Name, path and reader of every profile file, one a name; folders that cannot be read are problems."""
    files: dict[str, tuple[str, str, Callable[[], str]]] = {}
    for folder in (resources.files("aqd_deploy.targets"), *reversed(folders)):
        try:
            entries = sorted(folder.iterdir(), key=lambda each: each.name)
        except OSError as error:
            if not isinstance(error, FileNotFoundError) or folder != _configuration_folder():
                found.problems[str(folder)] = TargetError(
                    f"{folder}: the folder of profiles cannot be read", received=error.strerror
                )
            continue
        for entry in entries:
            if entry.name.endswith(".toml"):
                name = entry.name.removesuffix(".toml")
                files[name] = (name, str(entry), functools.partial(_text, entry))
    return list(files.values())


def _text(entry: Traversable) -> str:
    """The text of a profile file. Raises TargetError, and UnicodeDecodeError."""
    data = PROFILE_FILE.read(entry) if isinstance(entry, Path) else entry.read_bytes()
    return data.decode("utf-8")


def _checked(name: str, path: str, text_of: Callable[[], str]) -> dict[str, Any]:
    """The table in `text_of`, every key known and of its type. Raises TargetError with file and line."""
    if not _NAME.fullmatch(name) or name == "host":
        raise TargetError(
            f"{path}: a profile cannot be called {name!r}",
            valid="lower-case letters, digits, '-', '_' and '.', and not host",
        )
    try:
        text = text_of()
    except UnicodeDecodeError as error:
        raise TargetError(f"{path} cannot be read", received=str(error)) from error
    try:
        table = tomllib.loads(text)
    except RecursionError:
        raise TargetError(f"{path} is not a TOML file: nested too deep") from None
    except ValueError as error:
        # TOMLDecodeError, and what Python says of dates and numbers that TOML can write and it cannot hold.
        raise TargetError(f"{path} is not a TOML file: {error}") from error
    for key, value in table.items():
        where = f"{path}, line {_line_of(text, key)}"
        if key not in KEYS:
            nearest = difflib.get_close_matches(key, KEYS, n=1, cutoff=0.5)
            hint = f"nearest {nearest[0]}; all: " if nearest else ""
            raise TargetError(f"{where}: unknown key {key!r}", valid=hint + ", ".join(KEYS))
        fits, wanted = KEYS[key]
        if not fits(value):
            raise TargetError(f"{where}: wrong value of {key!r}", received=repr(value), valid=wanted)
    unknown = sorted(set(table.get("sources", {})) - set(KEYS))
    if unknown:
        where = f"{path}, line {_line_of(text, unknown[0], after='[sources]')}"
        raise TargetError(f"{where}: a source of an unknown key {unknown[0]!r}", valid=", ".join(KEYS))
    return table


def _line_of(text: str, key: str, after: str = "") -> int:
    """The line, from 1, on which `key` is set (as a key or a table), at or behind the line `after`."""
    pattern = re.compile(rf'\s*(\[\s*)?"?{re.escape(key)}"?\s*[\]=.]')
    lines = text.splitlines()
    start = next((index for index, line in enumerate(lines) if line.strip() == after), 0) if after else 0
    return next((index for index in range(start, len(lines)) if pattern.match(lines[index])), 0) + 1


def _complete(
    name: str, raw: dict[str, dict[str, Any]], found: Tables, below: tuple[str, ...]
) -> dict[str, Any]:
    """The table of `name` with what it extends; features and sources add up, everything else replaces."""
    table, path = raw[name], found.paths[name]
    parent = table.get("extends")
    if parent is None:
        merged = dict(table)
    else:
        if parent in (*below, name):
            raise TargetError(
                f"{path}: the profile extends itself", received=" → ".join((*below, name, parent))
            )
        if parent not in raw:
            nearest = difflib.get_close_matches(parent, raw, n=3, cutoff=0.4) or sorted(raw)
            raise TargetError(
                f"{path}: extends a profile that is not there or cannot be read",
                received=repr(parent),
                valid=", ".join(nearest),
            )
        inherited = _complete(parent, raw, found, (*below, name))
        merged = {key: value for key, value in inherited.items() if key not in _OWN} | table
        merged["features"] = sorted({*inherited["features"], *table.get("features", ())})
        merged["sources"] = {**inherited.get("sources", {}), **table.get("sources", {})}
    missing = [key for key in _REQUIRED if key not in merged]
    if missing:
        raise TargetError(
            f"{path}, line 1: the key {missing[0]!r} is missing", valid=f"a file with {', '.join(_REQUIRED)}"
        )
    return merged
