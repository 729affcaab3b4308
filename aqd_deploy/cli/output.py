"""What verbs print: data on stdout, progress and errors on stderr; and the option every verb has, --debug."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click

from aqd_deploy.files import naming

# Control characters, line and paragraph separators.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


@dataclass
class Settings:
    """What holds for a whole invocation."""

    debug: bool = False
    # The exit code that a signal asked for, set when it came.
    ended_by: int = 0


def _set_debug(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
    settings = ctx.find_root().obj
    if isinstance(settings, Settings):
        settings.debug = value


class Verb(click.Command):
    """A command whose last option is `--debug`."""

    def __init__(self, name: str | None, **attributes: Any) -> None:
        debug = click.Option(
            ["--debug"],
            is_flag=True,
            expose_value=False,
            is_eager=True,
            callback=_set_debug,
            help="Show the traceback of a failure.",
        )
        attributes["params"] = [*(attributes.get("params") or []), debug]
        super().__init__(name, **attributes)


def verb(**attributes: Any) -> Callable[[Callable[..., Any]], click.Command]:
    """The decorator of every verb."""
    return click.command(cls=Verb, **attributes)


def colour_allowed(stream: Any) -> bool:
    """Colour only on a terminal, and never where NO_COLOR is set (https://no-color.org)."""
    return not os.environ.get("NO_COLOR") and hasattr(stream, "isatty") and stream.isatty()


def print_error(sentence: str) -> None:
    """`error: ...` on stderr."""
    label = click.style("error:", fg="red", bold=True) if colour_allowed(sys.stderr) else "error:"
    click.echo(f"{label} {_one_line(sentence)}", err=True, color=colour_allowed(sys.stderr))


def progress(message: str) -> None:
    """A line for the person who waits, on stderr."""
    click.echo(_one_line(message), err=True)


def _one_line(text: str) -> str:
    """With what would move a terminal's cursor written out: a file's name may hold it."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class StatusLine:
    """A line on stderr that is rewritten, for whoever waits at a terminal; elsewhere nothing. Use it with
    `with`.
    """

    def __init__(self) -> None:
        self.shown = sys.stderr.isatty()
        self._width = 0

    def show(self, text: str) -> None:
        """Put `text`, or what fits of it, in the place of what was there."""
        if self.shown:
            text = text[: shutil.get_terminal_size().columns - 1]
            click.echo("\r" + text.ljust(self._width), nl=False, err=True)
            self._width = len(text)

    def __enter__(self) -> StatusLine:
        return self

    def clear(self) -> None:
        """Remove the line, so that others may be written in its place."""
        if self._width:
            click.echo("\r" + " " * self._width + "\r", nl=False, err=True)
            self._width = 0

    def __exit__(self, *_: object) -> None:
        self.clear()


def print_json(document: Any) -> None:
    """The one JSON document of a verb, on stdout. NaN is not JSON and raises ValueError."""
    print_text(json.dumps(document, indent=2, allow_nan=False))


def print_text(text: str) -> None:
    """The result of a verb, on stdout. Raises OSError, which names it."""
    with naming("standard output"):
        click.echo(text)
