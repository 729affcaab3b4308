"""Tuning for a card: candidates are compiled into a batch, measured elsewhere, and the fastest ones kept."""

import re
import time
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from card_emulation import SourceCompiler, SourceDriver
from needs import need
from small_models import parallel_network, random_image, reference

from aqd_deploy import targets
from aqd_deploy.compiler import compile_model
from aqd_deploy.errors import BudgetError, DeviceError, RecordsError, TuningError
from aqd_deploy.kernels.contract.choice import Choice
from aqd_deploy.records.file import ACCEPTED, REJECTED, SLOWER, read_records
from aqd_deploy.runtime import read_container
from aqd_deploy.runtime.card_program import CardProgram
from aqd_deploy.tuning import card_tune
from aqd_deploy.tuning.card_batch import card_uses, left_to_try, open_batch, write_batch
from aqd_deploy.tuning.card_measure import measure_batch, states_of

DEVICE = targets.get("cuda-sm80")
MODEL = parallel_network()
_TILE = re.compile(r"Tile<(\d+), (\d+), ")


def cost(line: str) -> float:
    """Small tiles are fast."""
    found = _TILE.search(line)
    return 5.0 if found is None else int(found[1]) * int(found[2]) / 1000


def area(choice: Choice) -> int:
    return choice["rows"] * choice["columns"]


def uses():
    """The tasks with two of their choices: one of them has a smaller tile than the default, one a larger."""
    found = []
    for index, use in enumerate(card_uses(MODEL, DEVICE, 1)):
        first = use.choices[0]
        others = sorted((each for each in use.choices if area(each) != area(first)), key=area)
        found.append(replace(use, choices=[first, others[-(index % 2)]]))
    return found


def written(path, tasks=None, deadline=float("inf")):
    need("g++")
    return write_batch(
        MODEL, uses() if tasks is None else tasks, path, device=DEVICE, compiler=SourceCompiler(),
        deadline=deadline,
    )  # fmt: skip


def measured(batch, folder, driver=lambda: SourceDriver(cost), deadline=float("inf")):
    return measure_batch(batch, folder, open_driver=driver, card_name="a card", deadline=deadline)


@pytest.fixture(scope="module")
def batch(tmp_path_factory):
    path = tmp_path_factory.mktemp("batch") / "c.batch"
    written(path)
    return path


@pytest.fixture(scope="module")
def tuned(batch, tmp_path_factory):
    """What a measurement of the batch told, and its records."""
    folder = tmp_path_factory.mktemp("records")
    return measured(batch, folder), folder


def test_the_fastest_of_the_candidates_is_kept(tuned):
    report, folder = tuned
    records = read_records(folder / "records.jsonl")
    best = records.best()
    assert records.header.model == "a card" and records.header.isa == "sm_80"
    assert len(report.states) == len(best) == 3
    for state in report.states:
        tried = [choice for choice in state.use.choices if choice is not None]
        assert best[state.use.key].choice == min(tried, key=area) == state.best
        assert state.seconds == pytest.approx(area(state.best) / 1e9, rel=1e-9)  # sums of a few floats
        assert state.measured == len(tried)
    assert {record.state for record in records.candidates} == {ACCEPTED, SLOWER}


def test_a_program_of_the_records_has_their_kernels_and_the_same_integers(tuned, tmp_path):
    _, folder = tuned
    best = read_records(folder / "records.jsonl").best()
    out = tmp_path / "p.so"
    compile_model(MODEL, out, target=DEVICE, tuned=folder, toolchain=SourceCompiler())
    program = CardProgram(read_container(out), SourceDriver(cost))
    section = program.manifest["program"]
    for use in uses():
        for index in use.layers:
            layer = section["layers"][index]
            assert Choice.from_json(layer["choice"]) == best[use.key].choice and layer["tuned"] == "task"
    assert section["tuning"]["task"] == sum(len(use.layers) for use in uses())
    image = random_image(MODEL, 3)
    for name, expected in reference(MODEL, image).items():
        np.testing.assert_array_equal(program.run(image)[name], expected)


def test_what_has_a_record_is_not_tried_again(tuned):
    _, folder = tuned
    records = read_records(folder / "records.jsonl")
    left = left_to_try(card_uses(MODEL, DEVICE, 1), records)
    assert all(use.choices[0] == first.choices[0] for use, first in zip(left, uses(), strict=True))
    for use, before in zip(left, uses(), strict=True):
        assert not set(use.choices[1:]).intersection(before.choices)
        assert len(use.choices) == use.space - len(before.choices) + 1
    assert all(len(use.choices) == 1 for use in left_to_try(uses(), records))


def test_a_second_measurement_adds_only_what_is_new(batch, tuned, tmp_path):
    """As after one that was ended by its budget."""
    first = measured(batch, tmp_path, deadline=time.monotonic())
    assert first.candidates == len(first.states)
    assert all(state.measured == 1 for state in first.states)
    second = measured(batch, tmp_path)
    assert second.candidates == tuned[0].candidates - first.candidates
    assert [state.best for state in second.states] == [state.best for state in tuned[0].states]


class Wrong(SourceDriver):
    """The second program that is loaded gives other integers, or ends in the card's error."""

    loaded = 0

    def __init__(self, failure):
        super().__init__(cost)
        self.failure = failure

    def load(self, *arguments):
        super().load(*arguments)
        type(self).loaded += 1
        self.is_wrong = type(self).loaded == 2

    def download(self, address, data):
        super().download(address, data)
        if self.is_wrong:
            if self.failure:
                raise DeviceError("the card failed in cuStreamSynchronize")
            data.flat[0] += 1


@pytest.mark.parametrize(
    ("failure", "reason"), [(False, "[1-9] differing integers"), (True, "the card failed in cuStream")]
)
def test_a_candidate_that_is_not_exact_is_rejected_with_the_reason(batch, failure, reason, tmp_path):
    kind = type("Wrong", (Wrong,), {})
    report = measured(batch, tmp_path, lambda: kind(failure))
    records = read_records(tmp_path / "records.jsonl")
    rejected = [record for record in records.candidates if record.state == REJECTED]
    wrong = {use.key: use.choices[1] for use in open_uses(batch) if use.choices[1] is not None}
    assert {record.task: record.choice for record in rejected} == wrong
    assert all(re.search(reason, record.reason) for record in rejected)
    assert all(state.best != wrong.get(state.use.key) for state in report.states)


def open_uses(batch):
    with open_batch(batch) as opened:
        return opened.batch.uses


def test_defaults_that_are_not_exact_end_the_run(batch, tmp_path):
    kind = type("Wrong", (Wrong,), {"loaded": 1})
    with pytest.raises(TuningError, match=r"not exact on this card; got [1-9]") as caught:
        measured(batch, tmp_path, lambda: kind(False))
    assert caught.value.next_command
    assert not read_records(tmp_path / "records.jsonl").candidates


def test_a_budget_without_time_for_one_candidate(tmp_path):
    with pytest.raises(BudgetError, match="too small to compile one candidate"):
        written(tmp_path / "c.batch", deadline=0.0)
    assert not list(tmp_path.iterdir())


def test_nothing_is_left_to_try(tuned, tmp_path, monkeypatch):
    monkeypatch.setattr(card_tune, "card_uses", lambda *_: uses())
    monkeypatch.setattr(card_tune, "find_cuda_compiler", SourceCompiler)
    with pytest.raises(RecordsError, match="nothing is left to try"):
        card_tune.batched(
            MODEL, DEVICE, 1, tuned[1], tmp_path / "c.batch", float("inf"), lambda *_: None
        )  # fmt: skip


def changed(batch, path, *, without=(), content=None, compression=zipfile.ZIP_STORED):
    """A copy of the batch with other members."""
    with zipfile.ZipFile(batch) as old, zipfile.ZipFile(path, "w", compression) as new:
        for name in old.namelist():
            if name not in without:
                data = old.read(name)
                new.writestr(name, content(data) if content and name == "batch.json" else data)
    return path


DAMAGED = {
    "no zip": (lambda batch, path: path.write_bytes(b"no zip"), "no batch of candidates"),
    "cut off": (lambda batch, path: path.write_bytes(batch.read_bytes()[:-40]), "no batch of candidates"),
    "without a program": (lambda batch, path: changed(batch, path, without=("1.so",)), r"without 1\.so"),
    "without its list": (lambda batch, path: changed(batch, path, without=("batch.json",)), "no batch"),
    "compressed": (
        lambda batch, path: changed(batch, path, compression=zipfile.ZIP_DEFLATED), "not whole",
    ),
    "another format": (
        lambda batch, path: changed(
            batch, path, content=lambda b: b.replace(b'"aqd_card_batch": 1', b'"aqd_card_batch": 2')
        ),
        "format is not 1",
    ),
    "no layers": (
        lambda batch, path: changed(batch, path, content=lambda b: b.replace(b'"layers"', b'"levels"')),
        "layers is missing",
    ),
    "other kernels": (
        lambda batch, path: changed(
            batch, path, content=lambda b: re.sub(rb'"kernels": \d+', b'"kernels": 999', b)
        ),
        "the batch is of kernels version 999, not",
    ),
}  # fmt: skip


def test_layers_that_the_programs_do_not_have(batch, tmp_path):
    wrong = changed(
        batch, tmp_path / "c", content=lambda b: re.sub(rb'"layers": \[\d+', b'"layers": [999', b)
    )
    with pytest.raises(RecordsError, match="layers that its programs do not have"):
        measured(wrong, tmp_path / "records")


@pytest.mark.parametrize("name", DAMAGED)
def test_a_file_that_is_no_batch_is_told_in_a_sentence(name, batch, tmp_path):
    damage, sentence = DAMAGED[name]
    damage(batch, tmp_path / "c.batch")
    with pytest.raises(RecordsError, match=sentence) as caught:
        measured(tmp_path / "c.batch", tmp_path / "records")
    assert "--batch" in caught.value.next_command
    assert not (tmp_path / "records").exists()


def test_the_document_tells_what_changed(tuned):
    report, folder = tuned
    document = card_tune._told(report, folder, 2.0)
    assert document["best_ms"] < document["default_ms"]
    assert document["measured"] == sum(task["measured"] for task in document["tasks"])
    assert sum(task["share"] for task in document["tasks"]) == pytest.approx(1, abs=1e-3)  # of 4 digits each
    states = states_of(uses(), read_records(folder / "records.jsonl").candidates)
    assert [str(state.best) for state in states] == [task["choice"] for task in document["tasks"]]
