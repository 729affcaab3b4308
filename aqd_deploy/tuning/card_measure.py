"""The programs of a batch on a card: each exact or not, and the time of each of its convolutions.

Every candidate is timed in turn with the default, which stays on the card, so that the card's clock counts
for both. It is the best of its task where its ratio to the default is less than that of all before it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from aqd_deploy.arrays import Wanted, read_arrays
from aqd_deploy.errors import DeviceError, ProgramError, RecordsError, TuningError, line_of
from aqd_deploy.files import TemporaryFolder
from aqd_deploy.kernels.contract.choice import Choice
from aqd_deploy.records.file import ACCEPTED, REJECTED, SLOWER, Header, Record, RecordsFile
from aqd_deploy.runtime.card_program import CardProgram, Driver
from aqd_deploy.runtime.container import read_container
from aqd_deploy.runtime.tensors import TensorInfo
from aqd_deploy.targets import Target, get
from aqd_deploy.tuning.card_batch import Batch, CardUse, OpenBatch, open_batch
from aqd_deploy.tuning.progress import LEAST_GAIN, Standing


@dataclass
class CardState(Standing):
    """A task and how it stands."""

    use: CardUse
    best: Choice
    default_seconds: float | None = None
    seconds: float | None = None
    measured: int = 0
    accepted: int = 0
    rejected: int = 0


@dataclass
class CardReport:
    """What a run did: for what its records hold, the tasks' states, candidates that got a record, seconds it
    took, lines about records.
    """

    batch: Batch
    header: Header
    states: list[CardState]
    candidates: int
    seconds: float
    notes: list[str]


def states_of(uses: Sequence[CardUse], records: Sequence[Record]) -> list[CardState]:
    """The tasks, with what `records` say of them."""
    states = {use.key: CardState(use, use.default) for use in uses}
    for record in records:
        if record.task in states:
            states[record.task].note(record)
    return list(states.values())


def measure_batch(
    path: Path,
    folder: Path,
    *,
    open_driver: Callable[[], Driver],
    card_name: str,
    deadline: float,
    on_program: Callable[[int, int], None] = lambda done, total: None,
) -> CardReport:
    """Measure the programs of the batch at `path` one after the other, until `deadline` (`time.monotonic()`),
    and add what came out to the records in `folder`. `open_driver` opens the card, which is called
    `card_name`, once for each program.

    Raises RecordsError for a file that is no batch or is of other kernels, and where another process has the
    folder; ProgramError where the card cannot run the programs, DeviceError where it fails; TuningError where
    the defaults are not exact.
    """
    started = time.monotonic()
    with open_batch(path) as opened, TemporaryFolder() as scratch:
        batch = opened.batch
        header = replace(batch.header, model=card_name)
        device = get(header.profile)
        _check_version(header, device, path)
        with RecordsFile(folder, header, device) as file:
            before = len(file.records.candidates)
            run = _Run(opened, scratch, open_driver, file)
            run.measure(deadline, on_program)
            count, notes = len(file.records.candidates) - before, file.records.notes
    return CardReport(batch, header, run.states, count, time.monotonic() - started, notes)


def _check_version(header: Header, device: Target, path: Path) -> None:
    unfit = header.unfit_for(device)
    if unfit:
        raise RecordsError(
            f"the batch is {unfit}", received=str(path), valid="one that this version of aqd-deploy made",
            next_command="aqd-deploy tune MODEL.onnx --target NAME --batch FILE",
        )  # fmt: skip


class _Run:
    """The measurement of one batch; `file` gets a record as soon as there is one."""

    def __init__(
        self, opened: OpenBatch, scratch: Path, open_driver: Callable[[], Driver], file: RecordsFile
    ) -> None:
        self.opened, self.scratch, self.open_driver, self.file = opened, scratch, open_driver, file
        self.states = states_of(opened.batch.uses, file.records.candidates)
        for use in opened.batch.uses:
            file.define(use.key, use.shape, use.definition)

    def measure(self, deadline: float, on_program: Callable[[int, int], None]) -> None:
        """Measure the programs."""
        total = self.opened.batch.programs
        default = self._load(0)
        try:
            inputs, outputs = self.opened.example(self.scratch)
            self.inputs = read_arrays(inputs, _wanted(default.inputs))
            self.expected = read_arrays(outputs, _wanted(default.outputs))
            differing = self._differing(default)
            if differing:
                raise TuningError(
                    "the kernels that the estimate chooses are not exact on this card",
                    received=f"{differing} differing integers",
                    next_command="aqd-deploy run PROGRAM.so --input X.npz --check MODEL.int.onnx",
                )
            seconds = default.time_layers()
            if any(layer >= len(seconds) for state in self.states for layer in state.use.layers):
                raise RecordsError(
                    "the batch tells of layers that its programs do not have",
                    received=f"{len(seconds)} layers", valid="a file that tune --batch wrote",
                    next_command="aqd-deploy tune MODEL.onnx --target NAME --batch FILE",
                )  # fmt: skip
            self._settle_defaults(seconds)
            for number in range(1, total):
                if time.monotonic() >= deadline:
                    break
                self._candidate(number, default)
                on_program(number, total - 1)
        finally:
            default.close()

    def _load(self, number: int) -> CardProgram:
        path = self.opened.program(number, self.scratch)
        try:
            return CardProgram(read_container(path), self.open_driver())
        finally:
            path.unlink()

    def _differing(self, program: CardProgram) -> int:
        """How many integers are not those of the integer network."""
        found = program.run(self.inputs)
        return sum(int(np.count_nonzero(found[name] != each)) for name, each in self.expected.items())

    def _settle_defaults(self, seconds: Sequence[float]) -> None:
        for state in self.states:
            if state.default_seconds is None:
                own = _mean(state.use, seconds)
                self._add(state, Record(state.use.key, state.use.default, ACCEPTED, own))

    def _candidate(self, number: int, default: CardProgram) -> None:
        """One program: records of all its choices."""
        mine, why = self._timed(number)
        theirs = default.time_layers() if mine else []
        for state in self.states:
            choice = state.use.choices[number]
            if choice is None:
                continue
            if mine:
                self._add(state, self._compared(state, choice, mine, theirs))
            else:
                self._add(state, Record(state.use.key, choice, REJECTED, reason=why))

    def _timed(self, number: int) -> tuple[list[float], str]:
        """Seconds of the layers of a program, or none and why."""
        try:
            program = self._load(number)
            try:
                differing = self._differing(program)
                if differing:
                    return [], f"{differing} differing integers in a program of several candidates"
                return program.time_layers(), ""
            finally:
                program.close()
        except (DeviceError, ProgramError) as error:
            return [], f"a program of several candidates: {line_of(error)}"

    @staticmethod
    def _compared(state: CardState, choice: Choice, mine: Sequence[float], theirs: Sequence[float]) -> Record:
        """The best one before would have taken its share of the default's time."""
        assert state.seconds is not None and state.default_seconds is not None, "defaults were settled"
        share = state.seconds / state.default_seconds
        seconds, best = _mean(state.use, mine), _mean(state.use, theirs) * share
        faster = seconds < best * (1 - LEAST_GAIN)
        return Record(state.use.key, choice, ACCEPTED if faster else SLOWER, seconds, best)

    def _add(self, state: CardState, record: Record) -> None:
        self.file.add(record)
        state.note(record)


def _mean(use: CardUse, seconds: Sequence[float]) -> float:
    """Seconds of one call of a task, over its layers. A clock may tell less than its step, which is no time:
    a record asks for one.
    """
    return max(float(np.mean([seconds[layer] for layer in use.layers])), 1e-9)


def _wanted(infos: Sequence[TensorInfo]) -> Wanted:
    return {info.name: (info.shape, (info.dtype,)) for info in infos}
