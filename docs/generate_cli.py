"""Writes docs/cli.md from the command line's own help.

python docs/generate_cli.py          # write it
python docs/generate_cli.py --check  # exit with 1 where it is out of date
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from aqd_deploy.cli.main import VERBS, cli

PAGE = Path(__file__).parent / "cli.md"
HEADER = """# Command line

Made by `python docs/generate_cli.py` from the help texts; change those.

`-o a/b/c` makes the folders `a` and `a/b` where they are not there; a command that fails leaves none.

stdout is data (with `--json` exactly one JSON document), stderr is progress. `NO_COLOR` is respected.

Outputs are made in a hidden folder `.aqd-deploy-*` beside them, and renamed: a killed command leaves the old
file or the new one, and every process that it started ends with it. Ctrl-C and SIGTERM remove what is
temporary. What a command leaves that was killed (SIGKILL, a loss of power) is removed by the next one that
writes to the same folder; in a folder that several hosts share, the other hosts remove it after a week.

| exit code | |
|---|---|
| 0 | done |
| 1 | failed; one sentence on stderr says what, the value received, the valid choices and the next command |
| 2 | usage |
| 3 | the command ran, but a gate failed: a differing integer (`run`, `demo`) or a limit (`bench`, `eval`) |
| 130 | interrupted (SIGINT, Ctrl-C) |
| 143 | terminated (SIGTERM) |

`--debug` behind any verb shows the traceback of a failure.
"""


def page() -> str:
    """The Markdown text."""
    context = click.Context(cli, info_name="aqd-deploy", **cli.context_settings)
    parts = [HEADER]
    for name in VERBS:
        command = cli.get_command(context, name)
        assert command is not None
        inner = click.Context(
            command, info_name=name, parent=context, terminal_width=100, max_content_width=100
        )
        parts.append(f"## {name}\n\n```\n{command.get_help(inner)}\n```\n")
    return "\n".join(parts)


def main(arguments: list[str]) -> int:
    """Write the page, or compare it."""
    if "--check" in arguments:
        current = PAGE.exists() and PAGE.read_text(encoding="utf-8") == page()
        return 0 if current else 1
    PAGE.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
