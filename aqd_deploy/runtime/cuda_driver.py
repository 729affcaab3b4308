"""NVIDIA's driver by ctypes: a card's memory, functions and graphs, and nothing of CUDA's toolkit.

Calls are those of the CUDA driver API (docs.nvidia.com/cuda/cuda-driver-api).
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from aqd_deploy.errors import DeviceError, ProgramError
from aqd_deploy.runtime.launches import Call
from aqd_deploy.targets import cards
from aqd_deploy.targets.cards import call as _call

_OUT_OF_MEMORY = 2
# What modules are refused with that are for another card, or that the driver is too old for.
_REFUSALS = (200, 209, 218, 222, 300)
_DYNAMIC_SHARED = 8
# Capture: only calls of this thread count; events: with times.
_CAPTURE, _EVENT = 2, 0
_USUAL_SHARED = 48 << 10


class CudaDriver:
    """See `card_program.Driver`. Raises DeviceError where there is no card `index`."""

    def __init__(self, index: int = 0) -> None:
        self.index = index
        self.architecture = cards.architecture(index)
        context = ctypes.c_void_p()
        _call("cuDevicePrimaryCtxRetain", ctypes.byref(context), index)
        self._context = context
        self._bind()
        self._module = ctypes.c_void_p()
        self._functions: list[ctypes.c_void_p] = []
        self._memory = ctypes.c_uint64()
        self._graphs: list[ctypes.c_void_p] = []
        self._stream = ctypes.c_void_p()
        _call("cuStreamCreate", ctypes.byref(self._stream), 1)

    def load(self, code: memoryview, functions: Sequence[str], target: Mapping[str, Any]) -> None:
        self._bind()
        if not cards.runs(target["card"], self.architecture):
            raise ProgramError(
                "the program is for another card",
                received=f"code for {target['card']}", valid=self.architecture,
                next_command="aqd-deploy compile MODEL.onnx --target cuda -o PROGRAM.so",
            )  # fmt: skip
        library = cards.driver()
        answer = library.cuModuleLoadData(ctypes.byref(self._module), bytes(code))
        if answer in _REFUSALS:
            version = ctypes.c_int()
            _call("cuDriverGetVersion", ctypes.byref(version))
            told = f"{version.value // 1000}.{version.value % 1000 // 10}"
            raise ProgramError(
                f"the card's driver, for CUDA {told}, does not load the program",
                received=cards.error_name(library, answer),
                valid=f"a driver for CUDA {target['toolkit']} or newer", next_command="nvidia-smi",
            )  # fmt: skip
        self._checked("cuModuleLoadData", answer)
        for name in functions:
            function = ctypes.c_void_p()
            _call("cuModuleGetFunction", ctypes.byref(function), self._module, name.encode())
            self._functions.append(function)

    def allocate(self, size: int) -> int:
        self._bind()
        library = cards.driver()
        code = library.cuMemAlloc_v2(ctypes.byref(self._memory), ctypes.c_size_t(size))
        if code == _OUT_OF_MEMORY:
            free, total = ctypes.c_size_t(), ctypes.c_size_t()
            _call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
            raise DeviceError(
                "the card has not enough free memory for the program",
                received=f"{size >> 20} MiB, of which {free.value >> 20} of {total.value >> 20} are free",
                next_command="the same command with --device cuda:N, another card",
            )
        self._checked("cuMemAlloc_v2", code)
        _call("cuMemsetD8_v2", self._memory, ctypes.c_ubyte(0), ctypes.c_size_t(size))
        return self._memory.value

    def upload(self, address: int, data: np.ndarray | memoryview) -> None:
        self._bind()
        flat = np.frombuffer(data, np.uint8) if isinstance(data, memoryview) else data
        _call(
            "cuMemcpyHtoD_v2", ctypes.c_uint64(address), ctypes.c_void_p(flat.ctypes.data),
            ctypes.c_size_t(flat.nbytes),
        )  # fmt: skip

    def download(self, address: int, data: np.ndarray) -> None:
        self._bind()
        _call(
            "cuMemcpyDtoH_v2", ctypes.c_void_p(data.ctypes.data), ctypes.c_uint64(address),
            ctypes.c_size_t(data.nbytes),
        )  # fmt: skip

    def record(self, calls: Sequence[Call], base: int) -> Callable[[], float]:
        """As a graph."""
        self._bind()
        for call in calls:
            if call.shared > _USUAL_SHARED:
                function = self._functions[call.function]
                _call("cuFuncSetAttribute", function, _DYNAMIC_SHARED, ctypes.c_int(call.shared))
        _call("cuStreamBeginCapture_v2", self._stream, _CAPTURE)
        for call in calls:
            self._launch(call, base)
        graph, ready = ctypes.c_void_p(), ctypes.c_void_p()
        _call("cuStreamEndCapture", self._stream, ctypes.byref(graph))
        _call("cuGraphInstantiateWithFlags", ctypes.byref(ready), graph, ctypes.c_uint64(0))
        _call("cuGraphDestroy", graph)
        self._graphs.append(ready)
        events = [ctypes.c_void_p() for _ in range(2)]
        for event in events:
            _call("cuEventCreate", ctypes.byref(event), _EVENT)
        return functools.partial(self._replay, ready, events)

    def _launch(self, call: Call, base: int) -> None:
        parameter = ctypes.create_string_buffer(call.parameter(base))
        pointers = (ctypes.c_void_p * 1)(ctypes.addressof(parameter))
        shape = (call.grid, 1, 1, call.threads, 1, 1, call.shared)
        _call("cuLaunchKernel", self._functions[call.function], *shape, self._stream, pointers, None)

    def _replay(self, graph: ctypes.c_void_p, events: list[ctypes.c_void_p]) -> float:
        self._bind()
        _call("cuEventRecord", events[0], self._stream)
        _call("cuGraphLaunch", graph, self._stream)
        _call("cuEventRecord", events[1], self._stream)
        _call("cuStreamSynchronize", self._stream)
        milliseconds = ctypes.c_float()
        _call("cuEventElapsedTime", ctypes.byref(milliseconds), *events)
        return milliseconds.value / 1e3

    def close(self) -> None:
        self._bind()
        for graph in self._graphs:
            _call("cuGraphExecDestroy", graph)
        if self._memory.value:
            _call("cuMemFree_v2", self._memory)
        if self._module.value:
            _call("cuModuleUnload", self._module)
        _call("cuStreamDestroy_v2", self._stream)
        _call("cuDevicePrimaryCtxRelease_v2", self.index)
        self._graphs, self._functions = [], []
        self._memory, self._module = ctypes.c_uint64(), ctypes.c_void_p()

    def _bind(self) -> None:
        """The card is the calling thread's."""
        _call("cuCtxSetCurrent", self._context)

    @staticmethod
    def _checked(name: str, code: int) -> None:
        if code:
            raise DeviceError(
                f"the card failed in {name}",
                received=cards.error_name(cards.driver(), code),
                next_command="nvidia-smi",
            )
