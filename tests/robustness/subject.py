"""What a kind of file is to the damaged-file test."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Read = Callable[[Path], Any]
Damage = Callable[[bytes, random.Random], bytes]
SIDE = 8
TARGET = "x86-64-v2"
TUNED_TARGET = "x86-64-v3"


@dataclass(frozen=True)
class Subject:
    """A kind of file: its `name` in a case's folder, sound `content`, damage that keeps its form, the
    readers, and other files the readers need. `weight` is how often it is drawn.
    """

    kind: str
    name: str
    content: bytes
    damage: Damage
    readers: tuple[tuple[str, ...] | Read, ...]
    beside: dict[str, bytes] = dataclasses.field(default_factory=dict)
    weight: int = 1
