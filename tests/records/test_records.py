"""Records survive kills and damage: what is left out is named, and nothing is invented."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aqd_deploy.errors import RecordsError
from aqd_deploy.kernels.contract.choice import Choice
from aqd_deploy.records.file import (
    ACCEPTED,
    FILE_NAME,
    REJECTED,
    SLOWER,
    Header,
    Record,
    RecordsFile,
    parse_records,
    read_records,
)
from aqd_deploy.targets import get

DEVICE = get("host")
HEADER = Header.here(DEVICE)
FIRST = Record("a", Choice.of("blocked", rows=1), ACCEPTED, 2e-3)
RECORDS = [
    FIRST,
    Record("a", Choice.of("blocked", rows=2), SLOWER, 3e-3, 2e-3),
    Record("b", Choice("loops"), REJECTED, reason="3 of 4 integers differ"),
    Record("a", Choice.of("winograd", tiles=4), ACCEPTED, 1e-3, 2e-3),
]


def written(folder):
    """A folder with RECORDS, and the path of its file."""
    with RecordsFile(folder, HEADER, DEVICE) as file:
        file.define("a", "shape", {"any": "thing"})
        for record in RECORDS:
            file.add(record)
    return folder / FILE_NAME


def test_round_trip(tmp_path):
    found = read_records(written(tmp_path))
    assert found.candidates == RECORDS
    assert found.header == HEADER
    assert found.shapes == {"a": "shape"}
    assert found.notes == []
    assert found.best() == {"a": RECORDS[-1]}


def test_a_header_names_a_backend_that_is_not_that_of_cpus():
    assert "backend" not in HEADER.to_json()
    other = replace(HEADER, backend="tpu")
    assert other.to_json()["backend"] == "tpu" and Header.from_json(other.to_json()) == other
    assert HEADER.unfit_for(replace(DEVICE, backend="tpu")) == "of the backend cpu, not tpu"


def test_a_later_run_appends(tmp_path):
    path = written(tmp_path)
    with RecordsFile(tmp_path, HEADER, DEVICE) as file:
        assert file.records.candidates == RECORDS
        file.add(FIRST)
    assert read_records(path).candidates == [*RECORDS, FIRST]
    assert path.read_text().count("aqd_tuning_records") == 1


@given(cut=st.integers(1, 200))
def test_a_torn_last_line_is_dropped_and_named(tmp_path_factory, cut):
    folder = tmp_path_factory.mktemp("torn")
    path = written(folder)
    content = path.read_bytes()
    last = len(content.splitlines(keepends=True)[-1])
    path.write_bytes(content[: -min(cut, last)])
    found = read_records(path)
    assert found.candidates == RECORDS[:-1]
    assert [("torn" in note) for note in found.notes] == ([True] if cut < last else [])
    with RecordsFile(folder, HEADER, DEVICE) as file:
        file.add(RECORDS[-1])
    assert read_records(path).candidates == RECORDS
    assert read_records(path).notes == []


@given(line=st.integers(1, 5), garbage=st.binary(min_size=1, max_size=30))
def test_damaged_lines_are_left_out_and_named(tmp_path_factory, line, garbage):
    path = written(tmp_path_factory.mktemp("damaged"))
    lines = path.read_bytes().split(b"\n")
    lines[line] = b"{" + garbage.replace(b"\n", b"?")
    path.write_bytes(b"\n".join(lines))
    found = read_records(path)
    assert found.header == HEADER
    assert len(found.notes) == 1 and str(path) in found.notes[0] and "\n" not in found.notes[0]
    assert all(record in RECORDS for record in found.candidates)


@given(st.binary(max_size=300))
def test_no_file_is_a_crash(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("any") / FILE_NAME
    path.write_bytes(content)
    found = read_records(path)
    assert found.candidates == [] and len(found.notes) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"choice": {"rows": 1}},
        {"choice": 3},
        {"state": "best"},
        {"seconds": None},
        {"seconds": -1.0},
        {"task": []},
    ],
)
def test_a_record_that_makes_no_sense_is_damage(tmp_path, change):
    path = written(tmp_path)
    with path.open("a") as file:
        file.write(json.dumps({**FIRST.to_json(), **change}) + "\n")
    found = read_records(path)
    if change != {"task": []}:
        assert found.candidates == RECORDS
        assert "damaged" in found.notes[0]


def test_a_parameter_of_any_name(tmp_path):
    path = written(tmp_path)
    with path.open("a") as file:
        file.write(json.dumps({**FIRST.to_json(), "choice": {"family": "blocked", "cls": 1}}) + "\n")
    assert read_records(path).candidates[-1].choice.to_json() == {"family": "blocked", "cls": 1}


def test_many_damaged_lines_take_little_memory(tmp_path):
    content = written(tmp_path).read_bytes() + b"{}\n" * 50_000
    tracemalloc.start()
    records = parse_records(content, "r.jsonl")
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
    assert records.notes == ["r.jsonl: 50000 damaged lines ignored: 7, 8, 9, 10, 11, ..."]
    assert records.candidates == RECORDS


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kernels": 0}, "kernels version 0"),
        ({"tvm": "0.1"}, "TVM 0.1"),
        ({"backend": "tpu"}, "the backend tpu, not cpu"),
        ({"isa": "neon"}, "neon kernels"),
        ({"cpu": "Other-1-2", "model": "Another CPU"}, "Another CPU"),
    ],
)
def test_what_holds_for_something_else_is_set_aside(tmp_path, change, said):
    with RecordsFile(tmp_path, replace(HEADER, **change), DEVICE) as file:
        file.add(FIRST)
    with RecordsFile(tmp_path, HEADER, DEVICE) as file:
        assert file.records.candidates == []
        assert said in file.records.notes[0]
    assert read_records(tmp_path / "records.1.jsonl").candidates == [FIRST]
    assert read_records(tmp_path / FILE_NAME).header == HEADER


def test_records_of_another_cpu_serve_the_target_they_name():
    other = replace(HEADER, cpu="Other-1-2")
    assert other.unfit_for(DEVICE)
    named = get(DEVICE.profile)
    assert not other.unfit_for(named)


def test_two_processes_do_not_write_one_folder(tmp_path):
    with RecordsFile(tmp_path, HEADER, DEVICE), pytest.raises(RecordsError, match="another process"):
        RecordsFile(tmp_path, HEADER, DEVICE)
    RecordsFile(tmp_path, HEADER, DEVICE).close()
