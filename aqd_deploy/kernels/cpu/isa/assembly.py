"""Where a kernel's time goes, read from its assembly: the innermost loop with the most products.

Lines of assembly are as LLVM prints them: a label, or a tab and an instruction.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_LABEL = re.compile(r"(\.LBB\w+):")
_JUMP = re.compile(r"\t(?:b\.?\w*|cbn?z|tbn?z|j[a-z]+)\t.*?(\.LBB\w+)")
_INSTRUCTION = re.compile(r"\t[a-z{]")

# x86: bytes of a register that one product takes; the register's letter tells its size.
_X86 = re.compile(r"\t(?:\{vex\}\s+)?v?(pdpbusd|pmaddubsw|pmaddwd|pmullw|pmulld)\s.*%([xyz])mm\d+\s*$")
_X86_BYTES = {"pdpbusd": 1, "pmaddubsw": 1, "pmaddwd": 2, "pmullw": 2, "pmulld": 4}
_REGISTER_BYTES = {"x": 16, "y": 32, "z": 64}
_TILES, _TILE_PRODUCTS = re.compile(r"\ttdpb(?:us|ss|su|uu)d\s"), 16 * 16 * 64
# ARM: products of an instruction. What yields 64 bits is a multiply-shift, what is scalar an address.
_ARM = tuple(
    (re.compile(rf"\t{pattern}"), products)
    for pattern, products in (
        (r"(?:[su]|us)mmla\s", 32),
        (r"(?:[su]|us|su)dot\s+v\d+\.4s", 16),
        (r"(?:[su]|us|su)dot\s+v\d+\.2s", 8),
        (r"(?:[su]ml[as]l2?|[su]mull2?|ml[as]|mul)\s+v\d+\.8h", 8),
        (r"(?:[su]ml[as]l2?|[su]mull2?|ml[as]|mul)\s+v\d+\.4s", 4),
        (r"vm(?:la|ls|ul)l\.[su]8\s", 8),
        (r"vm(?:la|ls|ul)l\.[su]16\s", 4),
        (r"vm(?:la|ls|ul)\.i16\s+q", 8),
        (r"vm(?:la|ls|ul)\.i32\s+q", 4),
    )
)


@dataclass(frozen=True)
class InnerLoop:
    """`lines` are the loop's instructions, `products` the multiply-accumulates of one turn."""

    lines: tuple[str, ...]
    products: int


def innermost_loops(assembly: str) -> list[list[str]]:
    """The instructions of every loop that has no other loop or branch in it, its own jump included."""
    lines = assembly.splitlines()
    labels: dict[str, int] = {}
    loops = []
    for number, line in enumerate(lines):
        if label := _LABEL.match(line):
            labels[label[1]] = number
        jump = _JUMP.match(line)
        if jump is None or jump[1] not in labels:
            continue
        body = lines[labels[jump[1]] + 1 : number + 1]
        if not any(_LABEL.match(each) for each in body):
            loops.append([each for each in body if _INSTRUCTION.match(each)])
    return loops


def busiest_loop(assembly: str, weight: Callable[[Sequence[str]], int]) -> list[str]:
    """The innermost loop whose instructions weigh most, the first of equals; empty where none weighs."""
    best: list[str] = []
    for body in innermost_loops(assembly):
        if weight(body) > (weight(best) if best else 0):
            best = body
    return best


def count(lines: Sequence[str], instruction: str) -> int:
    """How many `lines` have the instruction, a regular expression."""
    return sum(bool(re.match(rf"\t(?:{instruction})\s", line)) for line in lines)


def products(lines: Sequence[str]) -> int:
    """Multiply-accumulates of `lines`: those of the widest instructions, since narrower ones beside them sum
    up or scale.
    """
    found = [_products(line) for line in lines]
    widest = max(found, default=0)
    return widest * found.count(widest)


def inner_loop(assembly: str) -> InnerLoop | None:
    """The innermost loop with the most products; None where no loop multiplies vectors."""
    lines = busiest_loop(assembly, products)
    return InnerLoop(tuple(lines), products(lines)) if lines else None


def _products(line: str) -> int:
    """Multiply-accumulates of one instruction, 0 where it does not multiply vectors."""
    if _TILES.match(line):
        return _TILE_PRODUCTS
    if x86 := _X86.match(line):
        return _REGISTER_BYTES[x86[2]] // _X86_BYTES[x86[1]]
    return next((number for pattern, number in _ARM if pattern.match(line)), 0)
