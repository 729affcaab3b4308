"""What a board says of its own disk becomes the sentence, whatever else is said behind it."""

import os
import subprocess

import pytest

from aqd_deploy.devices import ssh_scripts
from aqd_deploy.devices.runner_protocol import refusal
from aqd_deploy.devices.ssh import failed_script
from aqd_deploy.devices.ssh_client import Reply

TAR = """tar: 0f3a: Cannot write: No space left on device
tar: Exiting with failure status due to previous errors
"""


@pytest.mark.parametrize(
    ("stderr", "cause", "told"),
    [
        (TAR, "its ~/.cache is full", "tar: 0f3a: Cannot write: No space left on device"),
        ("tar: short read\n/c: No space left on device\n", "is full", "/c: No space left on device"),
        (
            "tar: a: Cannot open: Disk quota exceeded\nx\n",
            "is full",
            "tar: a: Cannot open: Disk quota exceeded",
        ),
        (
            "mkdir: cannot create directory '/r': Read-only file system\n",
            "cannot be written",
            "mkdir: cannot",
        ),
        ("mkdir: can't create directory '/r': Permission denied\n", "cannot be written", "mkdir: can't"),
        ("mkdir: cannot create directory '/r': File exists\n", "cannot be written", "mkdir: cannot"),
        ("sh: tar: not found\n", "", "sh: tar: not found; valid: a POSIX shell with tar"),
    ],
)
def test_the_line_that_tells_why(stderr, cause, told):
    sentence = failed_script(
        "ssh:pi@board", "the program could not be copied", Reply(2, b"", stderr)
    ).sentence()
    assert sentence.startswith("ssh:pi@board: the program could not be copied")
    assert cause in sentence and f"; got {told}" in sentence
    assert "previous errors" not in sentence


def test_a_cache_that_forbids_to_execute():
    sentence = refusal("ssh:pi@board", 126, "/bin/sh: 1: bundle/aqd-run: Permission denied\n").sentence()
    assert "noexec" in sentence and "~/.cache/aqd-deploy is a link to a folder" in sentence
    assert "another kind of system" not in sentence
    sentence = refusal("ssh:pi@board", 126, "sh: bundle/aqd-run: Exec format error\n").sentence()
    assert "another kind of system" in sentence


def test_a_shell_that_only_says_that_a_write_failed(tmp_path):
    """As dash does: the script asks how full the disk is. `df` and `tar` are ours."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, body in {
        "tar": "exit 2",
        "df": "echo Filesystem blocks used available; echo tmpfs 200 200 0 100% /c",
    }.items():
        (tools / name).write_text(f"#!/bin/sh\n{body}\n")
        (tools / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "XDG_CACHE_HOME": str(tmp_path)}
    command = ["/bin/sh", "-c", ssh_scripts.COPY, "aqd-deploy", "4"]
    done = subprocess.run(command, input="data", env=environment, capture_output=True, text=True)
    assert done.returncode != 0 and f"{tmp_path}/aqd-deploy: No space left on device" in done.stderr
    assert list((tmp_path / "aqd-deploy").iterdir()) == []
