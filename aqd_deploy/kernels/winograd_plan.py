"""How a Winograd convolution is cut, and which cuts a cost model prefers.

The output is a list of tiles, of all maps one after the other. A task takes a `group` of them and `1/parts`
of the output channels: it transforms the group's inputs, multiplies for each position `tiles` × `blocks`
vectors at a time in registers, and transforms back. The weights of a position and its blocks stay in the
first-level cache while they meet the whole group; the group's samples and products stay in the second.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from aqd_deploy.kernels.dots import Dots
from aqd_deploy.kernels.spec import ConvSpec
from aqd_deploy.kernels.winograd_forms import FORMS, Form

_NAMES = tuple(FORMS)
# What the weights of a position and item may take of a first-level cache of 32 KiB, and how much longer a
# step takes beyond.
WEIGHT_BYTES = 24 * 1024
MISS_FACTOR = 1.1
# What samples and products of a group may take of a second-level cache of 1 MiB, what they take without
# pushing anything out, and how much longer the products of a group of twice that size take. Forms with many
# positions, whose weights come from further away, gain more from large groups than they lose.
GROUP_BYTES = 1280 * 1024
QUIET_GROUP_BYTES = 384 * 1024
CROWDED = 0.03
# Cycles to bring a vector through an epilogue, and for one vector of additions in a transform.
STORE_CYCLES = 12.0
TRANSFORM_CYCLES = 0.75
# Bytes a cycle from the third-level cache, where weights lie between groups, and from memory, where they lie
# if all of them take more than this of the cache.
L3_BYTES_PER_CYCLE = 4.5
MEMORY_BYTES_PER_CYCLE = 4.0
L3_BYTES = 8 * 1024 * 1024
# The parts of that time that do not hide behind the multipliers.
L3_SHARE = 0.06
MEMORY_SHARE = 0.3
# Cycles a byte of all weights that do not hide when a run brings them from memory for the first time.
FIRST_CYCLES = 0.3
STEP_CYCLES = 0.5
# What a load costs although the multipliers decide.
LOAD_CYCLES = 0.05
# More than these and some are spilled, although they would fit.
MOST_ACCUMULATORS = 26
# Starting and ending the loop over steps, in cycles.
SET_CYCLES = 30.0
# How much longer forms take in whole networks than the model says.
CROWDED_FORMS = {"f3x4": 1.12, "f3x4_halved": 1.12}


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
    spec: ConvSpec, forms: Mapping[str, Dots], threads: int
) -> list[tuple[float, WinogradPlan]]:
    """(estimated cycles on `threads` threads, plan) of every plan that fits, the best first; `forms` are
    those that are exact, each with its dot product.
    """
    found = [entry for form, dots in forms.items() for entry in _plans(spec, FORMS[form], dots, threads)]
    return sorted(found, key=lambda entry: entry[0])


def _plans(spec: ConvSpec, form: Form, dots: Dots, threads: int) -> list[tuple[float, WinogradPlan]]:
    total = tile_count(spec, form)
    all_blocks = -(-spec.out_channels // dots.lanes)
    found = []
    for blocks in range(1, min(all_blocks, 6) + 1):
        most = min(dots.most_pixels(blocks), MOST_ACCUMULATORS // blocks)
        items = -(-all_blocks // blocks)
        for tiles in sorted({min(t, total) for t in range(max(1, most // 2), most + 1)}):
            sets = -(-total // tiles)
            for group in sorted({-(-sets // n) * tiles for n in range(1, sets + 1)}):
                if group > tiles and _group_bytes(spec, form, dots, group, blocks) > GROUP_BYTES:
                    continue
                for parts in {1, min(2, items), min(threads, items)}:
                    plan = WinogradPlan(form.name, tiles, blocks, group, parts)
                    found.append((_cycles(spec, form, dots, threads, plan), plan))
    return found


def _group_bytes(spec: ConvSpec, form: Form, dots: Dots, group: int, blocks: int) -> int:
    return form.positions * group * (spec.in_channels * _sample_bytes(form) + blocks * dots.lanes * 4)


def _sample_bytes(form: Form) -> int:
    return 2 if form.wide else 1


def _cycles(spec: ConvSpec, form: Form, dots: Dots, threads: int, plan: WinogradPlan) -> float:
    """Cycles of the busiest thread."""
    vector = dots.vector_bytes
    groups = -(-tile_count(spec, form) // plan.group)
    blocks = -(-spec.out_channels // dots.lanes)
    items = -(-blocks // (plan.blocks * plan.parts))
    steps = -(-spec.in_channels // dots.dot)
    products = plan.tiles * plan.blocks
    loads = plan.tiles / dots.sample_steps + plan.blocks
    step = STEP_CYCLES + max(products * dots.product_cycles, loads / 2) + loads * LOAD_CYCLES
    if steps * plan.blocks * vector > WEIGHT_BYTES:
        step *= MISS_FACTOR
    multiply = form.positions * (plan.group / plan.tiles) * (steps * step + SET_CYCLES)
    crowd = _group_bytes(spec, form, dots, plan.group, plan.blocks) / QUIET_GROUP_BYTES - 1
    multiply *= 1 + CROWDED * max(0.0, crowd)
    weights = form.positions * steps * plan.blocks * vector
    outputs = form.rows * form.columns
    gather = plan.group * plan.blocks * (3 * form.positions * TRANSFORM_CYCLES + outputs * STORE_CYCLES)
    vectors = plan.group * spec.in_channels * _sample_bytes(form) / vector
    spread = vectors * 4 * form.positions * TRANSFORM_CYCLES
    if form.halved:
        spread += plan.group * (spec.in_channels / vector + 4) * form.positions
    rounds = -(-groups * plan.parts // threads)
    all_weights = -(-blocks // plan.blocks) * weights
    near = all_weights <= L3_BYTES
    stream = weights / (L3_BYTES_PER_CYCLE if near else MEMORY_BYTES_PER_CYCLE)
    exposed = stream * (L3_SHARE if near else MEMORY_SHARE)
    cycles = rounds * (spread + items * (max(multiply, stream) + exposed + gather))
    cycles += all_weights * FIRST_CYCLES / min(threads, groups * plan.parts)
    return cycles * CROWDED_FORMS.get(form.name, 1.0)
