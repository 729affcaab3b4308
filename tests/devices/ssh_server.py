"""A real OpenSSH server on the loopback address, with keys, home and cache of its own."""

from __future__ import annotations

import getpass
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from needs import find_tool

_CONFIG = """
HostKey {folder}/host_key
PidFile {folder}/sshd.pid
AuthorizedKeysFile {folder}/authorized_keys
ListenAddress 127.0.0.1
Port {port}
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin yes
SetEnv XDG_CACHE_HOME={folder}/home
"""


@dataclass
class SshServer:
    """A running server; `options` are what AQD_DEPLOY_SSH_OPTIONS must hold for it."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes]

    @property
    def destination(self) -> str:
        return f"{getpass.getuser()}@127.0.0.1"

    @property
    def device(self) -> str:
        return f"ssh:{self.destination}:{self.port}"

    @property
    def options(self) -> str:
        return self.options_with("user_key", "known_hosts")

    def options_with(self, key: str, known_hosts: str) -> str:
        folder = self.folder
        return (
            f"-F /dev/null -i {folder}/{key} -o IdentitiesOnly=yes -o IdentityAgent=none "
            f"-o UserKnownHostsFile={folder}/{known_hosts} -o GlobalKnownHostsFile=/dev/null"
        )

    @property
    def cache(self) -> Path:
        return self.folder / "home" / "aqd-deploy"

    def cut(self) -> None:
        """Kill the processes that serve connections, as a lost connection would."""
        for child in psutil.Process(self.process.pid).children(recursive=True):
            # One may go with the one before it.
            with suppress(psutil.NoSuchProcess):
                if child.name() == "sshd":
                    child.kill()


@contextmanager
def ssh_server(folder: Path) -> Iterator[SshServer]:
    """Set a server up in `folder` and run it."""
    for name in ("host_key", "user_key", "other_key"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(folder / name)], check=True
        )
    (folder / "authorized_keys").write_text((folder / "user_key.pub").read_text())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for known, key in (("known_hosts", "host_key"), ("wrong_hosts", "other_key")):
        (folder / known).write_text(f"[127.0.0.1]:{port} {(folder / f'{key}.pub').read_text()}")
    (folder / "no_hosts").write_text("")
    (folder / "sshd_config").write_text(_CONFIG.format(folder=folder, port=port))
    if os.getuid() == 0:
        # sshd keeps its unprivileged half there and will not make it itself.
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    command = [find_tool("needs_sshd"), "-D", "-e", "-f", str(folder / "sshd_config")]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stderr=log)
    try:
        _wait_for(process, port, folder / "log")
        yield SshServer(folder, port, process)
    finally:
        for child in psutil.Process(process.pid).children(recursive=True):
            child.kill()
        process.kill()
        process.wait()


def _wait_for(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    for _ in range(200):
        assert process.poll() is None, log.read_text()
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise TimeoutError(log.read_text())
