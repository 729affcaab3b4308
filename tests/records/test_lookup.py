"""The compiler gets the choice of a task, or of its shape, and never one of another CPU."""

from __future__ import annotations

from dataclasses import replace
from importlib import resources

import pytest

from aqd_deploy.errors import RecordsError
from aqd_deploy.kernels.contract.choice import Choice
from aqd_deploy.kernels.contract.spec import AddBias, ConvSpec, Epilogue, Relu
from aqd_deploy.records.file import ACCEPTED, SLOWER, Header, Record, RecordsFile, read_records
from aqd_deploy.records.lookup import Tuned, load_tuned
from aqd_deploy.records.task import CardTask, Task
from aqd_deploy.targets import get
from aqd_deploy.targets.isa import Isa
from tools.ship_records import best_lines

DEVICE = get("host")
HEADER = Header.here(DEVICE)
ISA = Isa(DEVICE.kernels)
SPEC = ConvSpec(8, 8, 16, 32, (3, 3))
TASK = Task(SPEC, Epilogue(), ISA, 2)
CHOICE = Choice.of("blocked", rows=3)


def tuned_folder(folder, header=HEADER, choice=CHOICE, task=TASK):
    """A folder with one accepted record."""
    with RecordsFile(folder, header, DEVICE) as file:
        file.define(task.key, task.shape_key, task.to_json())
        file.add(Record(task.key, Choice.of("blocked", rows=1), ACCEPTED, 2e-3))
        file.add(Record(task.key, choice, ACCEPTED, 1e-3, 2e-3))
        file.add(Record(task.key, Choice.of("blocked", rows=9), SLOWER, 2e-3, 1e-3))
    return folder


def test_the_task_then_its_shape_then_nothing(tmp_path):
    tuned = load_tuned(tuned_folder(tmp_path), DEVICE)
    assert tuned.find(Task(SPEC, Epilogue(), ISA, 2)) == (CHOICE, "task")
    assert tuned.find(Task(SPEC, Epilogue((AddBias(), Relu())), ISA, 2)) == (CHOICE, "shape")
    assert tuned.find(Task(SPEC, Epilogue(), ISA, 1)) == (None, "")
    assert tuned.find(Task(replace(SPEC, odd=True), Epilogue(), ISA, 2)) == (None, "")


def test_the_time_of_a_choice_is_that_of_its_record(tmp_path):
    tuned = load_tuned(tuned_folder(tmp_path), DEVICE)
    assert tuned.seconds(TASK) == 1e-3
    assert tuned.seconds(Task(SPEC, Epilogue((AddBias(), Relu())), ISA, 2)) == 1e-3
    assert tuned.seconds(Task(SPEC, Epilogue(), ISA, 1)) is None


def test_none_and_missing(tmp_path):
    assert len(load_tuned("none", DEVICE)) == 0
    with pytest.raises(RecordsError, match="no tuning records"):
        load_tuned(tmp_path, DEVICE)


@pytest.mark.parametrize("change", [{"cpu": "Other-1-2"}, {"kernels": -1}, {"tvm": "0"}])
def test_what_holds_for_something_else_is_named_and_ignored(tmp_path, change):
    tuned = load_tuned(tuned_folder(tmp_path, replace(HEADER, **change)), DEVICE)
    assert len(tuned) == 0 and tuned.find(Task(SPEC, Epilogue(), ISA, 2)) == (None, "")
    assert len(tuned.notes) == 1 and "ignored" in tuned.notes[0]


def test_garbage_is_named_and_ignored(tmp_path):
    (tmp_path / "records.jsonl").write_bytes(b"\x00\xff not records")
    tuned = load_tuned(tmp_path, DEVICE)
    assert len(tuned) == 0 and "ignored" in tuned.notes[0]


def test_shipped_records_are_a_folder_s_best(tmp_path):
    other = Task(replace(SPEC, height=9), Epilogue(), ISA, 2)
    tuned_folder(tmp_path)
    tuned_folder(tmp_path, choice=Choice("loops"), task=other)
    path = tmp_path / "shipped.jsonl"
    path.write_text("\n".join(best_lines(tmp_path)) + "\n")
    tuned = load_tuned(path, DEVICE)
    assert tuned.notes == [] and len(tuned) == 2
    assert tuned.find(Task(SPEC, Epilogue((Relu(),)), ISA, 2)) == (CHOICE, "shape")
    assert tuned.find(Task(other.spec, Epilogue(), ISA, 2)) == (Choice("loops"), "task")


def test_a_default_that_was_never_beaten_does_not_ship(tmp_path):
    with RecordsFile(tmp_path, HEADER, DEVICE) as file:
        file.add(Record(TASK.key, CHOICE, ACCEPTED, 1e-3))
    assert len(best_lines(tmp_path)) == 1


def test_nothing_ships_without_records(tmp_path):
    with pytest.raises(RecordsError, match="cannot be read"):
        best_lines(tmp_path)


def shipped():
    """File name and header of every records file that ships."""
    with resources.as_file(resources.files("aqd_deploy.targets") / "records") as folder:
        return [(path.name, read_records(path).header) for path in sorted(folder.iterdir())]


def test_shipped_records_hold_for_the_profile_they_are_named_after():
    """Whatever CPU this is: a target that is named gets them."""
    assert shipped()
    for name, header in shipped():
        device = get(header.profile)
        assert name == f"{device.name}-{device.kernels}.jsonl"
        tuned = load_tuned(None, device)
        assert tuned.notes == [] and len(tuned) > 0


def test_shipped_records_of_another_cpu_are_named_and_ignored(monkeypatch):
    monkeypatch.setattr("aqd_deploy.records.file.cpu_kind", lambda: "Other-1-2")
    for name, header in shipped():
        tuned = load_tuned(None, replace(get(header.profile), name="host"))
        assert len(tuned) == 0 and len(tuned.notes) == 1
        assert tuned.notes[0].startswith(f"{name}: ignored: of another CPU")


def test_what_a_program_records_of_its_records_holds_wherever_they_lie(tmp_path):
    """No folder of the machine that compiled: equal records give equal programs."""
    folders = [tmp_path / "a", tmp_path / "b" / "deeper"]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "records.jsonl").write_bytes(b"\x00\xff not records")
    first, second = (load_tuned(folder, DEVICE) for folder in folders)
    assert (first.source, first.notes) == (second.source, second.notes)
    assert first.source.startswith("sha256:") and str(tmp_path) not in first.notes[0]


def test_records_of_a_card_hold_for_its_architecture_whatever_the_cpu(tmp_path, monkeypatch):
    card, other = get("cuda-sm80"), get("cuda-sm86")
    task = CardTask(SPEC, Epilogue(), card.card, 1)
    tuned_folder(tmp_path, Header.here(card), task=task)
    monkeypatch.setattr("aqd_deploy.records.file.cpu_kind", lambda: "another CPU")
    assert load_tuned(tmp_path, card).find(task) == (CHOICE, "task")
    assert load_tuned(tmp_path, card).find(replace(task, images=2)) == (None, "")
    for device, note in ((other, "of sm_80 kernels, not sm_86"), (DEVICE, "of the backend cuda, not cpu")):
        found = load_tuned(tmp_path, device)
        assert not len(found) and note in found.notes[0]


def test_choices_that_somebody_has_are_taken_as_they_are():
    given = Tuned.of({TASK.key: CHOICE})
    assert load_tuned(given, DEVICE) is given
    assert given.find(TASK) == (CHOICE, "task")
    assert given.find(Task(SPEC, Epilogue((AddBias(), Relu())), ISA, 2)) == (None, "")
