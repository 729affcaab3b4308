"""Where a kernel's time goes, read from its assembly: the innermost loop with the most products.

Lines of assembly are as LLVM prints them: a label, or a tab and an instruction.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from aqd_deploy.kernels.contract.kernel import InnerLoop
from aqd_deploy.kernels.cpu.isa.select import ENTRIES

_LABEL = re.compile(r"(\.LBB\w+):")
_JUMP = re.compile(r"\t(?:b\.?\w*|cbn?z|tbn?z|j[a-z]+)\t.*?(\.LBB\w+)")
_INSTRUCTION = re.compile(r"\t[a-z{]")
# One takes 16 cycles, which LLVM 14 does not know. Beside them a loop of vectors is not what takes the time.
_TILE_PRODUCT = re.compile(r"\ttdp\w+\s")
# Once each: the sets of an architecture share one.
_PRODUCTS_OF = tuple(dict.fromkeys(entry.products_of for entry in ENTRIES.values()))


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
    modelled = _TILE_PRODUCT.search(assembly) is None
    return InnerLoop(tuple(lines), products(lines), modelled) if lines else None


def _products(line: str) -> int:
    """Multiply-accumulates of one instruction, of whichever set, 0 where it does not multiply vectors."""
    return next((found for products_of in _PRODUCTS_OF if (found := products_of(line))), 0)
