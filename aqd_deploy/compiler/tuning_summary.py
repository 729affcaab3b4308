"""What a program's manifest says of the tuning records that it was built with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from aqd_deploy.compiler.layer import Layer
    from aqd_deploy.records.lookup import Tuned


class BuiltLayers(Protocol):
    """Layers that were built; `stale_choices`: how many records have a choice that no kernel has."""

    @property
    def layers(self) -> Sequence[Layer]: ...

    @property
    def stale_choices(self) -> int: ...


def tuning_summary(built: BuiltLayers, tuned: Tuned) -> dict[str, Any]:
    """How many convolutions were built with a choice of their own record, with one of the same shape, and
    with the cost model's; and which records were ignored.
    """
    origins = [layer.tuned for layer in built.layers if layer.choice is not None]
    notes = list(tuned.notes)
    if built.stale_choices:
        notes.append(f"{built.stale_choices} recorded choices are ignored: their kernels no longer have them")
    return {
        "records": tuned.source,
        "task": origins.count("task"),
        "shape": origins.count("shape"),
        "default": origins.count(""),
        "notes": notes,
    }
