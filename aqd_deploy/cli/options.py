"""Options and argument types that several verbs share."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aqd_deploy.cli.output import progress
from aqd_deploy.devices.kinds import LOCAL, known_devices

if TYPE_CHECKING:
    from aqd_deploy.targets import Target

NUMERICS = ("exact", "paper", "power-of-two")

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
threads_option = click.option(
    "--threads", type=click.IntRange(1, 256), default=None,
    help="Threads to use, of those that are there.  [default: OMP_NUM_THREADS, else as compiled, else all]",
)  # fmt: skip
device_option = click.option(
    "--device", metavar="DEVICE",
    help=f"Where it runs: {' or '.join(known_devices().rsplit(', ', 1))}.  [default: the device that the "
    f"target's profile names, or {LOCAL}]",
)  # fmt: skip
numerics_option = click.option(
    "--numerics", type=click.Choice(NUMERICS), default="exact", show_default=True,
    help="How requantization constants are chosen.",
)  # fmt: skip


def device_of(target: Target | None, named: str | None) -> str:
    """What --device says, else the device of the target's profile (told on stderr), else `LOCAL`."""
    if named is not None:
        return named
    if target is None or not target.device:
        return LOCAL
    progress(f"on {target.device}, the device of the profile {target.name}; --device local for this machine")
    return target.device


def device_for(program: Path, named: str | None) -> str:
    """`device_of` the target that the program (a file or a bundle) was compiled for."""
    if named is not None or program.suffix == ".onnx":
        return named or LOCAL
    from aqd_deploy.runtime.bundle_files import target_of

    return device_of(target_of(program), named)


def existing(name: str = "FILE") -> click.Path:
    """A file that must be named but is opened by the library, whose message is better than click's."""
    return _NamedPath(path_type=Path, metavar=name)


class _NamedPath(click.Path):
    """A path that is only a name to click: `click.Path` would check that it may be read, and exit with 2."""

    def __init__(self, metavar: str, **attributes: Any) -> None:
        super().__init__(readable=False, **attributes)
        self.name = metavar


class DescriptionType(click.ParamType):
    """A file that describes a detector, or the name of a description that ships: its path."""

    name = "DESCRIPTION"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        from aqd_deploy.detection.descriptions import file_of, shipped

        path = Path(value)
        if path.suffix or len(path.parts) != 1 or path.exists():
            return path
        if str(value) in shipped():
            return file_of(str(value))
        self.fail(f"{str(value)!r} is neither a file nor one of {', '.join(shipped())}", param, ctx)


class SizeType(click.ParamType):
    """`320` or `320x480` (height x width), whole positive numbers."""

    name = "SIZE"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r"(\d+)(?:x(\d+))?", str(value))
        if match is None or not 1 <= int(match[1]) <= 4096 or not 1 <= int(match[2] or 1) <= 4096:
            self.fail(
                f"{value!r} is not a size; valid: 320 or 320x480 (height x width), up to 4096", param, ctx
            )
        return int(match[1]), int(match[2] or match[1])


class ShapeType(click.ParamType):
    """`1x3x320x320`, or with commas: the static shape to give a dynamic input."""

    name = "SHAPE"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        parts = re.split(r"\s*[x,]\s*", str(value).strip())
        if len(parts) != 4 or not all(re.fullmatch(r"[0-9]{1,9}", part) for part in parts):
            self.fail(f"{value!r} is not a shape; valid: for example 1x3x320x320", param, ctx)
        return tuple(int(part) for part in parts)


class TripleType(click.ParamType):
    """`104,116,124`, or one number for all three: floats."""

    name = "NUMBERS"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, float, float]:
        if isinstance(value, tuple):
            return value
        try:
            numbers = [float(part) for part in str(value).split(",")]
        except ValueError:
            numbers = []
        if len(numbers) not in (1, 3) or not all(map(math.isfinite, numbers)):
            self.fail(f"{value!r} is not three numbers; valid: for example 104,116,124", param, ctx)
        first, second, third = numbers * (3 // len(numbers))
        return first, second, third


class DurationType(click.ParamType):
    """`90`, `90s`, `10m`, `1h` or `1h30m`: seconds as a float."""

    name = "TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        match = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s?)?", str(value).strip())
        if match is None or not any(match.groups()):
            self.fail(f"{value!r} is not a duration; valid: 90s, 10m, 1h30m", param, ctx)
        hours, minutes, seconds = (float(part or 0) for part in match.groups())
        return 3600 * hours + 60 * minutes + seconds


def clock(seconds: float) -> str:
    """`1:05`: minutes and seconds."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02}"


def refuse_others(why: str, *allowed: str) -> None:
    """click.UsageError for the first option on the command line that is none of `allowed`, which are names
    of parameters.
    """
    context = click.get_current_context()
    for option in context.command.params:
        given = context.get_parameter_source(str(option.name)) == click.core.ParameterSource.COMMANDLINE
        if given and option.name not in allowed:
            raise click.UsageError(f"{why}: without {option.opts[0]}")
