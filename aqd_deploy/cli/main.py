"""The entry point: finds the verb, and turns every failure into one sentence and an exit code.

Exit codes: 0 done; 1 failed, with a sentence on stderr; 2 usage; 3 the command ran but a gate failed; 130
interrupted; 143 terminated. Verbs are imported when they are needed, so that `aqd-deploy --help` loads
neither numpy nor torch nor onnx.
"""

from __future__ import annotations

import importlib
import os
import re
import signal
import sys
import traceback
from collections.abc import Sequence

import click

from aqd_deploy import __version__
from aqd_deploy.cli.output import Settings, print_error
from aqd_deploy.errors import AqdError, GateError, line_of
from aqd_deploy.files import NO_ROOM, shown_path

VERBS = (
    "export", "quantize", "lower", "compile", "tune", "package", "run", "detect", "eval", "bench", "inspect",
    "targets", "anchors", "doctor", "demo", "report",
)  # fmt: skip

INTERRUPTED, TERMINATED = 130, 143


class VerbGroup(click.Group):
    """A group whose commands are the modules `aqd_deploy.cli.<verb>`, each with a command `command`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Every verb with its whole first sentence, which click would cut to one line."""
        rows = [(name, _first_sentence(self.get_command(ctx, name))) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        return importlib.import_module(f"aqd_deploy.cli.{cmd_name}").command


def _first_sentence(command: click.Command | None) -> str:
    text = " ".join((command.help or "").split("\n\n")[0].split()) if command is not None else ""
    return re.split(r"(?<=\.)\s", text)[0]


@click.command(
    cls=VerbGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="aqd-deploy")
def cli() -> None:
    """From a quantization-aware-trained detector to a bit-exact integer-only program.

    The way of a model: export (checkpoint to QDQ ONNX), lower (to integer ONNX), compile (to one .so), then
    run, detect, bench. Every step reads and writes an ordinary file. Start with `aqd-deploy demo`.
    """


def invoke(arguments: Sequence[str] | None = None, settings: Settings | None = None) -> int:
    """Run the command line with `arguments` (default: the process's) and return the exit code."""
    settings = settings or Settings()
    try:
        result = cli.main(args=arguments, prog_name="aqd-deploy", standalone_mode=False, obj=settings)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except click.Abort:
        print_error("interrupted")
        return INTERRUPTED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except BrokenPipeError:
        discard_stdout()
        return 1
    except Exception as error:
        if settings.ended_by:
            # The signal's exception crossed C++, which makes another one of it.
            print_error("interrupted")
            return settings.ended_by
        if settings.debug:
            traceback.print_exc()
        print_error(sentence_of(error, settings.debug))
        return 3 if isinstance(error, GateError) else 1


def sentence_of(error: Exception, debug: bool = False) -> str:
    """One sentence for any failure; what the library did not foresee points to --debug."""
    if isinstance(error, AqdError):
        return " ".join(error.sentence().split())
    if isinstance(error, OSError) and error.strerror is not None:
        where = f": {shown_path(error.filename)}" if error.filename else ""
        advice = "; free some space and repeat the command" if error.errno in NO_ROOM else ""
        return f"{error.strerror}{where}{advice}"
    if isinstance(error, MemoryError):
        return "out of memory: what was asked for needs more than this machine has free"
    kind, said = type(error).__name__, line_of(error)
    told = kind if said == kind else f"{kind}: {said}"
    hint = "" if debug else "; try: the same command with --debug"
    return f"unexpected {told}{hint}"


def discard_stdout() -> None:
    """Point stdout to nowhere, so that the interpreter's last flush does not complain about a closed pipe."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main() -> None:
    """Run the command line of this process. A termination request ends it like an exception, so that
    temporary files are removed.
    """
    settings = Settings()

    def interrupt(*_: object) -> None:
        settings.ended_by = INTERRUPTED
        raise KeyboardInterrupt

    def terminate(*_: object) -> None:
        settings.ended_by = TERMINATED
        sys.exit(TERMINATED)

    # Ignored where a shell started us in the background.
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGTERM, terminate)
    code = invoke(settings=settings)
    # All is done but the end of the interpreter, where an exception has nobody to catch it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(settings.ended_by or code)
