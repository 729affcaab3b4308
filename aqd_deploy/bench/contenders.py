"""Who takes part in a measurement: the program, and every variant of every peer that could be opened."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from aqd_deploy.bench.network import Network
from aqd_deploy.bench.peers.contract import Contender, Opened, Peer, Variant
from aqd_deploy.bench.peers.convert import converted
from aqd_deploy.bench.quiet import native_output_hidden
from aqd_deploy.bench.rounds import timed
from aqd_deploy.errors import AqdError, PeerError
from aqd_deploy.runtime.program import Program

OURS = "aqd-deploy"


@dataclass
class Field:
    """Contenders by label and number of threads, seconds of the first run of each, and who is not among them
    and why. `convolutions` as the peer tells them, by label (`Opened`).
    """

    contenders: dict[tuple[str, int], Contender] = field(default_factory=dict)
    first: dict[tuple[str, int], float] = field(default_factory=dict)
    variants: dict[str, tuple[Peer, Variant]] = field(default_factory=dict)
    convolutions: dict[str, Mapping[str, int] | None] = field(default_factory=dict)
    failed: list[dict[str, str]] = field(default_factory=list)
    missing: list[dict[str, str]] = field(default_factory=list)


def program_contender(program: Program, network: Network | None, threads: int) -> Contender:
    """The program on `threads` threads, on the peers' image where it has one."""
    inputs = program.random_inputs()
    (info, *others) = program.inputs
    if network is not None and not others:
        image = np.ascontiguousarray(network.codes)
        if (image.shape, str(image.dtype)) == (info.shape, info.dtype):
            inputs = {info.name: image}

    def run() -> object:
        program.threads = threads
        return program.run(inputs)

    return run


def add_peer(
    into: Field, peer: Peer, network: Network, threads: list[int], progress: Callable[[str], None]
) -> None:
    """Convert, open and try every variant of `peer` for `network`; what fails is listed, never raised."""
    variants: tuple[Variant, ...] = peer.variants
    if network.is_quantized:
        variants = () if peer.quantized is None else (peer.quantized,)
    if not variants:
        into.failed.append({"contender": peer.name, "reason": "it reads no quantized ONNX file"})
    for variant in variants:
        label = f"{peer.name} {variant.name}"
        if not variant.installed():
            into.missing.append({"peer": label, "next_command": peer.install})
            continue
        progress(f"preparing {label}")
        try:
            opened = {count: _open(variant, network, count) for count in threads}
        except PeerError as error:
            into.failed.append({"contender": label, "reason": error.sentence()})
            continue
        into.variants[label] = peer, variant
        into.convolutions[label] = opened[threads[0]][0].convolutions
        for count, (each, seconds) in opened.items():
            into.contenders[label, count] = each.run
            into.first[label, count] = seconds


def _open(variant: Variant, network: Network, threads: int) -> tuple[Opened, float]:
    """The variant after one run, and the seconds of that. PeerError for whatever the runtime raises."""
    path = network.model if variant.conversion is None else converted(variant.conversion, network)
    with native_output_hidden() as written:
        try:
            opened = variant.open(path, network, threads)
            seconds = timed(opened.run)
        except Exception as error:  # each runtime has its own
            if isinstance(error, AqdError):
                raise PeerError(error.what, received=_last_line(written()) or error.received) from error
            told = f"{type(error).__name__}: {_last_line(str(error)) or _last_line(written())}"
            raise PeerError("it cannot run the network", received=told) from error
    return opened, seconds


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else ""


def describe(taking_part: Field) -> list[dict[str, Any]]:
    """Label, peer, variant, what the variant is and which kernels it says it runs, of every peer's
    contender.
    """
    return [
        {
            "contender": label,
            "peer": peer.name,
            "form": variant.name,
            "int8": variant.is_int8,
            "what": variant.what,
            "convolutions": taking_part.convolutions[label],
        }
        for label, (peer, variant) in taking_part.variants.items()
    ]
