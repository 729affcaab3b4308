"""Layer by layer, how the integers of a lowered file agree with the fake-quantized network in float64.

    accumulated   the network from its input on: what the layers in front did is in it
    alone         from the codes that the integer file itself reads: what this layer adds

A layer is a convolution with what follows it, up to the first tensors that both networks have: the codes that
the next layers read, a stream behind a skip-add, a head. Of codes one that differs is another decision of a
quantizer. Streams and heads are reals in the fake-quantized network; an integer differs where it is not the
nearest one. A compiled program is held against the integer file, on what its kernels write.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from aqd_deploy.errors import AqdError
from aqd_deploy.evaluation.float64_network import Float64Network
from aqd_deploy.evaluation.lowered import Lowered, Stands
from aqd_deploy.evaluation.tensor_difference import Difference
from aqd_deploy.integer.counts import NodeCounts, node_counts
from aqd_deploy.integer.graph import Graph
from aqd_deploy.integer.reference import ReferenceRunner

Feeds = Mapping[str, np.ndarray]
Intermediates = Callable[[Feeds], Mapping[str, np.ndarray]]
"""`Program.intermediates`, or what does the same."""
_ACCUMULATOR = "_acc"


@dataclass(frozen=True)
class LayerRow:
    """One layer: its name, the operation of the integer file and the tensor that it makes, `tensors` that are
    compared ([] where none is), `alone` and `accumulated` (`Difference.told`), None without tensors.
    `program` is that of the integers which a program writes for these tensors, against the integer file; None
    where it writes none of them, or none was given. `proven` of `channels` requantized channels have proven
    constants, `proven_share` is None where none is requantized. `head`: whether one of the tensors is an
    output. `macs`, `weight_bits` and `activation_bits` are 0 of what is no convolution.
    """

    name: str
    operation: str
    accumulator: str
    tensors: tuple[str, ...]
    head: bool
    alone: dict[str, Any] | None
    accumulated: dict[str, Any] | None
    program: dict[str, Any] | None
    channels: int
    proven: int
    macs: int
    weight_bits: int
    activation_bits: int

    def told(self) -> dict[str, Any]:
        """JSON-able."""
        share = round(self.proven / self.channels, 6) if self.channels else None
        return {**asdict(self), "tensors": list(self.tensors), "proven_share": share}


@dataclass(frozen=True)
class SkipAddRow:
    """One skip-add: the error that is proven to be the largest, of this one and with those in front of it
    along the stream, and the largest seen, in steps of its scale; None where the tensor can't be compared.
    """

    name: str
    bound_steps: float
    own_bound_steps: float
    seen_steps: float | None

    def told(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


@dataclass(frozen=True)
class LayerAgreement:
    """Over `images` images. `totals` are of the tensors of codes, each once: `alone` and `accumulated`; of
    `program` all tensors that it writes, None without one. `not_compared` are the integer tensors that stand
    for none of the fake-quantized network, `not_written` those of the rows that the program fused away or
    wrote over.
    """

    images: int
    layers: tuple[LayerRow, ...]
    skip_adds: tuple[SkipAddRow, ...]
    totals: dict[str, Any]
    not_compared: tuple[str, ...]
    not_written: tuple[str, ...]

    def told(self) -> dict[str, Any]:
        """The sections `layers` and `skip_adds` of the report, and what they were made of."""
        return {
            "layers": [row.told() for row in self.layers],
            "skip_adds": [row.told() for row in self.skip_adds],
            "layer_agreement": {
                "images": self.images,
                **self.totals,
                "not_compared": list(self.not_compared),
                "not_written": list(self.not_written),
            },
        }


@dataclass
class _Sums:
    """By integer tensor; in `program` only those that a program writes."""

    alone: dict[str, Difference]
    accumulated: dict[str, Difference]
    program: dict[str, Difference] = field(default_factory=dict)
    images: int = 0


def layer_agreement(
    lowered: Lowered, images: Iterable[Feeds], program: Intermediates | None = None
) -> LayerAgreement:
    """Runs both networks over `images`, feeds by the names of the QDQ file's inputs, and a program.

    Raises AqdError where there are no images, what `Float64Network.visit`, `ReferenceRunner` and `program`
    raise.
    """
    sums = _differences(lowered, images, program)
    rows, covered = _rows(lowered, sums)
    stands = lowered.stands
    codes = [name for name, each in stands.items() if each.is_codes]
    totals: dict[str, Any] = {
        "alone": _joined(codes, sums.alone),
        "accumulated": _joined(codes, sums.accumulated),
        "program": _counted(list(sums.program), sums.program),
    }
    missing = [
        node.output
        for node in lowered.graph.nodes
        if node.output not in stands and node.output not in covered and not node.entry.moves_data
    ]
    missing += [name for name, difference in sums.accumulated.items() if not difference.count]
    unwritten = [name for row in rows for name in row.tensors if name not in sums.program]
    return LayerAgreement(
        sums.images, tuple(rows), tuple(_skip_adds(lowered, sums.alone)), totals, tuple(missing),
        tuple(dict.fromkeys(unwritten)) if program is not None else (),
    )  # fmt: skip


def _differences(lowered: Lowered, images: Iterable[Feeds], program: Intermediates | None) -> _Sums:
    stands = lowered.stands
    network = Float64Network(lowered.canonical, {each.source for each in stands.values()})
    runner = ReferenceRunner(lowered.integer, with_intermediates=sorted(stands))
    sums = _Sums({name: Difference() for name in stands}, {name: Difference() for name in stands})
    for feeds in images:
        own = lowered.codes(feeds)
        integers = {**own, **runner.run(own)}
        whole = alone = _of_image(network, stands, own, integers, {})
        codes = {name: each.source for name, each in stands.items() if each.is_codes and name in whole}
        if any(whole[name].differing for name in codes):
            forced = {source: integers[name] for name, source in codes.items()}
            alone = _of_image(network, stands, own, integers, forced)
        for into, found in ((sums.accumulated, whole), (sums.alone, alone)):
            for name, difference in found.items():
                into[name].join(difference)
        if program is not None:
            _add_program(sums.program, program(own), integers)
        sums.images += 1
    if not sums.images:
        raise AqdError("there are no images to compare on", valid="at least one image")
    return sums


def _of_image(
    network: Float64Network,
    stands: Mapping[str, Stands],
    feeds: Feeds,
    integers: Mapping[str, np.ndarray],
    forced: Mapping[str, np.ndarray],
) -> dict[str, Difference]:
    """By integer tensor; those are left out that have another shape in the canonical file."""
    tensors: dict[str, list[Stands]] = {}
    for each in stands.values():
        tensors.setdefault(each.source, []).append(each)
    found: dict[str, Difference] = {}

    def visitor(source: str, exact: np.ndarray) -> None:
        for each in tensors[source]:
            if integers[each.tensor].shape == exact.shape:
                found[each.tensor] = Difference.of(each, integers[each.tensor], exact)

    network.visit(feeds, visitor, forced)
    return found


def _add_program(
    into: dict[str, Difference], written: Mapping[str, np.ndarray], integers: Mapping[str, np.ndarray]
) -> None:
    """Whatever of the program's tensors the reference has as well."""
    for name, array in written.items():
        if name in integers:
            apart = np.abs(array.astype(np.int64) - integers[name].astype(np.int64))
            found = Difference(int(np.count_nonzero(apart)), apart.size, float(apart.max(initial=0)))
            into.setdefault(name, Difference()).join(found)


def _rows(lowered: Lowered, sums: _Sums) -> tuple[list[LayerRow], set[str]]:
    """In order: a row a convolution, and one for each tensor of codes or skip-add that belongs to none; and
    every tensor that a row speaks of.
    """
    graph, stands = lowered.graph, lowered.stands
    proofs = {entry["output"]: entry for entry in lowered.report["requantizations"]}
    readers = _readers(graph)
    counts = {each.name: each for each in node_counts(graph)}
    covered: set[str] = set()
    groups: list[tuple[NodeCounts, list[str]]] = []
    for each in counts.values():
        if each.weights:
            tensors, passed = _results(each.name, readers, counts, stands)
            covered |= {each.name, *tensors, *passed}
            groups.append((each, tensors))
    skip_adds = {entry["output"] for entry in lowered.report["skip_adds"]}
    groups += [
        (counts[name], [name])
        for name in stands
        if name not in covered and (name in proofs or name in skip_adds or name in graph.outputs)
    ]
    order = {node.output: index for index, node in enumerate(graph.nodes)}
    groups.sort(key=lambda group: order[group[0].name])
    rows = [_row(each, tensors, lowered, sums, proofs) for each, tensors in groups]
    return rows, covered


def _row(
    counts: NodeCounts,
    tensors: list[str],
    lowered: Lowered,
    sums: _Sums,
    proofs: Mapping[str, dict[str, Any]],
) -> LayerRow:
    proven = [proofs[name] for name in tensors if name in proofs]
    return LayerRow(
        counts.name.removesuffix(_ACCUMULATOR),
        counts.operation,
        counts.name,
        tuple(tensors),
        any(name in lowered.graph.outputs for name in tensors),
        _joined(tensors, sums.alone) if tensors else None,
        _joined(tensors, sums.accumulated) if tensors else None,
        _counted(tensors, sums.program),
        sum(entry["channels"] for entry in proven),
        sum(entry["proven"] for entry in proven),
        counts.arithmetic.macs,
        counts.weight_bits,
        counts.activation_bits,
    )


def _joined(tensors: list[str], found: Mapping[str, Difference]) -> dict[str, Any]:
    total = Difference()
    for name in tensors:
        total.join(found[name])
    return total.told()


def _counted(tensors: list[str], found: Mapping[str, Difference]) -> dict[str, Any] | None:
    """Of those that were found, with `tensors`, how many; None where there are none."""
    total, known = Difference(), [name for name in tensors if name in found]
    for name in known:
        total.join(found[name])
    return {**total.counted(), "tensors": len(known)} if known else None


def _readers(graph: Graph) -> dict[str, list[str]]:
    readers: dict[str, list[str]] = {}
    for node in graph.nodes:
        for name in node.inputs:
            readers.setdefault(graph.tensor(name), []).append(node.output)
    return readers


def _results(
    start: str,
    readers: Mapping[str, list[str]],
    counts: Mapping[str, NodeCounts],
    stands: Mapping[str, Any],
) -> tuple[list[str], list[str]]:
    """The first comparable tensors behind an accumulator, and those on the way to them; the accumulator
    itself where there are none.
    """
    found: list[str] = []
    passed: list[str] = []
    waiting = list(readers.get(start, []))
    while waiting:
        name = waiting.pop(0)
        if name in found or name in passed or counts[name].weights:
            continue
        if name in stands:
            found.append(name)
        else:
            passed.append(name)
            waiting += readers.get(name, [])
    return found or [start] * (start in stands), passed


def _skip_adds(lowered: Lowered, alone: Mapping[str, Difference]) -> list[SkipAddRow]:
    return [
        SkipAddRow(
            entry["node"],
            entry["accumulated_error_bound"],
            entry["error_bound"],
            alone[entry["output"]].largest if entry["output"] in alone else None,
        )
        for entry in lowered.report["skip_adds"]
    ]
