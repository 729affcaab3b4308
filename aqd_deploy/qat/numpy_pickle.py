"""Pickles of numpy arrays (the .pkl files of Detectron2), read without running anything that they name.

A pickle names functions and calls them. The few names that arrays need stand here for objects that only
remember what they were given; every other name ends the reading.
"""

from __future__ import annotations

import collections
import math
import pickle
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor


def read_numpy_pickle(file: IO[bytes]) -> Any:
    """The object of a pickle, its arrays as torch tensors.

    Raises pickle.UnpicklingError, with `GLOBAL module.name`, for a name that arrays do not need, and whatever
    a damaged pickle makes of the unpickler.
    """
    content = _ArraysOnly(file, encoding="latin1").load()
    _make_tensors(content)
    return content


class _DataType:
    """What `numpy.dtype(text, ...)` made: `text` as "f4", and the order of its bytes."""

    def __init__(self, text: Any, *_: Any) -> None:
        self.text, self.order = text, "="

    def __setstate__(self, state: Any) -> None:
        self.order = state[1]

    def numpy(self) -> np.dtype:
        if not isinstance(self.text, str) or self.text not in (
            "f2",
            "f4",
            "f8",
            "i1",
            "i2",
            "i4",
            "i8",
            "u1",
        ):
            raise pickle.UnpicklingError(f"an array of {self.text!r}")
        return np.dtype(self.text).newbyteorder("<" if self.order in ("<", "|", "=") else ">")


class _Array:
    """What becomes an array once its state is set: (version, shape, type, whether columns lie together,
    bytes).
    """

    def __init__(self, *_: Any) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state[-4:]

    @classmethod
    def of(cls, data: Any, kind: Any, shape: Any, order: Any = "C") -> _Array:
        """The same from a buffer, as newer protocols have it."""
        array = cls()
        array.state = (shape, kind, order == "F", bytes(data))
        return array

    def tensor(self) -> Tensor:
        shape, kind, fortran, data = self.state
        data = data.encode("latin1") if isinstance(data, str) else data
        dtype = kind.numpy()
        if not all(isinstance(side, int) and side >= 0 for side in shape):
            raise pickle.UnpicklingError("an array with an impossible shape")
        if len(data) != math.prod(shape) * dtype.itemsize:
            raise pickle.UnpicklingError("an array with another number of bytes than its shape says")
        array = np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
        return torch.from_numpy(np.array(array, dtype.newbyteorder("="), order="C"))


def _scalar(kind: Any, data: Any) -> _Array:
    return _Array.of(data.encode("latin1") if isinstance(data, str) else data, kind, ())


def _encoded(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes in {encoding}")
    return text.encode("latin1")


_STAND_INS: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): None,
    ("numpy", "dtype"): _DataType,
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("_codecs", "encode"): _encoded,
} | {
    (f"numpy.{core}.{module}", name): stand_in
    for core in ("core", "_core")
    for module, name, stand_in in (
        ("multiarray", "_reconstruct", _Array),
        ("multiarray", "scalar", _scalar),
        ("numeric", "_frombuffer", _Array.of),
    )
}


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _STAND_INS:
            raise pickle.UnpicklingError(f"GLOBAL {module}.{name}")
        return _STAND_INS[module, name]


def _make_tensors(content: Any) -> None:
    """Replaces the arrays in dictionaries, in place: they may hold themselves."""
    ahead, passed = [content], set()
    while ahead:
        table = ahead.pop()
        if not isinstance(table, dict) or id(table) in passed:
            continue
        passed.add(id(table))
        for key, value in table.items():
            table[key] = value.tensor() if isinstance(value, _Array) else value
            ahead.append(value)
