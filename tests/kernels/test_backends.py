"""Backends: who compiles, tunes or measures is handed one and knows no kernels of a device."""

import ast
from dataclasses import dataclass, replace

import pytest
from needing import ROOT

from aqd_deploy import targets
from aqd_deploy.bench.estimate import estimate
from aqd_deploy.bench.inner_loops import inner_loops
from aqd_deploy.cli.main import invoke
from aqd_deploy.compiler.build import compile_model
from aqd_deploy.compiler.movement import MOVEMENT_KERNELS, MovementKernel, kernel_of
from aqd_deploy.compiler.plan import OneInput, OneOutput, Operation, Plan, Rearrangement
from aqd_deploy.compiler.relax_module import BuiltModule, build_relax, kernel_threads
from aqd_deploy.compiler.toolchain import Toolchain
from aqd_deploy.errors import TargetError, UnsupportedModelError
from aqd_deploy.integer.types import TensorType
from aqd_deploy.kernels.backends import BACKENDS, CARD_BACKENDS, backend_named, backend_of, card_backend_of
from aqd_deploy.kernels.contract.caches import CORE
from aqd_deploy.kernels.contract.choice import Choice
from aqd_deploy.kernels.contract.spec import ConvSpec, Epilogue
from aqd_deploy.kernels.cpu.backend import SERIAL_BYTES, SERIAL_MACS, CpuBackend
from aqd_deploy.records.lookup import Tuned
from aqd_deploy.records.task import Task
from aqd_deploy.reporting.readiness import readiness
from aqd_deploy.targets.isa import Isa
from aqd_deploy.tuning.tune import task_states
from aqd_deploy.tuning.worker import build_candidate, candidate_module

DEVICE = targets.get("raspberrypi-5")
NOBODY_S = replace(DEVICE, backend="tpu")
EMPTY = Plan([], [], [], {}, {})
TOOLCHAIN = Toolchain(("c++",), "native", "x86_64")
TASK = Task(ConvSpec(8, 8, 16, 16, (1, 1)), Epilogue(), Isa.PORTABLE, 1)


def test_a_target_names_its_backend():
    assert backend_of(DEVICE) == CpuBackend(Isa(DEVICE.kernels), backend_of(DEVICE).core)
    assert {targets.get(name).backend for name in targets.names()} <= {*BACKENDS, *CARD_BACKENDS}


def built(name, folder):
    return build_candidate(candidate_module(TASK, Choice("loops"), folder, name, TOOLCHAIN), None)


ASKED = {
    "backend": lambda folder: backend_of(NOBODY_S),
    "backend by name": lambda folder: backend_named("tpu", Isa.PORTABLE, CORE),
    "tuning": lambda folder: task_states(EMPTY, NOBODY_S, 1),
    "candidate": lambda folder: built("tpu", folder),
    "compile": lambda folder: compile_model(None, folder / "p.so", target=NOBODY_S),
    "estimate of a program": lambda folder: estimate(folder / "p.so", NOBODY_S),
    "estimate": lambda folder: inner_loops(BuiltModule(None, None), NOBODY_S),
}


@pytest.mark.parametrize("place", ASKED)
def test_an_unknown_backend_is_an_error(place, tmp_path, monkeypatch):
    monkeypatch.setattr("aqd_deploy.bench.inner_loops.obstacle", lambda target: "")
    with pytest.raises(TargetError, match=r"unknown backend.*tpu.*valid: cpu"):
        ASKED[place](tmp_path)


CARD = targets.get("cuda-sm80")
ASKED_OF_A_CARD = {
    "backend": lambda: backend_of(CARD),
    "tuning": lambda: task_states(EMPTY, CARD, 1),
    "estimate": lambda: inner_loops(BuiltModule(None, None), CARD),
}


@pytest.mark.parametrize("place", ASKED_OF_A_CARD)
def test_who_needs_tir_is_told_that_a_card_has_none(place, monkeypatch):
    monkeypatch.setattr("aqd_deploy.bench.inner_loops.obstacle", lambda target: "")
    with pytest.raises(TargetError, match=r"not TIR.*'cuda'.*valid: a profile of a CPU"):
        ASKED_OF_A_CARD[place]()


def test_a_cpu_is_no_card():
    assert card_backend_of(CARD).card == "sm_80"
    with pytest.raises(TargetError, match=r"raspberrypi-5 is no card.*'cpu'.*valid: the backend cuda"):
        card_backend_of(DEVICE)
    with pytest.raises(TargetError, match=r"no kernels for this card; got 'sm_70'; valid: sm_80, "):
        card_backend_of(replace(CARD, card="sm_70"))


def test_an_unknown_backend_is_not_ready():
    document = readiness(NOBODY_S)
    check = next(check for check in document["checks"] if check["what"] == "kernels")
    assert not document["ready"] and check["state"] == "missing"
    assert check["detail"] == "unknown backend; got 'tpu'"
    assert readiness(DEVICE)["checks"][0]["detail"] == "cpu, dotprod"


@pytest.fixture
def nobody_s(tmp_path, monkeypatch):
    """The name of a profile with an unknown backend."""
    monkeypatch.setenv("AQD_DEPLOY_TARGETS", str(tmp_path))
    text = 'extends = "x86-64-v3"\ndescription = "x"\nbackend = "tpu"\n'
    (tmp_path / "nobody.toml").write_text(text)
    return "nobody"


def test_a_profile_with_an_unknown_backend_is_told(nobody_s, tmp_path, capsys):
    assert invoke(["targets", "show", nobody_s]) == 0
    assert "unknown backend; got 'tpu'" in capsys.readouterr().out
    assert invoke(["targets", "show", "x86-64-v3"]) == 0
    assert "backend" not in capsys.readouterr().out
    assert invoke(["doctor", "--target", nobody_s]) == 1
    assert "not ready to compile for nobody: unknown backend; got 'tpu'" in capsys.readouterr().err


@pytest.mark.parametrize("verb", [["compile", "-o", "p.so"], ["tune"]], ids=["compile", "tune"])
def test_an_unknown_backend_is_told_before_the_work(verb, nobody_s, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert invoke([*verb, "no-such-model.onnx", "--target", nobody_s]) == 1
    assert capsys.readouterr().err == "error: unknown backend; got 'tpu'; valid: cpu, cuda\n"


def test_small_work_stays_on_one_thread():
    backend = CpuBackend(Isa.PORTABLE)
    assert backend.threads_of(4, macs=SERIAL_MACS - 1) == backend.threads_of(4, moved=SERIAL_BYTES - 1) == 1
    assert backend.threads_of(4, macs=SERIAL_MACS) == backend.threads_of(4, moved=SERIAL_BYTES) == 4


class Twist(Operation):
    """An operation that nobody wrote a kernel for."""

    name, reads, writes = "twist", ("x",), ("y",)


def test_an_operation_without_a_kernel_is_an_error():
    plan = Plan([], [], [Twist()], {name: TensorType(1, 1, 1, "uint8") for name in "xy"}, {})
    assert kernel_threads(plan, Twist(), CpuBackend(Isa.PORTABLE), 2) == 1
    for asked in (
        lambda: kernel_of(Twist()),
        lambda: build_relax(plan, CpuBackend(Isa.PORTABLE), 1, Tuned()),
    ):
        with pytest.raises(UnsupportedModelError, match=r"twist.*Twist.*MaxPool"):
            asked()


def test_every_operation_of_a_plan_but_a_convolution_has_an_entry():
    known, kinds = [Operation], set()
    while known:
        found = known.pop().__subclasses__()
        known += found
        kinds |= {
            kind for kind in found if kind.__module__ == Operation.__module__ and not kind.__subclasses__()
        }
    assert {kind.__name__ for kind in kinds} == {kind.__name__ for kind in MOVEMENT_KERNELS} | {"Conv"}


@dataclass(frozen=True)
class Turned(OneInput, OneOutput, Rearrangement):
    """An operation with a parameter of its own."""

    name: str
    input: str
    output: str
    turns: int


def test_operations_that_differ_in_more_than_their_tensors_do_not_share_a_kernel():
    kernel = MovementKernel("turned", lambda *_: None)
    assert kernel.variant(Turned("a", "x", "y", 1)) == kernel.variant(Turned("b", "z", "w", 1))
    assert kernel.variant(Turned("a", "x", "y", 1)) != kernel.variant(Turned("a", "x", "y", 2))


# What everybody may import of the kernels: nothing that is written for one kind of device.
OPEN = ("", "contract", "storage", "winograd", "backends", "reference")


def kernels_imported(source: str) -> set[str]:
    """The parts of `aqd_deploy.kernels` that a module imports, wherever in it."""
    modules = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules.add(node.module)
            modules |= {
                f"{node.module}.{alias.name}" for alias in node.names if node.module == "aqd_deploy.kernels"
            }
    ours = (module.split(".") for module in modules if f"{module}.".startswith("aqd_deploy.kernels."))
    return {(*parts, "", "")[2] for parts in ours} - {"KERNEL_VERSION"}


def test_nobody_imports_kernels_of_a_device():
    files = [
        path
        for folder in ("aqd_deploy", "passes", "targets", "tools")
        for path in (ROOT / folder).rglob("*.py")
        if not path.is_relative_to(ROOT / "aqd_deploy/kernels")
    ]
    imported = {str(path.relative_to(ROOT)): kernels_imported(path.read_text("utf-8")) for path in files}
    assert any("backends" in parts for parts in imported.values())
    assert {path: parts - set(OPEN) for path, parts in imported.items() if parts - set(OPEN)} == {}


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("from aqd_deploy.kernels.cpu.emit import Emitter", "cpu"),
        ("import aqd_deploy.kernels.cpu.conv.families", "cpu"),
        ("from aqd_deploy.kernels import cpu", "cpu"),
        ("def f():\n    from aqd_deploy.kernels.cuda import backend", "cuda"),
    ],
)
def test_an_import_is_found(line, part):
    assert part in kernels_imported(line)
