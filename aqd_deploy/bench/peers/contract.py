"""What a peer is: a runtime, the variants of the network it runs, and how each is made and opened."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from aqd_deploy.bench.network import Network

Contender = Callable[[], object]

INSTALL_PEERS = "pip install 'aqd-deploy[peers]'"


@dataclass(frozen=True)
class Conversion:
    """A peer's own model file, made from the float network in a process of its own.

    `make(network, folder)` writes into an empty folder. `packages` are the distributions whose versions the
    result depends on.
    """

    name: str
    packages: tuple[str, ...]
    make: Callable[[Network, Path], None]


@dataclass(frozen=True)
class Opened:
    """A network ready to run: `run` does it once. `convolutions` counts its convolutions by the kernels that
    the runtime says it took, None where it does not tell.
    """

    run: Contender
    convolutions: Mapping[str, int] | None = None


@dataclass(frozen=True)
class Variant:
    """One way a peer can run the network.

    `name` is "float" or begins with "int8"; `conversion` makes its model (None: `Network.model`);
    `open(path, network, threads)` makes it ready, where `path` is that ONNX file or the folder the
    conversion filled; it may raise whatever the runtime raises. `modules` are needed in addition to the
    peer's.
    """

    name: str
    what: str
    conversion: Conversion | None
    open: Callable[[Path, Network, int], Opened]
    modules: tuple[str, ...] = ()

    @property
    def is_int8(self) -> bool:
        """Whether convolutions multiply 8-bit integers."""
        return self.name.startswith("int8")

    def installed(self) -> bool:
        """Whether the modules that it needs in addition can be imported."""
        return all(importlib.util.find_spec(name) is not None for name in self.modules)


@dataclass(frozen=True)
class Peer:
    """A runtime: the modules that must be importable, the command that installs them, and its variants.

    `packages` are the distributions whose versions a result depends on; `note` says what it does not offer.
    `quantized` runs a quantized ONNX file as it is, None where the runtime takes none.
    """

    name: str
    modules: tuple[str, ...]
    packages: tuple[str, ...]
    install: str
    variants: tuple[Variant, ...]
    note: str = ""
    quantized: Variant | None = None

    def installed(self) -> bool:
        """Whether its modules can be imported."""
        return all(importlib.util.find_spec(name) is not None for name in self.modules)
