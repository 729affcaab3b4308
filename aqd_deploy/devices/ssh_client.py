"""One command over one connection of the OpenSSH client, and its failures as sentences.

The client brings the user's keys, configuration, jump hosts and known hosts. It never asks: what it would ask
for becomes an error that says what to type. AQD_DEPLOY_SSH_OPTIONS holds options to put before all others,
for example `-i ~/.ssh/board -o UserKnownHostsFile=boards`.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import threading
from dataclasses import dataclass
from typing import IO

from aqd_deploy import processes
from aqd_deploy.errors import DeviceError, MissingExtraError

OPTIONS_VARIABLE = "AQD_DEPLOY_SSH_OPTIONS"
# Without a sign of life for 15 s a connection counts as lost. A shared master would keep our pipes open.
_OPTIONS = (
    "BatchMode=yes",
    "ConnectTimeout=10",
    "ServerAliveInterval=5",
    "ServerAliveCountMax=3",
    "ControlPath=none",
    "ClearAllForwardings=yes",
    "LogLevel=ERROR",
)
# The client's own failures; everything else is the command's exit code.
_CLIENT_FAILED = 255
# What comes before it on stdout is the login shell's.
MARK = b"AQD-DEPLOY\n"

# Text of the client, what it means, and what to do; the first that is found counts. {0} is `user@host`, {1}
# its port as an option.
_FAILURES = (
    (
        r"REMOTE HOST IDENTIFICATION HAS CHANGED|Host key verification failed|host key is known",
        "the board's host key is not the known one, or not known yet",
        "ssh {1}{0}, and compare the fingerprint; ssh-keygen -R HOST forgets an old key",
    ),
    (
        r"Permission denied|Too many authentication failures|Load key|No such identity",
        "the board does not accept this key",
        "ssh-copy-id {1}{0}, or name the key in " + OPTIONS_VARIABLE + "='-i FILE'",
    ),
    (
        r"Could not resolve hostname",
        "the board's name is unknown here",
        "the same command with the board's address",
    ),
    (
        r"Connection refused",
        "the board is there but nothing listens on that port",
        "start sshd on the board, or name its port: ssh:{0}:PORT",
    ),
    (
        r"connect to host.*(timed out|No route to host|unreachable)|timed out during banner",
        "the board cannot be reached",
        "ping it, then repeat the command",
    ),
)
_LOST = ("the connection was lost", "the same command: nothing was left behind")


@dataclass(frozen=True)
class Reply:
    """What a remote command left: its exit code, stdout behind `MARK` (empty without one) and stderr."""

    status: int
    stdout: bytes
    stderr: str


@dataclass(frozen=True)
class SshClient:
    """A board: `user@host` or a name of the user's ssh configuration, and a port or None."""

    destination: str
    port: int | None = None

    def call(self, script: str, arguments: list[str], data: bytes = b"") -> Reply:
        """Run a POSIX shell script with positional `arguments` on the board and write `data` to its stdin,
        which stays open until the script has ended: its end tells the script that the connection is lost.

        Raises DeviceError where the board cannot be reached, refuses us, or the connection is lost;
        MissingExtraError where there is no OpenSSH client.
        """
        command = shlex.join(["/bin/sh", "-c", script, "aqd-deploy", *arguments])
        with processes.started(
            [*self._client(), "--", self.destination, command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "LC_ALL": "C"},
        ) as process:
            assert process.stdin is not None and process.stdout is not None and process.stderr is not None
            told: list[bytes] = []
            threads = [
                threading.Thread(target=_write, args=(process.stdin, data), daemon=True),
                threading.Thread(target=_collect, args=(process.stderr, told), daemon=True),
            ]
            for thread in threads:
                thread.start()
            stdout = process.stdout.read()
            # Nothing more comes: the script has ended, and a writer that still waits has no reader.
            status = process.wait()
            for thread in threads:
                thread.join()
        stderr = b"".join(told).decode(errors="replace")
        if status == _CLIENT_FAILED or status < 0:
            raise self._failure(stderr)
        return Reply(status, stdout.partition(MARK)[2], stderr)

    def _client(self) -> list[str]:
        command = [client(), *shlex.split(os.environ.get(OPTIONS_VARIABLE, "")), "-T", "-a", "-x"]
        for option in _OPTIONS:
            command += ["-o", option]
        return command if self.port is None else [*command, "-p", str(self.port)]

    def _failure(self, stderr: str) -> DeviceError:
        lines = [line.strip() for line in stderr.splitlines() if line.strip()]
        what, advice = next(
            ((what, advice) for pattern, what, advice in _FAILURES if re.search(pattern, stderr)), _LOST
        )
        port = "" if self.port is None else f":{self.port}"
        return DeviceError(
            f"ssh:{self.destination}{port}: {what}",
            received=lines[-1] if lines else "no message",
            next_command=advice.format(self.destination, f"-p {self.port} " if self.port else ""),
        )


def client() -> str:
    """The path of the OpenSSH client. Raises MissingExtraError where it is not installed."""
    path = shutil.which("ssh")
    if path is None:
        raise MissingExtraError(
            "devices like ssh:USER@HOST need the OpenSSH client",
            next_command="apt-get install openssh-client",
        )
    return path


def _write(stream: IO[bytes], data: bytes) -> None:
    try:
        stream.write(data)
        stream.flush()
    except OSError:
        # The script ended before it read everything; its exit code says why.
        return


def _collect(stream: IO[bytes], into: list[bytes]) -> None:
    into.append(stream.read())
