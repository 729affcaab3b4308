"""Reads a Darknet .cfg: sections in their order, each with its line and its keys.

`[name]` begins a section, `key=value` belongs to it; `#` and `;` begin comments. Sections may repeat. Of a
key that stands twice in a section the first one counts, as in Darknet.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from aqd_deploy.errors import ModelFileError, UnsupportedModelError
from aqd_deploy.inputs import MIB, FileKind

SUFFIX = ".cfg"
CFG_FILE = FileKind(
    "Darknet cfg", "a text file of [sections], such as yolov2-tiny-voc.cfg", MIB, ModelFileError
)
_NEXT = "the same command, once the cfg is one that Darknet reads"
_TRAINING = ("stopbackward", "learning_scale", "onlyforward")
"""Keys of any layer that only training reads."""


@dataclass(frozen=True)
class Section:
    """One section: its name, the line that it begins at (from 1), and the text and line of every key."""

    file: Path
    name: str
    line: int
    values: Mapping[str, str]
    lines: Mapping[str, int]

    @property
    def place(self) -> str:
        """For sentences."""
        return f"[{self.name}] at line {self.line} of {self.file}"

    def text(self, key: str, default: str) -> str:
        """The text of a key."""
        return self.values.get(key, default)

    def whole(self, key: str, default: int | None, low: int = 0, high: int = 1 << 16) -> int:
        """The whole number of a key, which must be there where `default` is None. Raises ModelFileError."""
        if key not in self.values and default is not None:
            return default
        return self.wholes(key, low, high, count=1)[0]

    def wholes(self, key: str, low: int, high: int, count: int | None = None) -> list[int]:
        """The whole numbers of a list with commas. Raises ModelFileError."""
        valid = f"{'a whole number' if count == 1 else 'whole numbers'} from {low} to {high}"
        numbers = self.numbers(key, low, high, count, valid)
        if any(number != int(number) for number in numbers):
            raise self._not_valid(key, valid)
        return [int(number) for number in numbers]

    def numbers(
        self, key: str, low: float, high: float, count: int | None = None, valid: str | None = None
    ) -> list[float]:
        """The numbers of a list with commas. Raises ModelFileError."""
        valid = valid or f"numbers from {low:g} to {high:g}"
        if key not in self.values:
            raise ModelFileError(f"{self.place} has no {key}", valid=valid, next_command=_NEXT)
        try:
            numbers = [float(part) for part in self.values[key].rstrip(",").split(",")]
        except ValueError:
            raise self._not_valid(key, valid) from None
        fits = all(math.isfinite(number) and low <= number <= high for number in numbers)
        if not fits or count not in (None, len(numbers)):
            raise self._not_valid(key, valid)
        return numbers

    def check_keys(self, honoured: Collection[str], ignored: Collection[str] = ()) -> None:
        """UnsupportedModelError for a key that is not among these: it may change what the layer computes."""
        for key, line in self.lines.items():
            if key not in honoured and key not in ignored and key not in _TRAINING:
                raise UnsupportedModelError(
                    f"the key {key} of [{self.name}] at line {line} of {self.file} is not supported",
                    received=f"{key}={self.values[key]}"[:80], valid=", ".join(sorted(honoured)) or "none",
                    next_command="the same command without the line, where Darknet ignores it, too",
                )  # fmt: skip

    def check_value(self, key: str, default: str, valid: str) -> None:
        """UnsupportedModelError where a key has another value than `valid`."""
        if self.text(key, default) != valid:
            raise UnsupportedModelError(
                f"{self.place} has a {key} that is not supported", received=self.text(key, default)[:80],
                valid=f"{key}={valid}",
            )  # fmt: skip

    def _not_valid(self, key: str, valid: str) -> ModelFileError:
        return ModelFileError(
            f"the key {key} of [{self.name}] at line {self.lines[key]} of {self.file} is not valid",
            received=self.values[key][:80], valid=valid, next_command=_NEXT,
        )  # fmt: skip


def read_cfg(path: Path) -> tuple[Section, list[Section]]:
    """The section [net] and the layers behind it. Raises ModelFileError for a file that is not such a cfg."""
    try:
        lines = CFG_FILE.read(path).decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ModelFileError(
            f"{path} is not a text file", received=f"byte {error.start} is {error.object[error.start]:#04x}",
            valid=CFG_FILE.valid, next_command=_NEXT,
        ) from error  # fmt: skip
    sections: list[Section] = []
    for number, line in enumerate(lines, 1):
        text = "".join(line.split("#")[0].split(";")[0].split())
        if text:
            _take(path, number, text, sections)
    if not sections or sections[0].name not in ("net", "network"):
        received = sections[0].place if sections else "no section"
        raise ModelFileError(f"{path} does not begin with [net]", received=received, next_command=_NEXT)
    return sections[0], sections[1:]


def _take(path: Path, number: int, text: str, sections: list[Section]) -> None:
    """A line without comments and spaces: a new section, or a key of the last one."""
    if text.startswith("[") and text.endswith("]"):
        sections.append(Section(path, text[1:-1].lower(), number, {}, {}))
        return
    key, equals, value = text.partition("=")
    if not equals or not key or not sections:
        raise ModelFileError(
            f"line {number} of {path} is neither a section nor a key of one", received=text[:80],
            valid="[section] or key=value", next_command=_NEXT,
        )  # fmt: skip
    values, lines = sections[-1].values, sections[-1].lines
    assert isinstance(values, dict) and isinstance(lines, dict)
    values.setdefault(key, value)
    lines.setdefault(key, number)
