"""A failure of the machine is no record of a candidate, and ends the run where nothing can be measured."""

from __future__ import annotations

import os
import signal
from types import SimpleNamespace

import pytest
from test_budget import BUILD, CHOICES, FakeEngine, FakeFile

from aqd_deploy.errors import TuningError
from aqd_deploy.kernels.contract.spec import ConvSpec, Epilogue
from aqd_deploy.records.file import ACCEPTED, REJECTED, Record
from aqd_deploy.records.task import Task
from aqd_deploy.targets.isa import Isa
from aqd_deploy.tuning import tune
from aqd_deploy.tuning.engine import Built, Measured
from aqd_deploy.tuning.failures import CrashError, Fault, cannot_go_on, death, fault_of
from aqd_deploy.tuning.network import Use
from aqd_deploy.tuning.progress import TaskState
from aqd_deploy.tuning.space import Space

NOEXEC = "tvm.error.InternalError: Failed to load k.so: failed to map segment from shared object"


@pytest.mark.parametrize(
    ("reason", "fault"),
    [
        ("aqd_deploy.tuning.failures.NotExactError: output 0: 1 of 9 integers differ", Fault.CANDIDATE),
        ("aqd_deploy.tuning.worker.NotExactError: output 0: 1 of 9 integers differ", Fault.CANDIDATE),
        ("aqd_deploy.tuning.failures.InstructionError: its code has no vpdpbusd", Fault.CANDIDATE),
        ("aqd_deploy.tuning.failures.CompileError: LLVM cannot select", Fault.CANDIDATE),
        (str(death(-signal.SIGSEGV)), Fault.CANDIDATE),
        (str(death(-signal.SIGILL)), Fault.CANDIDATE),
        (str(death(-signal.SIGKILL)), Fault.MACHINE),
        (str(death(1)), Fault.MACHINE),
        ("not built within 60 s", Fault.TIME),
        ("LocalRunner: Timeout, killed after 15.0 seconds", Fault.TIME),
        ("RPCRunner: Timeout, killed after 30 seconds", Fault.TIME),
        (NOEXEC, Fault.MACHINE),
        ("OSError: [Errno 28] No space left on device: 'packed.npy'", Fault.MACHINE),
        ("OSError: /usr/bin/c++ failed: collect2: fatal error: cannot find 'ld'", Fault.MACHINE),
        ("FileNotFoundError: [Errno 2] No such file or directory: 'c++'", Fault.MACHINE),
        ("MemoryError", Fault.MACHINE),
        ("RuntimeError: NotExactError: but not said by ours", Fault.MACHINE),
        ("no message", Fault.MACHINE),
    ],
)
def test_only_what_is_known_to_be_the_candidates_is_its_fault(reason, fault):
    assert fault_of(reason) is fault


@pytest.mark.parametrize(
    ("reason", "boards", "told"),
    [
        (NOEXEC, "", "on this machine.*TMPDIR=FOLDER"),
        ("OSError: [Errno 28] No space left on device", "", "free some space"),
        (str(death(-signal.SIGKILL)), "", "ended by SIGKILL; try: free some memory"),
        ("OSError: c++ failed", "", "aqd-deploy doctor"),
        ("RPCError: connection reset", "rpc:h:1/k", "on the boards of rpc:h:1/k"),
    ],
)
def test_the_sentence_names_the_way_out(reason, boards, told):
    with pytest.raises(TuningError, match=told):
        raise cannot_go_on(reason, boards)


class FailingEngine(FakeEngine):
    """Fails as `failures` say: a reason by the number of the candidate, counted from 0, or for all."""

    def __init__(self, failures, parallel=1, *, building=False):
        super().__init__(parallel)
        self.failures, self.building, self.count = failures, building, 0

    def _reason(self):
        self.count += 1
        if isinstance(self.failures, str):
            return self.failures
        return self.failures.get(self.count - 1, "")

    def build(self, jobs, deadline):
        found = super().build(jobs, deadline)
        if not self.building:
            return found
        reasons = [self._reason() for _ in found]
        return [
            Built(built.choice, None, reason, fault_of(reason)) if reason and not built.unfinished else built
            for built, reason in zip(found, reasons, strict=True)
        ]

    def result(self, candidate, incumbent):
        reason = "" if self.building else self._reason()
        if reason:
            return Measured([], [], reason, fault_of(reason))
        return super().result(candidate, incumbent)


@pytest.fixture
def run(monkeypatch, tmp_path):
    """A function that tunes tasks of these heights with an engine; returns the states and records."""

    def call(engine, heights=(10,), budget=1000, earlier=()):
        file = FakeFile()
        monkeypatch.setattr(tune, "time", SimpleNamespace(monotonic=lambda: engine.now))
        states = [state(height) for height in heights]
        for each in states:
            each.replay(earlier)
        loop = tune._Tuner(None, states, file, tmp_path, engine.now, budget, lambda _: None)
        monkeypatch.setattr(loop, "_folder", lambda state: tmp_path)
        try:
            loop.run(engine)
        finally:
            call.records, call.notes = file.records.candidates, loop.notes()
        return states

    return call


def state(height):
    task = Task(ConvSpec(height, 8, 16, 32, (3, 3)), Epilogue(), Isa.PORTABLE, 1)
    return TaskState(Use(task, [None]), Space(CHOICES), CHOICES[0])


@pytest.mark.parametrize("building", [True, False])
@pytest.mark.parametrize("heights", [(10,), (10, 20, 30, 40)])
@pytest.mark.parametrize("parallel", [1, 4])
def test_a_machine_where_nothing_can_be_measured(run, heights, parallel, building):
    engine = FailingEngine(NOEXEC, parallel, building=building)
    with pytest.raises(TuningError, match="failed to map segment"):
        run(engine, heights)
    assert run.records == []
    assert engine.now - 100 <= 6 * len(heights) * BUILD


@pytest.mark.parametrize("building", [True, False])
def test_a_machine_that_fails_on_the_way(run, building):
    """Such as a disk that fills: what was measured before stays, and nothing is added."""
    engine = FailingEngine(dict.fromkeys(range(9, 10**4), NOEXEC), building=building)
    with pytest.raises(TuningError):
        run(engine)
    assert run.records
    assert all(record.state != REJECTED for record in run.records)


@pytest.mark.parametrize("reason", [NOEXEC, str(death(-signal.SIGKILL)), "not built within 60 s"])
@pytest.mark.parametrize("building", [True, False])
def test_a_lost_candidate_is_left_to_a_later_run(run, reason, building):
    (first,) = run(FailingEngine({5: reason, 20: reason}, building=building))
    recorded = {record.choice for record in run.records}
    assert first.started and len(recorded) == len(CHOICES) - 2
    assert run.notes == [f"2 not measured, to be tried again: {reason}"]
    records = run.records
    again = state(10)
    again.replay(records)
    assert again.space.tried == recorded
    run(FailingEngine({}), earlier=records)
    assert {record.choice for record in run.records} == set(CHOICES) - recorded


@pytest.mark.parametrize("reason", [NOEXEC, "LocalRunner: Timeout, killed after 15.0 seconds"])
def test_a_lost_default_is_measured_again_before_any_other(run, reason):
    run(FailingEngine({0: reason, 1: reason}))
    first = run.records[0]
    assert (first.choice, first.state, first.best_seconds) == (CHOICES[0], ACCEPTED, None)


def test_candidates_that_take_too_long_do_not_end_a_run(run):
    (found,) = run(FailingEngine(dict.fromkeys(range(9, 30), "not built within 60 s"), building=True))
    assert found.measured > len(CHOICES) - 25


def test_a_default_that_always_takes_too_long(run):
    with pytest.raises(TuningError, match="not built within"):
        run(FailingEngine("not built within 60 s", building=True))
    assert run.records == []


def test_no_candidate_at_all_is_exact(run):
    wrong = "aqd_deploy.tuning.failures.NotExactError: output 0: 1 of 9 integers differ"
    with pytest.raises(TuningError, match=r"no candidate of this network.*1 of 9 integers differ"):
        run(FailingEngine(wrong))
    assert {record.state for record in run.records} == {REJECTED}


def test_records_that_a_failing_machine_spoiled(run):
    """The default is tried again first, and takes the place of what was accepted without it."""
    key = state(10).use.task.key
    slow = CHOICES[-1]
    spoiled = [
        *(Record(key, choice, REJECTED, reason=NOEXEC) for choice in CHOICES[:-1]),
        Record(key, slow, ACCEPTED, 10 * (1 + 4 + 4)),
    ]
    loaded = state(10)
    loaded.replay(spoiled)
    assert (loaded.best, loaded.hints, loaded.rejected) == (slow, [CHOICES[0]], 0)
    run(FailingEngine({}), earlier=spoiled)
    assert len(run.records) == len(CHOICES) - 1
    assert CHOICES[0] in [record.choice for record in run.records[:8]]


@pytest.mark.e2e
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_what_a_worker_process_died_of(number):
    pytest.importorskip("cloudpickle")
    from aqd_deploy.tuning.pool import Worker

    worker = Worker()
    try:
        with pytest.raises(CrashError if number == signal.SIGSEGV else ChildProcessError, match=number.name):
            worker.call(signal.raise_signal, (int(number),), 60.0)
        assert worker.call(divmod, (17, 5), 60.0) == (3, 2)
    finally:
        worker.end()


@pytest.mark.e2e
def test_a_linker_that_does_not_work(tmp_path, monkeypatch):
    """Found, tried, and failing: with it nothing is built, and nothing is recorded of any candidate."""
    pytest.importorskip("cloudpickle")
    from small_models import tiny_network

    broken = tmp_path / "bin" / "c++"
    broken.parent.mkdir()
    broken.write_text("#!/bin/sh\necho 'cannot find ld' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{broken.parent}:{os.environ['PATH']}")
    records = tmp_path / "records"
    with pytest.raises(TuningError, match="cannot find ld"):
        tune.tune(tiny_network(), records, budget=300, threads=1)
    (header,) = (records / "records.jsonl").read_text().splitlines()
    assert "aqd_tuning_records" in header
