"""Conversions in processes of their own: converters print, import much, and some end in a signal.

python -m aqd_deploy.bench.peers.convert NAME NETWORK_FOLDER OUTPUT_FOLDER
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from aqd_deploy import processes
from aqd_deploy.bench.network import Network
from aqd_deploy.bench.peers.contract import Conversion
from aqd_deploy.environment import installed_version
from aqd_deploy.errors import AqdError, PeerError
from aqd_deploy.files import TemporaryFolder, made_once

TIMEOUT_SECONDS = 1800
_FAILED = "conversion failed: "


def converted(conversion: Conversion, network: Network) -> Path:
    """The folder with the converted model, beside the network; made if it is not there.

    Its name holds the versions it depends on. Raises PeerError where the converter fails.
    """
    versions = "-".join(f"{name}-{installed_version(name)}" for name in conversion.packages)
    target = network.folder / f"{conversion.name}--{versions}"
    return made_once(target, lambda folder: _run(conversion.name, network.folder, folder))


def _run(name: str, network: Path, output: Path) -> None:
    command = [sys.executable, "-m", "aqd_deploy.bench.peers.convert", name, str(network), str(output)]
    try:
        with TemporaryFolder() as temporary:
            done = processes.run(command, temporary=temporary, timeout=TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise PeerError("the conversion takes too long", received=f"{TIMEOUT_SECONDS} s") from error
    if done.returncode:
        raise PeerError("the network could not be converted", received=_reason(done))


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    """What the child said of its failure: its own sentence, the signal that ended it, or its last line."""
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    said = next((line for line in reversed(lines) if line.startswith(_FAILED)), "")
    if said:
        return said.removeprefix(_FAILED)
    last = lines[-1].strip()[:200] if lines else "no message"
    if done.returncode < 0:
        return f"signal {signal.Signals(-done.returncode).name}, {last}"
    return last


def main(arguments: list[str]) -> int:
    """Run one conversion; a failure is the last line of stderr."""
    from aqd_deploy.bench.peers import conversions

    name, network, output = arguments
    try:
        conversions()[name].make(Network(Path(network).resolve()), Path(output).resolve())
    except Exception as error:  # whatever a foreign converter raises
        text = error.sentence() if isinstance(error, AqdError) else f"{type(error).__name__}: {error}"
        print(_FAILED + " ".join(text.split())[:300], file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
