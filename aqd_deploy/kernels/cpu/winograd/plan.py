"""How a Winograd convolution is cut, and which cuts a cost model prefers.

The output is a list of tiles, of all maps one after the other. A task takes a `group` of them and `1/parts`
of the output channels: it transforms the group's inputs, multiplies for each position `tiles` × `blocks`
vectors at a time in registers, and transforms back. The weights of a position and its blocks stay in the
first-level cache while they meet the whole group; the group's samples and products stay in the second.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from aqd_deploy.kernels.contract.caches import Core
from aqd_deploy.kernels.contract.spec import ConvSpec
from aqd_deploy.kernels.cpu.isa.dot_product import DotProduct
from aqd_deploy.kernels.winograd.forms import FORMS, Form

_NAMES = tuple(FORMS)
# How much longer a step takes whose weights do not fit the first-level cache.
MISS_FACTOR = 1.1
# Cycles a byte of samples and products, for each time the quiet size that a group is larger.
CROWDED = 0.01
# Cycles to bring a vector through an epilogue, and for one vector of additions in a transform.
STORE_CYCLES = 12.0
TRANSFORM_CYCLES = 0.75
# Cycles to copy a pixel of a patch, and for each of its vectors.
PIXEL_CYCLES = 10.0
COPY_CYCLES = 5.0
# Bytes of samples a cycle from the second-level cache, as far as multiplying does not hide it.
L2_BYTES_PER_CYCLE = 64.0
# Bytes a cycle from the third-level cache, where weights lie between groups, and from memory, where they lie
# if all of them take more than the cache has.
L3_BYTES_PER_CYCLE = 4.5
MEMORY_BYTES_PER_CYCLE = 4.0
# The parts of that time that do not hide behind the multipliers.
L3_SHARE = 0.2
MEMORY_SHARE = 0.3
# Cycles a byte of all weights that do not hide when a run brings them from memory for the first time.
FIRST_CYCLES = 0.14
STEP_CYCLES = 0.5
# What a load costs although the multipliers decide.
LOAD_CYCLES = 0.05
# More than these and some are spilled, although they would fit.
MOST_ACCUMULATORS = 26
# Starting and ending the loop over steps, in cycles.
SET_CYCLES = 60.0
# How much longer forms take in whole networks than the model says.
CROWDED_FORMS = {"f3x4": 1.12, "f3x4_halved": 1.12}


@dataclass(frozen=True)
class Room:
    """What may lie where, in bytes: `weights` of a position and item in the first-level cache; samples and
    products of a `group` in the second and beyond (forms with many positions, whose weights come from further
    away, gain more from large groups than they lose), those of a `quiet_group` without pushing anything out;
    `all_weights` in the third.
    """

    weights: int
    group: int
    quiet_group: int
    all_weights: int

    @classmethod
    def of(cls, core: Core) -> Room:
        """The parts of a core's caches."""
        # Without a third level half of the second is what weights can hope for.
        return cls(core.l1d * 3 // 4, core.l2 * 7 // 4, core.l2 * 3 // 8, max(core.l3, core.l2 // 2))


@dataclass(frozen=True)
class WinogradPlan:
    """See the module. `group` is a multiple of `tiles`."""

    form: str
    tiles: int
    blocks: int
    group: int
    parts: int

    def parameters(self) -> dict[str, int]:
        """The fields as numbers, by name (`kernels.choice.Choice`)."""
        return {
            "form": _NAMES.index(self.form),
            "tiles": self.tiles,
            "blocks": self.blocks,
            "group": self.group,
            "parts": self.parts,
        }

    @classmethod
    def from_parameters(cls, values: Mapping[str, int]) -> WinogradPlan:
        """The inverse of `parameters`."""
        form = _NAMES[values["form"]]
        return cls(form, values["tiles"], values["blocks"], values["group"], values["parts"])


def tile_count(spec: ConvSpec, form: Form) -> int:
    """Tiles of all maps."""
    return sum(-(-m.out_height // form.rows) * -(-m.out_width // form.columns) for m in spec.maps)


def winograd_plans(
    spec: ConvSpec, forms: Mapping[str, DotProduct], threads: int
) -> list[tuple[float, WinogradPlan]]:
    """(estimated cycles on `threads` threads, plan) of every plan that fits, the best first; `forms` are
    those that are exact, each with its dot product.
    """
    found = [entry for form, dots in forms.items() for entry in _plans(spec, FORMS[form], dots, threads)]
    return sorted(found, key=lambda entry: entry[0])


def _plans(spec: ConvSpec, form: Form, dots: DotProduct, threads: int) -> list[tuple[float, WinogradPlan]]:
    total = tile_count(spec, form)
    all_blocks = -(-spec.out_channels // dots.lanes)
    room = Room.of(dots.core)
    found = []
    for blocks in range(1, min(all_blocks, 6) + 1):
        most = min(dots.most_pixels(blocks), MOST_ACCUMULATORS // blocks)
        items = -(-all_blocks // blocks)
        for tiles in sorted({min(t, total) for t in range(max(1, most // 2), most + 1)}):
            sets = -(-total // tiles)
            for group in sorted({-(-sets // n) * tiles for n in range(1, sets + 1)}):
                if group > tiles and _group_bytes(spec, form, dots, group, blocks) > room.group:
                    continue
                for parts in {1, min(2, items), min(threads, items)}:
                    plan = WinogradPlan(form.name, tiles, blocks, group, parts)
                    found.append((_cycles(spec, form, dots, threads, plan), plan))
    return found


def _group_bytes(spec: ConvSpec, form: Form, dots: DotProduct, group: int, blocks: int) -> int:
    return form.positions * group * (spec.in_channels * _sample_bytes(form) + blocks * dots.lanes * 4)


def _sample_bytes(form: Form) -> int:
    return 2 if form.wide else 1


def _cycles(spec: ConvSpec, form: Form, dots: DotProduct, threads: int, plan: WinogradPlan) -> float:
    """Cycles of the busiest thread."""
    total, blocks = tile_count(spec, form), -(-spec.out_channels // dots.lanes)
    groups, items = -(-total // plan.group), -(-blocks // (plan.blocks * plan.parts))
    rounds = -(-groups * plan.parts // threads)
    # The last group is smaller, but has whole sets.
    full = min(rounds, -(-total // plan.tiles) * plan.tiles * plan.parts / plan.group)
    weights = form.positions * -(-spec.in_channels // dots.dot) * plan.blocks * dots.vector_bytes
    all_weights = -(-blocks // plan.blocks) * weights
    near = all_weights <= Room.of(dots.core).all_weights
    stream = weights / (L3_BYTES_PER_CYCLE if near else MEMORY_BYTES_PER_CYCLE)
    multiply = max(_multiply_cycles(spec, form, dots, plan), stream)
    output = (
        plan.group
        * plan.blocks
        * (3 * form.positions * TRANSFORM_CYCLES + form.rows * form.columns * STORE_CYCLES)
    )
    cycles = full * (_input_cycles(spec, form, dots, plan) + items * (multiply + output))
    cycles += rounds * items * stream * (L3_SHARE if near else MEMORY_SHARE)
    cycles += all_weights * FIRST_CYCLES / min(threads, groups * plan.parts)
    return cycles * CROWDED_FORMS.get(form.name, 1.0)


def _multiply_cycles(spec: ConvSpec, form: Form, dots: DotProduct, plan: WinogradPlan) -> float:
    """Of one item of a whole group, with its weights at hand."""
    room, steps = Room.of(dots.core), -(-spec.in_channels // dots.dot)
    loads = plan.tiles / dots.sample_steps + plan.blocks
    step = STEP_CYCLES + max(plan.tiles * plan.blocks * dots.product_cycles, loads / 2) + loads * LOAD_CYCLES
    if steps * plan.blocks * dots.vector_bytes > room.weights:
        step *= MISS_FACTOR
    samples = spec.in_channels * _sample_bytes(form)
    fetch = plan.tiles * samples / L2_BYTES_PER_CYCLE
    multiply = form.positions * (plan.group / plan.tiles) * (steps * step + SET_CYCLES + fetch)
    # Samples are read, products written and read.
    traffic = form.positions * plan.group * (samples + 2 * plan.blocks * dots.lanes * 4)
    crowd = _group_bytes(spec, form, dots, plan.group, plan.blocks) / room.quiet_group - 1
    return multiply + CROWDED * traffic * max(0.0, crowd)


def _input_cycles(spec: ConvSpec, form: Form, dots: DotProduct, plan: WinogradPlan) -> float:
    """Of the inputs of a whole group, copied and transformed."""
    vectors = spec.in_channels * _sample_bytes(form) / dots.vector_bytes
    pixels = form.vertical.size * form.horizontal.size
    copy = pixels * (PIXEL_CYCLES + vectors * COPY_CYCLES)
    return plan.group * (copy + vectors * 4 * form.positions * TRANSFORM_CYCLES)
