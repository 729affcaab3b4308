"""The driver of a card: what it asks of NVIDIA's library, and what it says when that fails. No card is
needed: the library is an object that keeps what it was called with.
"""

import ctypes
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from aqd_deploy import targets
from aqd_deploy.devices.cuda import CudaDevice
from aqd_deploy.devices.kinds import open_device
from aqd_deploy.errors import DeviceError, ProgramError, TargetError
from aqd_deploy.runtime.card_program import CardProgram
from aqd_deploy.runtime.container import Container
from aqd_deploy.runtime.cuda_driver import CudaDriver
from aqd_deploy.runtime.launches import Call, read_launches, refuse_card
from aqd_deploy.targets import cards

TARGET = {"name": "cuda-sm80", "card": "sm_80", "toolkit": "13.0"}
CALL = Call(0, 3, 128, 70_000, (64, -1), (5, -7, 9))


class Library:
    """As ctypes has it: every function returns 0, but for those in `answers`; memory is the test's own."""

    def __init__(self, capability=(8, 7), answers=None):
        self.capability, self.answers = capability, answers or {}
        self.calls, self.memory = [], {}

    def __getattr__(self, name):
        def call(*arguments):
            self.calls.append((name, arguments))
            return self.answers.get(name, 0) or self.act(name, arguments)

        return call

    def act(self, name, arguments):
        if name == "cuDeviceGetCount":
            arguments[0]._obj.value = 1
        elif name == "cuDeviceGetAttribute":
            arguments[0]._obj.value = self.capability[arguments[1] - 75]
        elif name == "cuDeviceGetName":
            arguments[0].value = b"A card"[: arguments[1] - 1]
        elif name == "cuModuleLoadData":
            arguments[0]._obj.value = 7
        elif name == "cuDriverGetVersion":
            arguments[0]._obj.value = 12020
        elif name == "cuGetErrorName":
            arguments[1]._obj.value = b"CUDA_ERROR_TEST"
        elif name == "cuMemAlloc_v2":
            self.block = np.zeros(arguments[1].value, np.uint8)
            arguments[0]._obj.value = self.block.ctypes.data
        elif name == "cuMemcpyHtoD_v2" or name == "cuMemcpyDtoH_v2":
            ctypes.memmove(arguments[0].value, arguments[1].value, arguments[2].value)
        elif name == "cuEventElapsedTime":
            arguments[0]._obj.value = 2.5
        return 0

    def named(self, name):
        return [arguments for called, arguments in self.calls if called == name]


@pytest.fixture
def library(monkeypatch):
    """Makes the driver's library one with the given answers."""

    def make(**options):
        made = Library(**options)
        monkeypatch.setattr(cards, "driver", lambda: made)
        return made

    return make


@pytest.mark.parametrize(
    ("built", "card", "does"),
    [
        ("sm_80", "sm_80", True),
        ("sm_80", "sm_87", True),
        ("sm_87", "sm_86", False),
        ("sm_80", "sm_90", False),
        ("sm_90a", "sm_90", True),
        ("sm_90a", "sm_100", False),
    ],
)
def test_code_runs_on_its_own_generation(built, card, does):
    assert cards.runs(built, card) is does


def test_a_card_has_the_name_that_its_maker_gave(library):
    made = library()
    assert cards.name(3) == "A card"
    assert made.named("cuDeviceGetName")[0][2] == 3


def test_a_parameter_is_pointers_then_numbers():
    assert CALL.parameter(1 << 40) == struct.pack("<2Q3i4x", (1 << 40) + 64, 0, 5, -7, 9)


def test_launches_are_recorded_once_and_replayed(library):
    made = library()
    driver = CudaDriver(0)
    driver.load(memoryview(b"code"), ["k0"], TARGET)
    base = driver.allocate(256)
    driver.upload(base, memoryview(bytes(range(16))))
    got = np.zeros(16, np.uint8)
    driver.download(base, got)
    assert got.tolist() == list(range(16))
    replay = driver.record([CALL], base)
    assert [replay(), replay()] == [0.0025, 0.0025]
    ((_, *shape, _, parameters, _),) = made.named("cuLaunchKernel")
    assert shape == [3, 1, 1, 128, 1, 1, 70_000]
    assert len(parameters) == 1
    assert [arguments[1:][0] for arguments in made.named("cuFuncSetAttribute")] == [8]
    assert len(made.named("cuGraphLaunch")) == 2
    driver.close()
    assert made.named("cuMemFree_v2") and made.named("cuModuleUnload") and made.named("cuGraphExecDestroy")


def test_a_card_of_another_architecture_is_told(library):
    library(capability=(9, 0))
    with pytest.raises(ProgramError, match=r"for another card; got code for sm_80; valid: sm_90"):
        CudaDriver(0).load(memoryview(b"code"), [], TARGET)


def test_a_driver_that_is_too_old_is_told(library):
    library(answers={"cuModuleLoadData": 222})
    with pytest.raises(ProgramError, match=r"driver, for CUDA 12\.2, .*TEST; valid: .*CUDA 13\.0 or newer"):
        CudaDriver(0).load(memoryview(b"code"), [], TARGET)


def test_too_little_memory_is_told(library):
    library(answers={"cuMemAlloc_v2": 2})
    with pytest.raises(DeviceError, match=r"not enough free memory.*got 3 MiB"):
        CudaDriver(0).allocate(3 << 20)


@pytest.mark.parametrize("name", ["cuModuleLoadData", "cuMemAlloc_v2", "cuGraphLaunch"])
def test_a_failure_of_the_card_names_the_call(name, library):
    library(answers={name: 999})
    with pytest.raises(DeviceError, match=f"the card failed in {name}; got CUDA_ERROR_TEST"):
        driver = CudaDriver(0)
        driver.load(memoryview(b"code"), ["k0"], TARGET)
        driver.record([], driver.allocate(64))()


def test_a_card_that_is_not_there_is_told(library):
    library()
    with pytest.raises(DeviceError, match=r"no such card; got cuda:9; valid: cuda:0"):
        CudaDriver(9)
    assert open_device("cuda:3").index == 3 and open_device("cuda").index == 0
    with pytest.raises(DeviceError, match=r"unknown device; got 'cuda:x'.*cuda\[:N\]"):
        open_device("cuda:x")


def test_without_a_driver_it_says_so(monkeypatch):
    monkeypatch.setattr(cards, "LIBRARY", "libno-such-driver.so.1")
    cards.driver.cache_clear()
    with pytest.raises(DeviceError, match=r"no driver for NVIDIA's cards; got no libno-such-driver"):
        cards.count()


def test_the_target_of_this_machine_s_card(library):
    library(capability=(8, 7))
    assert targets.get("cuda").name == "cuda-sm86"
    library(capability=(9, 0))
    assert targets.get("cuda").name == "cuda-sm90"
    library(capability=(7, 5))
    with pytest.raises(TargetError, match=r"no profile fits this machine's card; got sm_75; valid: sm_80, "):
        targets.get("cuda")


def container(**changes) -> Container:
    section = {
        "images": 1, "code_bytes": 4, "stored_bytes": 4, "memory_bytes": 256, "functions": ["k0"],
        "prepare": [], "inputs": [64], "outputs": [128],
        "run": [
            {"function": 0, "grid": 1, "threads": 32, "shared": 0, "pointers": [64, -1], "numbers": [1],
             "layer": 0}
        ],
    }  # fmt: skip
    port = {"name": "x", "shape": [1, 1, 2, 2], "dtype": "uint8"}
    program = {"target": TARGET, "launches": section | changes, "inputs": [port], "outputs": [port]}
    return Container(Path("p.so"), {"program": program}, b"CODEdata", 8)


def test_a_program_is_loaded_and_run(library):
    library()
    program = CardProgram(container(), CudaDriver(0))
    image = np.arange(4, dtype=np.uint8).reshape(1, 1, 2, 2)
    assert program.run({"x": image})["x"].shape == (1, 1, 2, 2)
    assert program.time(2, 1) == [0.0025, 0.0025]
    assert program.time_layers(repeats=2, together=5) == [0.0025 / 5]


def test_a_program_that_cannot_be_loaded_gives_back_what_it_took(library):
    made = library(answers={"cuMemAlloc_v2": 2})
    with pytest.raises(DeviceError, match="not enough free memory"):
        CardProgram(container(), CudaDriver(0))
    assert made.named("cuModuleUnload") and made.named("cuStreamDestroy_v2")


RUN = {"function": 0, "grid": 1, "threads": 32, "shared": 0, "pointers": [], "numbers": [], "layer": 0}


@pytest.mark.parametrize(
    "changes",
    [
        {"code_bytes": 5},
        {"stored_bytes": 400, "code_bytes": -392},
        {"outputs": [256]},
        {"run": [RUN | {"function": 1}]},
        {"prepare": [RUN | {"pointers": [256]}]},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_launches_that_leave_their_memory_are_refused(changes):
    with pytest.raises(ProgramError, match=r"launches of p\.so are not those of its code"):
        read_launches(container(**changes))


def test_programs_and_devices_that_do_not_belong_together(tmp_path, monkeypatch):
    with pytest.raises(ProgramError, match=r"p\.so is for a graphics card; got a program for cuda-sm80"):
        refuse_card(container())
    manifest = {"program": {"target": {"name": "host"}}}
    monkeypatch.setattr(
        "aqd_deploy.devices.cuda.read_container", lambda path: replace(container(), manifest=manifest)
    )
    with pytest.raises(ProgramError, match=r"is for a CPU; got --device cuda:0; valid: a program for a card"):
        CudaDevice(0).load(tmp_path / "p.so")
