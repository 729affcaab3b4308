"""What is tuned: a convolution with its epilogue, on an instruction set and some threads, or on a card.

A task is named by a hash of its canonical JSON, so two models that share a layer share its records. Tasks of
one convolution that differ in their epilogues alone have the same `shape_key`: what is good for one is the
first thing to try for the others.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from functools import cached_property
from math import prod
from typing import Any

from aqd_deploy.kernels.contract import spec as forms
from aqd_deploy.kernels.contract.caches import CORE, Core
from aqd_deploy.kernels.contract.spec import ConvSpec, Epilogue, Scaling
from aqd_deploy.targets.isa import Isa

TASK_FORMAT = 1
_SCALINGS = ("scaling", "self_scaling", "other_scaling")


@dataclass(frozen=True)
class AnyTask(ABC):
    """What the tasks of all devices are."""

    spec: ConvSpec
    epilogue: Epilogue

    @abstractmethod
    def _place(self) -> dict[str, Any]:
        """On what: JSON."""

    def to_json(self) -> dict[str, Any]:
        """The definition: {"format", "spec", "epilogue": {"steps", "stores"}}, and of what device it is."""
        return {**self._shape(), "epilogue": _epilogue_json(self.epilogue)}

    @cached_property
    def key(self) -> str:
        """Sixteen hexadecimal digits, equal for equal tasks in every process."""
        return _hash(self.to_json())

    @cached_property
    def shape_key(self) -> str:
        """Like `key`, of the task without its epilogue."""
        return _hash(self._shape())

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the convolution."""
        spec = self.spec
        products = prod(spec.kernel) * (spec.in_channels // spec.group)
        return spec.out_height * spec.out_width * spec.out_channels * products

    def __str__(self) -> str:
        spec = self.spec
        maps = f"{spec.maps[0].height}x{spec.maps[0].width}"
        if spec.levels:
            maps += f" and {len(spec.levels) - 1} more"
        stride = f" stride {spec.strides[0]}" if spec.strides != (1, 1) else ""
        kernel = f"{spec.kernel[0]}x{spec.kernel[1]}"
        return f"{kernel} {spec.in_channels}->{spec.out_channels} on {maps}{stride}"

    def _shape(self) -> dict[str, Any]:
        return {"format": TASK_FORMAT, "spec": _spec_json(self.spec), **self._place()}


@dataclass(frozen=True)
class Task(AnyTask):
    """One kernel of a CPU; its JSON has "isa", "threads", and "core" where it is not the default."""

    isa: Isa
    threads: int
    core: Core = CORE

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Task:
        """The inverse of `to_json`. Raises KeyError, TypeError or ValueError for anything else."""
        if value["format"] != TASK_FORMAT:
            raise ValueError(f"task format {value['format']}")
        fields = {name: _tuples(entry) for name, entry in value["spec"].items()}
        epilogue = value["epilogue"]
        stages = tuple(_part(entry) for entry in epilogue["steps"])
        stores = tuple(_part(entry) for entry in epilogue["stores"])
        threads, core = int(value["threads"]), Core(**value.get("core", {}))
        return cls(ConvSpec(**fields), Epilogue(stages, stores), Isa(value["isa"]), threads, core)

    def _place(self) -> dict[str, Any]:
        core = {"core": self.core.to_json()} if self.core != CORE else {}
        return {"isa": self.isa.value, "threads": self.threads, **core}


@dataclass(frozen=True)
class CardTask(AnyTask):
    """One kernel of a card, by its architecture, for so many images at once."""

    card: str
    images: int

    def _place(self) -> dict[str, Any]:
        return {"card": self.card, "images": self.images}


def is_tunable(epilogue: Epilogue) -> bool:
    """Kernels that pool follow the rows of their pool: little is left to tune."""
    return epilogue.pool is None


def _hash(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _spec_json(spec: ConvSpec) -> dict[str, Any]:
    """The fields; the step of weights only where it is known."""
    fields = asdict(spec)
    if spec.weight_step == 1:
        del fields["weight_step"]
    return fields


def _epilogue_json(epilogue: Epilogue) -> dict[str, Any]:
    parts = {"steps": epilogue.stages, "stores": epilogue.stores}
    return {
        name: [{"kind": type(part).__name__, **asdict(part)} for part in entries]
        for name, entries in parts.items()
    }


def _part(value: dict[str, Any]) -> Any:
    """A stage or a store of `contract.spec` from its JSON."""
    kinds = {kind.__name__: kind for kind in (*forms.Stage.__args__, *forms.Store.__args__)}
    fields = {name: entry for name, entry in value.items() if name != "kind"}
    for name in _SCALINGS:
        if name in fields:
            fields[name] = Scaling(**fields[name])
    return kinds[value["kind"]](**fields)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(entry) for entry in value) if isinstance(value, list) else value
