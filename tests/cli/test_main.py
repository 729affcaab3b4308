"""The entry point: exit codes, one sentence a failure, a light `--help`."""

from __future__ import annotations

import errno
import subprocess
import sys

import click
import pytest

from aqd_deploy.cli import targets as targets_verb
from aqd_deploy.cli.main import VERBS, cli, invoke
from aqd_deploy.cli.output import print_error, progress
from aqd_deploy.errors import AqdError, GateError

HEAVY = ("numpy", "torch", "onnx", "onnxruntime", "tvm", "tvm_ffi", "PIL")


@pytest.fixture
def raising(monkeypatch):
    """Make `aqd-deploy targets` raise an exception."""

    def set_up(error: BaseException) -> None:
        def fail(**_: object) -> None:
            raise error

        monkeypatch.setattr(targets_verb.command, "callback", fail)

    return set_up


def test_help_lists_every_verb(capsys):
    assert invoke(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"\n  {verb} " in out for verb in VERBS)


def test_help_cuts_no_description(capsys):
    assert invoke(["--help"]) == 0
    told = " ".join(capsys.readouterr().out.partition("Commands:")[2].split())
    assert "..." not in told
    assert "Compile a QDQ or integer ONNX file into one self-describing program." in told
    assert "run Run a program (.so), a bundle (a folder), or an integer ONNX file by the reference" in told


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb, capsys):
    assert invoke([verb, "--help"]) == 0
    assert "--debug" in capsys.readouterr().out


def test_help_imports_little():
    """Nothing heavy, and not many modules of ours: what makes it quick on any machine."""
    code = (
        "import sys\nfrom aqd_deploy.cli.main import invoke\ninvoke(['--help'])\n"
        f"heavy = [name for name in {HEAVY!r} if name in sys.modules]\nassert not heavy, heavy\n"
        "ours = [name for name in sys.modules if name.startswith('aqd_deploy')]\n"
        "assert len(ours) < 60, ours\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "nonsense"),
        (["compile"], "MODEL"),
        (["compile", "m.onnx"], "--output"),
        (["export", "fcos_r18", "-o", "x", "--bits", "9"], "--bits"),
        (["export", "fcos_r18", "-o", "x", "--image-size", "big"], "320x480"),
        (["lower", "m.onnx", "-o", "x", "--numerics", "float"], "power-of-two"),
        (["lower", "m.onnx", "-o", "x", "--shape", "320"], "1x3x320x320"),
        (["lower", "m.onnx", "-o", "x", "--shape", "1,3,,320"], "1x3x320x320"),
        (["compile", "m.onnx", "-o", "x", "--shape", "1x3x320x-1"], "1x3x320x320"),
        (["targets", "show"], "NAME"),
    ],
)
def test_usage_errors_exit_with_2(arguments, message, capsys):
    assert invoke(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


def test_typed_errors_become_one_sentence(raising, capsys):
    raising(AqdError("it failed", received="7", valid="1 to 6", next_command="aqd-deploy doctor"))
    assert invoke(["targets"]) == 1
    assert capsys.readouterr().err == "error: it failed; got 7; valid: 1 to 6; try: aqd-deploy doctor\n"


def test_gates_exit_with_3(raising, capsys):
    raising(GateError("too slow"))
    assert invoke(["targets"]) == 3
    assert capsys.readouterr().err == "error: too slow\n"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "out.onnx"),
            "No space left on device: out.onnx; free",
        ),
        (MemoryError(), "out of memory"),
        (
            RuntimeError("first line\nsecond line"),
            "unexpected RuntimeError: first line; try: the same command",
        ),
        (ZeroDivisionError(), "unexpected ZeroDivisionError; try: the same command with --debug"),
    ],
)
def test_unforeseen_errors_become_one_sentence(error, said, raising, capsys):
    raising(error)
    assert invoke(["targets"]) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"error: {said}")
    assert err.count("\n") == 1


def test_debug_shows_the_traceback(raising, capsys):
    raising(RuntimeError("inside"))
    assert invoke(["targets", "--debug"]) == 1
    err = capsys.readouterr().err
    assert "Traceback (most recent call last)" in err
    assert err.strip().endswith("error: unexpected RuntimeError: inside")


def test_interrupt(raising, capsys):
    raising(KeyboardInterrupt())
    assert invoke(["targets"]) == 130
    assert "error: interrupted" in capsys.readouterr().err


def test_a_closed_pipe_is_no_traceback():
    command = f"{sys.executable} -c 'from aqd_deploy.cli.main import main; main()' targets list --json | true"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert "Traceback" not in result.stderr
    assert "Exception ignored" not in result.stderr


class Terminal:
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_name_does_not_move_the_cursor(capsys):
    progress("a\x1b[2J\nb \u2028 ö 猫")
    print_error("c\r\x9bd")
    assert capsys.readouterr().err == "a\\x1b[2J\\nb \\u2028 ö 猫\nerror: c\\r\\x9bd\n"


def test_colour_only_on_a_terminal_without_no_color(monkeypatch):
    from aqd_deploy.cli.output import colour_allowed

    monkeypatch.delenv("NO_COLOR", raising=False)
    assert colour_allowed(Terminal())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not colour_allowed(Terminal())
    assert not colour_allowed(object())


def test_every_parameter_is_documented():
    context = click.Context(cli)
    for verb in VERBS:
        command = cli.get_command(context, verb)
        assert command.help
        options = [p for p in command.params if isinstance(p, click.Option)]
        undocumented = [option.name for option in options if not option.help]
        assert undocumented == []
