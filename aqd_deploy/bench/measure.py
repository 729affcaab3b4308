"""A program and its peers measured in one run: the work behind `aqd-deploy bench`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aqd_deploy.bench.busyness import Watch
from aqd_deploy.bench.contenders import OURS, Field, add_peer, describe, program_contender
from aqd_deploy.bench.document import bench_document, measured_with
from aqd_deploy.bench.layers import Roof, between_layers, family_totals, layer_table
from aqd_deploy.bench.network import Network
from aqd_deploy.bench.peers import choose_peers
from aqd_deploy.bench.peers.contract import Peer
from aqd_deploy.bench.rounds import interleave, timed
from aqd_deploy.bench.workspace import network_folder
from aqd_deploy.environment import environment, installed_version
from aqd_deploy.runtime.program import Program
from aqd_deploy.targets.threads import thread_limits

if TYPE_CHECKING:
    from aqd_deploy.bench.bandwidth import Reading
    from aqd_deploy.bench.peak import Probe

Key = tuple[str, int]


@dataclass
class _Beside:
    """What takes its turn in the rounds without being a contender: profiles of layers, peak probes,
    and readings of memory.
    """

    profiles: dict[int, list[list[tuple[str, float]]]] = field(default_factory=dict)
    probes: dict[Key, Probe] = field(default_factory=dict)
    readings: dict[Key, Reading] = field(default_factory=dict)


def bench(
    program: Path,
    *,
    against: list[str] | None = None,
    model: Path | None = None,
    threads: list[int] | None = None,
    rounds: int = 10,
    runs: int = 3,
    images: np.ndarray | None = None,
    layers: bool = False,
    memory: bool = False,
    keep: Path | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Latency of `program` and of every network of the peers in `against`, on the same network and image.

    `threads` are the numbers of threads to measure, by default the program's own; each is brought down to
    what the program uses of it (`Program.used_threads`), and the peers get that number, too. `images` (uint8
    [n, 3, H, W]) calibrate the peers' INT8 networks and the first is the input; textures do without. `layers`
    adds the layer table and the machine's roof, `memory` what fresh processes take, `keep` is a folder for
    the peers' models. Returns a JSON-able document (docs/report.md). Raises ProgramError for the program,
    AqdError for an unknown peer or where the QDQ file is missing; a peer that fails is listed.
    """
    peers, missing = choose_peers(against or [])
    loaded = Program.load(program)
    counts = list(dict.fromkeys([loaded.used_threads(count) for count in threads or []] or [loaded.threads]))
    taking_part = Field(missing=[{"peer": peer.name, "next_command": peer.install} for peer in missing])
    with ExitStack() as stack:
        network = None
        if peers or memory:
            network = _network(stack, program, loaded, model, images, keep, progress)
        input_is = _input_is(network, images)
        _fill(taking_part, loaded, network, peers, counts, progress)
        beside = _layer_turns(loaded, counts) if layers else _Beside()
        about = _environment(peers)
        watch = Watch()
        seconds = _interleave(loaded, taking_part, beside, rounds, runs, progress)
        busyness = watch.so_far()
        resident = None
        if memory:
            from aqd_deploy.bench.memory import compare_memory

            assert network is not None
            progress("measuring memory and start-up in fresh processes")
            resident = compare_memory(program, network, counts)
    return bench_document(
        program,
        loaded.manifest,
        environment={**about, **busyness.told()},
        input_is=input_is,
        rounds=rounds,
        runs=runs,
        variants=describe(taking_part),
        notes={**_notes(loaded, counts, peers), **_threads_note(loaded, threads or [])},
        failed=taking_part.failed,
        missing=taking_part.missing,
        measured=[_measured(count, loaded, seconds, taking_part, beside) for count in counts],
        memory=resident,
    )


def _input_is(network: Network | None, images: np.ndarray | None) -> str:
    if network is None or network.is_quantized:
        return "random"
    return "textures" if images is None else "image"


def _network(
    stack: ExitStack,
    program: Path,
    loaded: Program,
    model: Path | None,
    images: np.ndarray | None,
    keep: Path | None,
    progress: Callable[[str], None],
) -> Network:
    """The float network that peers get, as long as `stack` is open."""
    from aqd_deploy.bench.qdq_file import find_qdq

    qdq = find_qdq(program, loaded.manifest, model)
    progress(f"the peers' network is that of {qdq}")
    return stack.enter_context(network_folder(qdq, loaded.manifest, images, keep))


def _fill(
    taking_part: Field,
    program: Program,
    network: Network | None,
    peers: list[Peer],
    counts: list[int],
    progress: Callable[[str], None],
) -> None:
    """The program and every network of the peers, ready to run."""
    for count in counts:
        ours = program_contender(program, network, count)
        taking_part.contenders[OURS, count] = ours
        taking_part.first[OURS, count] = timed(ours)
    for peer in peers:
        assert network is not None
        add_peer(taking_part, peer, network, counts, progress)


def _notes(program: Program, counts: list[int], peers: list[Peer]) -> dict[str, str]:
    """What limits a comparison, by contender."""
    notes = {peer.name: peer.note for peer in peers if peer.note}
    compiled = int(program.manifest["program"]["threads"])
    other = [count for count in counts if count != compiled]
    if other:
        notes[OURS] = (
            f"its kernels were chosen for {threads_text(compiled)}; for {threads_text(other[0])}: "
            f"`aqd-deploy compile --threads {other[0]}`"
        )
    return notes


def _threads_note(program: Program, asked: list[int]) -> dict[str, str]:
    """What was asked for (else compiled for) and is not used; nothing where all is."""
    compiled = int(program.manifest["program"]["threads"])
    used = {count: program.used_threads(count) for count in asked} or {compiled: program.threads}
    fewer = {count: number for count, number in used.items() if number < count}
    if not fewer:
        return {}
    told = ", ".join(f"{number} in place of {count}" for count, number in fewer.items())
    return {"threads": f"{told}: the program was compiled for {compiled}; {thread_limits()}"}


def _layer_turns(program: Program, counts: list[int]) -> _Beside:
    from aqd_deploy.bench.bandwidth import readings
    from aqd_deploy.bench.peak import probes

    beside = _Beside({count: [] for count in counts})
    kernels = program.manifest["program"]["target"]["kernels"]
    for count in counts:
        beside.probes.update({(f"peak {probe.name}", count): probe for probe in probes(kernels, count)})
        beside.readings.update({(f"reads {each.name}", count): each for each in readings(kernels, count)})
    return beside


def _interleave(
    program: Program,
    taking_part: Field,
    beside: _Beside,
    rounds: int,
    runs: int,
    progress: Callable[[str], None],
) -> dict[Key, np.ndarray]:
    def profile(count: int) -> Callable[[], object]:
        def run() -> None:
            program.threads = count
            beside.profiles[count].append(program.profile(repeats=1))

        return run

    turns: dict[Key, Callable[[], object]] = dict(taking_part.contenders)
    turns.update({("layers", count): profile(count) for count in beside.profiles})
    turns.update({key: each.run for key, each in (beside.probes | beside.readings).items()})
    named = {f"{label}, {threads_text(count)}": (label, count) for label, count in turns}
    seconds = interleave(
        {name: turns[key] for name, key in named.items()}, rounds=rounds, runs=runs, progress=progress
    )
    return {named[name]: values for name, values in seconds.items()}


def threads_text(count: int) -> str:
    """`1 thread`, `2 threads`."""
    return f"{count} thread{'s' if count > 1 else ''}"


def _measured(
    count: int, program: Program, seconds: dict[Key, np.ndarray], taking_part: Field, beside: _Beside
) -> dict[str, Any]:
    """What was measured with one number of threads."""
    others = {label: seconds[label, count] for label in taking_part.variants}
    fastest = _fastest_int8(count, seconds, taking_part)
    first = {label: each for (label, threads), each in taking_part.first.items() if threads == count}
    document = measured_with(count, seconds[OURS, count], others, fastest, first)
    if beside.profiles:
        document |= _of_layers(count, program, seconds, beside)
    return document


def _of_layers(
    count: int, program: Program, seconds: dict[Key, np.ndarray], beside: _Beside
) -> dict[str, Any]:
    """The layer table, beside what the machine can do at best."""
    fastest = {label: float(each.min()) for (label, threads), each in seconds.items() if threads == count}
    peaks = {
        each.name: each.macs / fastest[label]
        for (label, threads), each in beside.probes.items() if threads == count
    }  # fmt: skip
    rates = {
        each.name: each.read_bytes / fastest[label]
        for (label, threads), each in beside.readings.items() if threads == count
    }  # fmt: skip
    roof = Roof(max(peaks.values()), rates["memory"])
    table = layer_table(beside.profiles[count], program.manifest["program"]["layers"], roof, fastest[OURS])
    return {
        "peak_gmacs_per_s": {name: round(value / 1e9, 2) for name, value in peaks.items()},
        "read_gb_per_s": {name: round(value / 1e9, 2) for name, value in rates.items()},
        "layers": table,
        "between_layers": between_layers(table, fastest[OURS]),
        "families": family_totals(table, roof),
    }


def _fastest_int8(count: int, seconds: dict[Key, np.ndarray], taking_part: Field) -> dict[str, str]:
    """The label of each peer's INT8 network with the least minimum."""
    fastest: dict[str, str] = {}
    for label, (peer, variant) in taking_part.variants.items():
        if not variant.is_int8:
            continue
        best = fastest.get(peer.name)
        if best is None or seconds[label, count].min() < seconds[best, count].min():
            fastest[peer.name] = label
    return fastest


def _environment(peers: list[Peer]) -> dict[str, Any]:
    found = environment()
    for peer in peers:
        for package in peer.packages:
            version = installed_version(package)
            if version is not None:
                found["packages"][package] = version
    return found
