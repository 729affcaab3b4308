"""Every instruction set is one entry: complete, asked for capabilities alone, and an error where it is not
there.
"""

import ast
from dataclasses import replace
from enum import Enum
from pathlib import Path

import pytest
from needing import ROOT

from aqd_deploy.errors import TargetError
from aqd_deploy.kernels.backends import backend_named
from aqd_deploy.kernels.contract.caches import CORE
from aqd_deploy.kernels.contract.spec import ConvSpec, Epilogue
from aqd_deploy.kernels.cpu.backend import CpuBackend
from aqd_deploy.kernels.cpu.conv.families import FAMILIES, conv2d, conv_choices
from aqd_deploy.kernels.cpu.isa.select import ENTRIES, byte_dots, dots_for, instruction_set, tile_dots
from aqd_deploy.kernels.cpu.movement.pointwise import epilogue_func
from aqd_deploy.targets.isa import FEATURES, Isa, best_isa, isa_named

ANY = ConvSpec(8, 8, 16, 16, (3, 3))
SIGNED = replace(ANY, input_signed=True)


def test_every_instruction_set_has_its_entry_and_its_features():
    assert set(ENTRIES) == set(FEATURES) == set(Isa)


@pytest.mark.parametrize("isa", Isa)
def test_an_entry_is_complete(isa):
    entry = instruction_set(isa)
    assert entry.isa is isa and entry.source
    known = [*entry.products, *entry.tiles, entry.bytes, entry.winograd_bytes, entry.winograd_words]
    assert {dots.isa for dots in known if dots is not None} == {isa}
    # Something is exact for operands of any range.
    assert all(entry.products[-1].fitted(spec, CORE) for spec in (ANY, SIGNED))
    assert entry.peaks[0] == entry.products[-1]
    # Those of another kind, where a set has them, stand in front.
    names = [peak.name for peak in entry.peak_functions(1, 5)]
    assert names[-len(entry.peaks) :] == [dots.name for dots in entry.peaks]
    assert entry.products_of("\tnop") == 0


@pytest.mark.parametrize("isa", Isa)
def test_the_features_of_an_instruction_set_select_it_or_a_faster_one(isa):
    order = list(FEATURES)
    assert order.index(best_isa(FEATURES[isa])) <= order.index(isa)
    assert isa_named(isa.value) is isa


class Unknown(Enum):
    """An instruction set that nobody wrote an entry for."""

    MATRIX = "matrix"


ASKED = {
    "backend": lambda isa: CpuBackend(isa),
    "backend by name": lambda isa: backend_named("cpu", isa, CORE),
    "entry": instruction_set,
    "product": lambda isa: dots_for(ANY, isa),
    "product of tiles": lambda isa: tile_dots(ANY, isa),
    "product of bytes": lambda isa: byte_dots(ANY, isa),
    "choices": lambda isa: conv_choices(ANY, isa, 1),
    "convolution": lambda isa: conv2d(ANY, Epilogue(), isa, 1),
    "depthwise": lambda isa: FAMILIES["depthwise"].build(
        replace(ANY, group=16), Epilogue(), isa, 1, next(iter(conv_choices(ANY, Isa.PORTABLE, 1))), CORE
    ),
    "winograd": lambda isa: FAMILIES["winograd"].applies(ANY, isa),
    "epilogue": lambda isa: epilogue_func(1, 1, 16, Epilogue(), isa, 1),
    "name": lambda isa: isa_named(isa.value),
}


@pytest.mark.parametrize("place", ASKED)
def test_one_without_an_entry_is_an_error(place):
    with pytest.raises(TargetError, match="instruction set") as caught:
        ASKED[place](Unknown.MATRIX)
    assert "matrix" in str(caught.value) and "portable" in str(caught.value)


NAMES = {*Isa.__members__, *(isa.value for isa in Isa)}
ROOM = (ROOT / "aqd_deploy/kernels/cpu/isa", ROOT / "targets/isa.py")
# Who has other things of these names.
OTHERS = {
    # A flag of /proc/cpuinfo.
    "aqd_deploy/integer/saturation.py": {"vnni"},
    # What LLVM and /proc/cpuinfo call the features of CPUs.
    "targets/architectures.py": {"neon"},
    "targets/llvm_features.py": {"avx2", "avxvnni", "dotprod", "i8mm"},
}


def asked_in(node: ast.AST) -> list[ast.expr]:
    """What a node compares, matches, looks up or hands on."""
    match node:
        case ast.Compare():
            return [node.left, *node.comparators]
        case ast.MatchValue():
            return [node.value]
        case ast.Dict():
            return [key for key in node.keys if key is not None]
        case ast.Subscript():
            return [node.slice]
        case ast.Call():
            return [*node.args, *(keyword.value for keyword in node.keywords)]
    return []


def named_in(source: str) -> set[str]:
    """The members of `Isa` that code names, and their names and values where it asks for them as text."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr in Isa.__members__:
            found |= {f"Isa.{node.attr}"} if ast.unparse(node.value).split(".")[-1] == "Isa" else set()
        for asked in asked_in(node):
            parts = asked.elts if isinstance(asked, ast.Tuple | ast.List | ast.Set) else [asked]
            values = {part.value for part in parts if isinstance(part, ast.Constant)}
            found |= values & NAMES
    return found


def test_nobody_else_names_an_instruction_set():
    files = [
        path
        for folder in ("aqd_deploy", "passes", "targets", "tools")
        for path in (ROOT / folder).rglob("*.py")
    ]
    assert len(files) > 100
    named = {
        str(path.relative_to(ROOT)): found
        for path in files
        if not any(path.is_relative_to(room) for room in ROOM)
        if (found := named_in(Path(path).read_text(encoding="utf-8")))
    }
    assert named == OTHERS


@pytest.mark.parametrize(
    "line",
    [
        "isa is Isa.VNNI",
        "x = Isa.NEON32",
        "isa.Isa.VNNI",
        'device.kernels == "portable"',
        'k in ("neon", "neon32")',
        'k not in {"vnni"}',
        '1 < x == "vnni"',
        'isa.name == "VNNI"',
        'match k:\n    case "vnni":\n        pass',
        'match k:\n    case "avx2" | "vnni":\n        pass',
        '{"vnni": 16}',
        'LANES["vnni"]',
        'Isa["VNNI"]',
        'Isa("vnni")',
        'lanes_of(isa="vnni")',
        'k.startswith("neon")',
        'k.startswith(("neon", "x"))',
    ],
)
def test_a_name_is_found(line):
    assert named_in(line)
