"""Other runtimes, one a file; a new one is one more entry of `PEERS`."""

from __future__ import annotations

from aqd_deploy.bench.peers import mnn, ncnn, onnxruntime, openvino
from aqd_deploy.bench.peers.contract import Conversion, Peer, Variant
from aqd_deploy.errors import AqdError

PEERS: dict[str, Peer] = {peer.name: peer for peer in (onnxruntime.PEER, openvino.PEER, ncnn.PEER, mnn.PEER)}

__all__ = ["PEERS", "choose_peers", "conversions"]


def choose_peers(names: list[str]) -> tuple[list[Peer], list[Peer]]:
    """The peers of these names, those installed and those missing; AqdError for an unknown name."""
    for name in names:
        if name not in PEERS:
            raise AqdError("unknown peer", received=repr(name), valid=", ".join(PEERS))
    chosen = [PEERS[name] for name in dict.fromkeys(names)]
    return [p for p in chosen if p.installed()], [p for p in chosen if not p.installed()]


def conversions() -> dict[str, Conversion]:
    """Every conversion by its name."""
    variants: list[Variant] = [variant for peer in PEERS.values() for variant in peer.variants]
    return {
        variant.conversion.name: variant.conversion for variant in variants if variant.conversion is not None
    }
