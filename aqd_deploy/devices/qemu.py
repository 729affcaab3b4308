"""User-mode emulation: a program for another CPU runs here, instruction by instruction.

It proves which integers come out and that the CPU has every instruction of the program; an emulated chip that
lacks one stops as the real one would. It says nothing about speed.
"""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from aqd_deploy import processes
from aqd_deploy.devices.bundles import Bundles
from aqd_deploy.devices.device import Device
from aqd_deploy.devices.runner_protocol import input_files, read_answer, refusal, run_arguments
from aqd_deploy.errors import DeviceError, MissingExtraError, ProgramError
from aqd_deploy.files import TemporaryFolder
from aqd_deploy.runtime.bundle_files import RUNNER, LocalBundle
from aqd_deploy.targets import architectures
from aqd_deploy.targets.architectures import Emulation

# What programs and TVM's runtime are linked with.
_LIBRARIES = ("libc.so.6", "libstdc++.so.6")


class QemuDevice(Device):
    """Runs the bundle of a program under `qemu-ARCH`, as `cpu` or as the CPU that the program is for."""

    def __init__(self, cpu: str | None = None, bundles: Bundles | None = None) -> None:
        self.text = f"qemu:{cpu}" if cpu else "qemu"
        self.cpu = cpu
        self._bundles = bundles or Bundles()

    def run(
        self, program: Path, inputs: Mapping[str, np.ndarray], threads: int | None = None
    ) -> dict[str, np.ndarray]:
        """See `Device`. Raises MissingExtraError where qemu or the libraries of the architecture are missing,
        DeviceError where the CPU cannot be emulated or lacks what the program needs.
        """
        bundle = self._bundles.get(program)
        command = _command(bundle.target, self.cpu)
        temporary = TemporaryFolder()
        with temporary as folder:
            with temporary.writing():
                for file, data in input_files(bundle, inputs).items():
                    (folder / file).write_bytes(data)
            output = folder / "out"
            output.mkdir()
            arguments = run_arguments(bundle, str(folder), str(output), 1, 0, threads)
            done = processes.run([*command, bundle.folder / RUNNER, *arguments], temporary=folder)
            if done.returncode:
                raise self._refusal(bundle, done.returncode, done.stderr)
            answer = read_answer(
                self.text, done.stdout, bundle.outputs, lambda file: (output / Path(file).name).read_bytes()
            )
        return answer.outputs

    def time(self, program: Path, repeats: int = 10, warmup: int = 2, threads: int | None = None) -> NoReturn:
        """Raises DeviceError: emulated times mean nothing."""
        self.check_times()

    def check_times(self) -> NoReturn:
        """Raises DeviceError: emulated times mean nothing."""
        raise DeviceError(
            "times under emulation say nothing about the chip, so they are not measured",
            received=self.text,
            valid="a board (ssh:USER@HOST, rpc:HOST:PORT/KEY), or an estimate (bench --estimate)",
            next_command="aqd-deploy bench PROGRAM.so --device ssh:USER@HOST",
        )

    def close(self) -> None:
        """Remove the bundles that were made."""
        self._bundles.close()

    def _refusal(self, bundle: LocalBundle, status: int, stderr: str) -> DeviceError:
        # What qemu adds behind a crash only repeats the signal.
        told = "\n".join(line for line in stderr.splitlines() if not line.startswith("qemu: uncaught"))
        return refusal(f"{self.text} ({bundle.target['name']})", status, told)


def _command(target: Mapping[str, Any], cpu: str | None) -> list[str]:
    """The beginning of the command that runs an executable for `target`."""
    architecture = target["architecture"]
    path = emulator(architecture)
    libraries = library_folder(architecture)
    options = [] if libraries is None else ["-L", str(libraries)]
    return [path, "-cpu", _model(path, target, _emulation(architecture), cpu), *options]


def needs(architecture: str) -> dict[str, Callable[[], str]]:
    """What emulating an architecture takes, by name: where it is, or a MissingExtraError; nothing where the
    architecture is not emulated. Raises TargetError for an unknown one.
    """
    if architectures.get(architecture).emulation is None:
        return {}
    return {"emulator": lambda: emulator(architecture), "its libraries": lambda: _libraries(architecture)}


def _libraries(architecture: str) -> str:
    folder = library_folder(architecture)
    return "where QEMU_LD_PREFIX says" if folder is None else str(folder)


def _emulation(architecture: str) -> Emulation:
    found = architectures.get(architecture).emulation
    if found is None:
        raise ProgramError(
            "programs for this architecture are not emulated",
            received=f"a program for {architecture}",
            valid=", ".join(architectures.emulated()),
            next_command="the same command without --device",
        )
    return found


def emulator(architecture: str) -> str:
    """The path of qemu for an architecture. Raises ProgramError for one that is not emulated, TargetError for
    an unknown one, MissingExtraError where qemu is not installed.
    """
    emulation = _emulation(architecture)
    names = (f"qemu-{emulation.qemu}-static", f"qemu-{emulation.qemu}")
    path = next((found for name in names if (found := shutil.which(name))), None)
    if path is None:
        raise MissingExtraError(
            f"emulating {architecture} needs {' or '.join(names)}",
            next_command="apt-get install qemu-user-static",
        )
    return path


def library_folder(architecture: str) -> Path | None:
    """The folder below which an emulated program finds its libraries, of Debian's cross packages; None where
    QEMU_LD_PREFIX tells qemu. Raises MissingExtraError where they are not installed.
    """
    if os.environ.get("QEMU_LD_PREFIX"):
        return None
    triple = architectures.get(architecture).gnu_triple
    sysroot = Path("/usr") / triple
    if not all((sysroot / "lib" / name).exists() for name in _LIBRARIES):
        raise MissingExtraError(
            f"the libraries of {triple} are missing",
            valid=f"{sysroot}, or the folder that QEMU_LD_PREFIX names",
            next_command=f"apt-get install {_emulation(architecture).libraries}",
        )
    return sysroot


def _model(path: str, target: Mapping[str, Any], emulation: Emulation, cpu: str | None) -> str:
    """The CPU to emulate: `cpu`, or the target's own, or the model with its features."""
    known = _models(path)
    if cpu is not None:
        if cpu.split(",")[0] not in known:
            raise DeviceError(
                "unknown CPU of qemu",
                received=cpu,
                valid=", ".join(sorted(known)),
                next_command=f"{path} -cpu help",
            )
        return cpu
    if target["cpu"] in known:
        return str(target["cpu"])
    features = {*target["features"], ""}
    return next(model for feature, model in emulation.models if feature in features)


@functools.cache
def _models(path: str) -> frozenset[str]:
    """The names that `-cpu help` lists."""
    told = processes.run([path, "-cpu", "help"]).stdout
    return frozenset(line.split()[0] for line in told.splitlines() if line.startswith(" ") and line.strip())
