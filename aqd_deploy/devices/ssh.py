"""A board that is reached by SSH: the bundle is copied once, file by file, and run there."""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from aqd_deploy.devices import ssh_scripts
from aqd_deploy.devices.bundles import Bundles
from aqd_deploy.devices.device import Device
from aqd_deploy.devices.runner_protocol import (
    CACHE,
    Answer,
    input_files,
    read_answer,
    refusal,
    run_arguments,
)
from aqd_deploy.devices.ssh_client import Reply, SshClient
from aqd_deploy.errors import DeviceError, ProgramError
from aqd_deploy.runtime.bundle_files import LocalBundle
from aqd_deploy.runtime.tensors import random_inputs
from aqd_deploy.targets import architectures

# What a program says of the board's cache, what it means and what to do.
_CACHE_FAILURES = (
    (
        r"No space left on device|[Qq]uota exceeded|File too large",
        "its ~/.cache is full",
        "free some space on the board, then the same command",
    ),
    (
        r"Read-only file system|mkdir: .*(Permission denied|Not a directory|File exists)|cd: .*",
        "its ~/.cache cannot be written",
        f"the same command, once the board's {CACHE} is a link to a folder that can be written",
    ),
)


@dataclass
class _Board:
    """What a board has: its machine (`uname -m`) and the hashes of the files in its cache."""

    machine: str
    files: set[str] = field(default_factory=set)


class SshDevice(Device):
    """Copies what the board does not have yet, runs `aqd-run` there, and brings outputs and times back.

    A connection that is lost ends in a DeviceError; the board stops what ran and removes its temporary files,
    and the same call works again.
    """

    def __init__(self, destination: str, port: int | None = None, bundles: Bundles | None = None) -> None:
        user, at, host = destination.rpartition("@")
        shown = f"[{host}]" if ":" in host else host
        self.text = f"ssh:{user}{at}{shown}" + (f":{port}" if port else "")
        self._client = SshClient(destination, port)
        self._bundles = bundles or Bundles()
        self._board: _Board | None = None

    def run(
        self, program: Path, inputs: Mapping[str, np.ndarray], threads: int | None = None
    ) -> dict[str, np.ndarray]:
        """See `Device`. Raises ProgramError for a board of another architecture."""
        bundle = self._bundles.get(program)
        return self._run(bundle, inputs, 1, 0, threads, want_outputs=True).outputs

    def time(
        self, program: Path, repeats: int = 10, warmup: int = 2, threads: int | None = None
    ) -> list[float]:
        """See `Device`."""
        bundle = self._bundles.get(program)
        inputs = random_inputs(bundle.inputs)
        answer = self._run(bundle, inputs, repeats, warmup, threads, want_outputs=False)
        self.used_threads = answer.threads
        return answer.seconds

    def close(self) -> None:
        """Remove the bundles that were made here. The board keeps their files for the next time."""
        self._bundles.close()

    def _run(
        self,
        bundle: LocalBundle,
        inputs: Mapping[str, np.ndarray],
        repeats: int,
        warmup: int,
        threads: int | None,
        *,
        want_outputs: bool,
    ) -> Answer:
        files = input_files(bundle, inputs)
        hashes = self._copy(bundle)
        files["links"] = "".join(f"{digest} {path}\n" for path, digest in hashes.items()).encode()
        output = "out" if want_outputs else None
        arguments = run_arguments(bundle, ".", output, repeats, warmup, threads)
        archive = _pack(files)
        reply = self._client.call(ssh_scripts.RUN, [str(len(archive)), *arguments], archive)
        self._check(reply, "the program could not be run")
        answer = self._unpack(reply.stdout)
        status = int(answer["status"])
        if status:
            raise refusal(self.text, status, answer["error.txt"].decode(errors="replace"))
        return read_answer(
            self.text,
            answer["result.json"].decode(errors="replace"),
            bundle.outputs,
            (lambda file: answer[f"out/{Path(file).name}"]) if want_outputs else None,
        )

    def _copy(self, bundle: LocalBundle) -> dict[str, str]:
        """Bring the files of a bundle to the board that it does not have. Their SHA-256 by path."""
        contents = {path: file.read_bytes() for path, file in bundle.files().items()}
        hashes = {path: hashlib.sha256(content).hexdigest() for path, content in contents.items()}
        board = self._listed()
        _check_architecture(self.text, bundle, board.machine)
        missing = {
            hashes[path]: content for path, content in contents.items() if hashes[path] not in board.files
        }
        if missing:
            archive = _pack(missing)
            reply = self._client.call(ssh_scripts.COPY, [str(len(archive))], archive)
            self._check(reply, "the program could not be copied")
            board.files |= set(missing)
        return hashes

    def _listed(self) -> _Board:
        """The board as its first listing told, and with what was copied since."""
        if self._board is None:
            reply = self._client.call(ssh_scripts.LIST, [])
            self._check(reply, "the board could not be asked what it has")
            machine, *files = reply.stdout.decode(errors="replace").split()
            self._board = _Board(machine, set(files))
        return self._board

    def _check(self, reply: Reply, what: str) -> None:
        """Raises DeviceError where a script failed; what the board has must be asked again then."""
        if reply.status == 0:
            return
        self._board = None
        raise failed_script(self.text, what, reply)

    def _unpack(self, archive: bytes) -> dict[str, bytes]:
        """The files of a tar archive by name, in memory."""
        try:
            with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
                members = [member for member in tar if member.isfile()]
                return {m.name: file.read() for m in members if (file := tar.extractfile(m)) is not None}
        except tarfile.TarError as error:
            raise DeviceError(
                f"{self.text}: the connection was lost", received=str(error), next_command="the same command"
            ) from error


def failed_script(device: str, what: str, reply: Reply) -> DeviceError:
    """The error for a script that failed on `device`, so that `what` did not happen.

    Programs go on behind the line that says why (tar: "due to previous errors"): the first that tells of the
    board's disk counts, else the last line.
    """
    lines = [line.strip() for line in reply.stderr.splitlines() if line.strip()]
    for pattern, cause, advice in _CACHE_FAILURES:
        told = next((line for line in lines if re.search(pattern, line)), None)
        if told is not None:
            return DeviceError(f"{device}: {what}: {cause}", received=told, next_command=advice)
    return DeviceError(
        f"{device}: {what}",
        received=lines[-1] if lines else f"exit code {reply.status}",
        valid="a POSIX shell with tar, sha256sum and mktemp, and free space in ~/.cache",
    )


def _check_architecture(device: str, bundle: LocalBundle, machine: str) -> None:
    target = bundle.target
    if machine not in architectures.get(target["architecture"]).machines:
        raise ProgramError(
            f"{device} has another CPU than the program's",
            received=f"a program for {target['architecture']} ({target['name']}), a device that is {machine}",
            next_command="aqd-deploy compile MODEL.onnx --target NAME -o PROGRAM.so, with a name of "
            "aqd-deploy targets list",
        )


def _pack(files: Mapping[str, bytes]) -> bytes:
    """A tar archive of files by name."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o600
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()
