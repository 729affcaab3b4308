"""aqd_deploy.processes: commands answer as without it, and end with the process that started them."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
from kills import Sandbox

from aqd_deploy import processes


@pytest.fixture
def sandbox(tmp_path):
    return Sandbox(tmp_path / "sandbox")


@pytest.mark.parametrize(
    ("script", "status"),
    [
        ("exit 0", 0),
        ("exit 3", 3),
        ("exit 255", 255),
        ("kill -SEGV $$", -11),
        ("exit 130", 130),
        ("exit 137", 137),
        ("exit 147", 147),
    ],
)
def test_how_a_command_ends(script, status):
    assert processes.run(["sh", "-c", script]).returncode == status


def test_what_a_command_leaves_behind_is_killed(sandbox, monkeypatch):
    monkeypatch.setenv(*sandbox.mark.split("="))
    assert processes.run(["sh", "-c", "exec > /dev/null 2>&1; sleep 100 & exit 7"]).returncode == 7
    sandbox.wait_for(lambda: not sandbox.processes(), 2, "no process")


def test_what_it_prints_and_reads(tmp_path):
    done = processes.run(["sh", "-c", "cat; echo error >&2; pwd"], input="text\n", cwd=tmp_path)
    assert (done.stdout, done.stderr) == (f"text\n{tmp_path}\n", "error\n")


def test_where_its_temporary_files_go(tmp_path):
    assert processes.run(["sh", "-c", "echo $TMPDIR"], temporary=tmp_path).stdout == f"{tmp_path}\n"


def test_there_is_no_such_command():
    with pytest.raises(FileNotFoundError, match="aqd-nonsense"):
        processes.run(["aqd-nonsense"])


def test_after_the_time_limit_nothing_runs(sandbox, monkeypatch):
    name, value = sandbox.mark.split("=")
    monkeypatch.setenv(name, value)
    started = time.monotonic()
    with pytest.raises(subprocess.TimeoutExpired):
        processes.run(["sh", "-c", "sleep 100 & sleep 100"], timeout=0.3)
    assert time.monotonic() - started < 10
    sandbox.wait_for(lambda: not sandbox.processes(), 2, "no process")


@pytest.mark.parametrize("statement", [
    "processes.run(['sh', '-c', 'sleep 100 & sleep 100'])",
    "from concurrent.futures import ThreadPoolExecutor as Threads\n"
    "with Threads(2) as threads:\n    list(threads.map(lambda _: processes.run(['sleep', '100']), range(4)))",
])  # fmt: skip
def test_a_killed_process_takes_all_with_it(sandbox, statement):
    process = sandbox.start(["-c", f"from aqd_deploy import processes\n{statement}"])
    sandbox.wait_for(
        lambda: sum("sleep 100" in line for line in sandbox.processes()) >= 2, 60, "two sleepers"
    )
    process.kill()
    process.communicate()
    sandbox.wait_for(lambda: not sandbox.processes(), 2, "no process")


def test_a_child_binds_itself(sandbox):
    """Also where it never looks at a pipe again."""
    child = (
        "import sys, time\nfrom aqd_deploy.processes import end_with_parent\n"
        "end_with_parent(int(sys.argv[1]))\nprint('bound', flush=True)\ntime.sleep(100)\n"
    )
    code = (
        f"import os, subprocess, sys\nsubprocess.run([sys.executable, '-c', {child!r}, str(os.getpid())])\n"
    )
    process = sandbox.start(["-c", code])
    assert process.stdout.readline() == "bound\n"
    process.kill()
    sandbox.wait_for(lambda: not sandbox.processes(), 2, "no process")
    process.communicate()


def test_a_child_whose_parent_has_gone(sandbox):
    # No process has this id.
    code = "from aqd_deploy.processes import end_with_parent\nend_with_parent(1 << 22)\nprint('here')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
