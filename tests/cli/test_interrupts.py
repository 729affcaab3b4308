"""Ctrl-C ends every verb with one sentence and 130, from the first import to the last moment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

WAIT = "import time\nprint('here', flush=True)\ntime.sleep(60)\n"
# As TVM and numpy do with an exception that crosses C.
LOST = (
    "import time\nprint('here', flush=True)\n"
    "try:\n    time.sleep(60)\nexcept BaseException:\n    raise ImportError('lost')\n"
)


@pytest.fixture
def interrupted(tmp_path):
    """A function that runs a verb with stand-ins for modules, and sends it a signal when one says `here`;
    returns the exit code and what the verb said. click begins a new line.
    """

    def call(modules, *words, number=signal.SIGINT):
        for name, text in modules.items():
            (tmp_path / f"{name}.py").write_text(text)
        process = subprocess.Popen(
            [sys.executable, "-m", "aqd_deploy", *map(str, words)],
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # Tests that run in the background of a shell would hand on that it is ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        assert process.stdout.readline() == "here\n"
        process.send_signal(number)
        said = process.communicate(timeout=30)[1]
        return process.returncode, said.strip()

    return call


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_before_there_is_a_command_line(interrupted, number):
    """`click` is what the first line of every verb needs."""
    ended = interrupted({"click": WAIT}, "targets", number=number)
    assert ended == ((130, "error: interrupted") if number == signal.SIGINT else (-signal.SIGTERM, ""))


@pytest.mark.parametrize(
    "words",
    [
        ("run", "m.so", "--input", "x.npz"),
        ("inspect", "m.so"),
        ("bench", "m.so"),
        ("detect", "m.so", "x.png", "-o", "boxes"),
    ],
)
def test_while_a_verb_imports(interrupted, words):
    assert interrupted({"numpy": WAIT}, *words) == (130, "error: interrupted")


def test_an_interrupt_that_an_import_loses(interrupted, tmp_path):
    code, said = interrupted({"numpy": LOST}, "inspect", tmp_path / "m.so")
    assert (code, said) == (130, "error: interrupted")


def test_when_all_is_done(interrupted):
    """The work is, and its exit code stands."""
    ending = "import atexit, sys, time\natexit.register(lambda: (print('here', flush=True), time.sleep(2)))\n"
    code, said = interrupted({"sitecustomize": ending}, "--no-such-option")
    assert code == 2 and "No such option" in said and "Traceback" not in said and "ignored" not in said
