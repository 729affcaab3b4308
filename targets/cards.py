"""NVIDIA's cards in this machine, told by their driver: how many, and of which architecture."""

from __future__ import annotations

import ctypes
import functools

from aqd_deploy.errors import DeviceError

LIBRARY = "libcuda.so.1"
_MAJOR, _MINOR = 75, 76


@functools.cache
def driver() -> ctypes.CDLL:
    """The driver's library, initialised. Raises DeviceError where there is none, or it finds no card."""
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise DeviceError(
            "this machine has no driver for NVIDIA's cards",
            received=f"no {LIBRARY}",
            valid="a machine with a card and its driver; anywhere else a program for a CPU",
            next_command="aqd-deploy compile MODEL.onnx --target host -o PROGRAM.so",
        ) from error
    code = library.cuInit(0)
    if code:
        raise DeviceError(
            "NVIDIA's driver finds no card that it can use",
            received=error_name(library, code),
            next_command="nvidia-smi",
        )
    return library


def error_name(library: ctypes.CDLL, code: int) -> str:
    """What the driver calls an error."""
    text = ctypes.c_char_p()
    library.cuGetErrorName(code, ctypes.byref(text))
    return text.value.decode() if text.value else f"error {code}"


def call(name: str, *arguments: object) -> None:
    """Call a function of the driver. Raises DeviceError where it fails."""
    code = getattr(driver(), name)(*arguments)
    if code:
        raise DeviceError(
            f"the card failed in {name}", received=error_name(driver(), code), next_command="nvidia-smi"
        )


def count() -> int:
    """How many cards there are. Raises DeviceError where there is no driver."""
    found = ctypes.c_int()
    call("cuDeviceGetCount", ctypes.byref(found))
    return found.value


def architecture(index: int) -> str:
    """That of a card, for example "sm_87". Raises DeviceError where there is none."""
    if index >= count():
        known = ", ".join(f"cuda:{i}" for i in range(count()))
        raise DeviceError("there is no such card", received=f"cuda:{index}", valid=known or "none")
    parts = []
    for attribute in (_MAJOR, _MINOR):
        value = ctypes.c_int()
        call("cuDeviceGetAttribute", ctypes.byref(value), attribute, index)
        parts.append(str(value.value))
    return f"sm_{''.join(parts)}"


def name(index: int) -> str:
    """What its maker calls a card, for example "NVIDIA H100 80GB HBM3". Raises DeviceError as `call`."""
    told = ctypes.create_string_buffer(256)
    call("cuDeviceGetName", told, len(told), index)
    return told.value.decode(errors="replace")


def runs(built: str, card: str) -> bool:
    """Whether code for the architecture `built` runs on `card`: the same generation and no newer revision;
    code for exactly one card (with an "a") on that alone.
    """
    if built.endswith("a"):
        return built[:-1] == card
    return built[:-1] == card[:-1] and built[-1] <= card[-1]
