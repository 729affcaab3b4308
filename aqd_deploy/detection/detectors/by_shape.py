"""Which outputs of a network are a detector's, told by their shapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Shape = Sequence[Any]
Shapes = Mapping[str, Shape]
Size = tuple[int, int]


def named_levels(
    channels: Mapping[str, int],
    strides: Sequence[int],
    shapes: Shapes,
    size: Size,
    given: Mapping[str, Sequence[str]] | None = None,
    as_map: Callable[[Shape], Shape] = lambda shape: shape,
) -> dict[str, list[str]] | None:
    """The maps [1, C, H, W] of each kind, one a stride, by name; `size` is the image's height and width.

    None where a map is not there, or where two could be it; `given` names are only looked at.
    """
    named: dict[str, list[str]] = {}
    for kind, count in channels.items():
        for level, stride in enumerate(strides):
            names = list(shapes) if given is None else list(given.get(kind, ()))[level : level + 1]
            found = [
                name
                for name in names
                if name in shapes and _is_map(as_map(shapes[name]), count, stride, size)
            ]
            if len(found) != 1:
                return None
            named.setdefault(kind, []).append(found[0])
    return named


def _is_map(shape: Shape, channels: int, stride: int, size: Size) -> bool:
    if len(shape) != 4 or list(shape[:2]) != [1, channels]:
        return False
    return all(
        isinstance(count, int) and side // stride <= count <= -(-side // stride)
        for side, count in zip(size, shape[2:], strict=True)
    )


def named_rows(
    widths: Sequence[int], shapes: Shapes, given: Mapping[str, Sequence[str]] | None = None
) -> dict[str, list[str]] | None:
    """The one output [1, N, K] or [1, K, N], with K among `widths`, as `rows`; None where it is not one."""
    names = list(shapes) if given is None else list(given.get("rows", ()))
    found = [
        name for name in names
        if name in shapes and len(shapes[name]) == 3 and set(widths) & set(shapes[name][1:])
    ]  # fmt: skip
    return {"rows": found} if len(found) == 1 else None
