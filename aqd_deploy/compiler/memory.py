"""Where every tensor of a plan lies: one arena, in which tensors that are never alive together share bytes.

Rules:

1. A map that is copied into one stack is written there at once, and a map that is copied out of a stack is
   read there, wherever it begins at a multiple of `ALIGNMENT`: `Stack` and `Unstack` then cost nothing.
2. A tensor is alive from the operation that writes it (for a stack: its first map) to the last that reads it;
   an operation's inputs and outputs are alive together.
3. Tensors are placed the largest first, each at the lowest offset that no tensor alive with it uses.
4. A skip-add that writes over its operand (`in_place`) has its output there.
5. Network inputs and outputs belong to the caller; each has memory of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from aqd_deploy.compiler.plan import (
    Operation,
    Plan,
    border,
)

# What kernels expect of the address of every tensor.
ALIGNMENT = 64


@dataclass(frozen=True)
class MemoryPlan:
    """`offsets` in the arena by tensor. `live_bytes`: the most that is alive at once, which no arena can
    undercut. `output_bytes`: the network's outputs, outside of it.
    """

    offsets: dict[str, int]
    arena_bytes: int
    live_bytes: int
    output_bytes: int

    @property
    def bytes(self) -> int:
        """Everything that one run needs for its tensors."""
        return self.arena_bytes + self.output_bytes

    @property
    def lower_bound_bytes(self) -> int:
        return self.live_bytes + self.output_bytes


@dataclass(frozen=True)
class Block:
    """Bytes that are in use from operation `first` to operation `last`."""

    name: str
    size: int
    first: int
    last: int

    def meets(self, other: Block) -> bool:
        """Whether both are alive at some time."""
        return self.first <= other.last and other.first <= self.last


def plan_memory(plan: Plan) -> tuple[Plan, MemoryPlan]:
    """The memory of `plan`, whose operations are in order, and the plan without the copies of rule 1."""
    plan, views = _without_copies(plan)
    for op in plan.operations:
        for name, operand in op.written_over.items():
            views[name] = views.get(operand, (operand, 0))
    outside = {border(name) for name in (*plan.inputs, *plan.outputs)}
    blocks = _blocks(plan, views, outside)
    placed = place(blocks)
    offsets = dict(placed)
    for name, (root, offset) in views.items():
        offsets[name] = placed[root] + offset
    arena = max((placed[block.name] + block.size for block in blocks), default=0)
    outputs = sum(plan.tensors[border(name)].bytes for name in plan.outputs)
    return plan, MemoryPlan(offsets, arena, most_alive(blocks), outputs)


def place(blocks: Sequence[Block]) -> dict[str, int]:
    """Rule 3: the offset of every block."""
    offsets: dict[str, int] = {}
    done: list[Block] = []
    for block in sorted(blocks, key=lambda b: (-b.size, b.first)):
        offset = 0
        for other in sorted((b for b in done if b.meets(block)), key=lambda b: offsets[b.name]):
            if offset + block.size <= offsets[other.name]:
                break
            offset = max(offset, offsets[other.name] + other.size)
        offsets[block.name] = offset
        done.append(block)
    return offsets


def most_alive(blocks: Sequence[Block]) -> int:
    """The most bytes that are alive during one operation."""
    moments = {block.first for block in blocks}
    return max((sum(b.size for b in blocks if b.first <= t <= b.last) for t in moments), default=0)


def _blocks(plan: Plan, views: dict[str, tuple[str, int]], outside: set[str]) -> list[Block]:
    """Rule 2."""
    alive: dict[str, tuple[int, int]] = {}
    for time, op in enumerate(plan.operations):
        for name in (*op.reads, *op.writes):
            if name not in outside:
                root = views.get(name, (name, 0))[0]
                alive[root] = (alive.get(root, (time, time))[0], time)
    return [Block(name, _aligned(plan.tensors[name].bytes), *times) for name, times in alive.items()]


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _without_copies(plan: Plan) -> tuple[Plan, dict[str, tuple[str, int]]]:
    """Rule 1: the plan without copies, and which tensors lie inside which others, at which offset."""
    views: dict[str, tuple[str, int]] = {}
    roots: set[str] = set()
    computed = {name for op in plan.operations for name in op.writes}
    operations: list[Operation] = []
    for op in plan.operations:
        inside = _views(op, plan)
        taken = any(name in views or name in roots or name not in computed for name, _, _ in inside)
        if not inside or taken or any(root in views for _, root, _ in inside):
            operations.append(op)
            continue
        views.update({name: (root, offset) for name, root, offset in inside})
        roots.update(root for _, root, _ in inside)
    return replace(plan, operations=operations), views


def _views(op: Operation, plan: Plan) -> list[tuple[str, str, int]]:
    """(tensor, the stack it could lie in, its offset there) of a copy; none where one is not aligned, or
    would have to lie in two places.
    """
    places = op.places(plan.tensors)
    once = len({name for name, _, _ in places}) == len(places)
    return places if once and all(offset % ALIGNMENT == 0 for _, _, offset in places) else []
