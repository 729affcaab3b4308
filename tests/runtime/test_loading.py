"""What is loaded is what was verified, and it is unloaded."""

from __future__ import annotations

import ctypes
import gc
import os
import tempfile

import numpy as np
import pytest
from small_programs import assert_equal, run_script, write_variants

from aqd_deploy.devices import open_device
from aqd_deploy.errors import ProgramError
from aqd_deploy.runtime import Program, library
from aqd_deploy.runtime.container import append_manifest, read_manifest
from aqd_deploy.runtime.library import _fresh_path


def replace(path, content):
    """As `compile` writes: another file under the name."""
    new = path.with_suffix(".new")
    new.write_bytes(content)
    new.replace(path)


def overwrite(path, content):
    """As `cp` writes: the same file, with other bytes."""
    path.write_bytes(content)


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("write", [replace, overwrite])
def test_a_program_recompiled_to_the_same_path(write, kept, small_pair, tmp_path):
    path = tmp_path / "p.so"
    loaded = []
    for compiled in (*small_pair, small_pair[0]):
        write(path, compiled.content)
        program = Program.load(path)
        assert_equal(program.run(compiled.inputs), compiled.outputs)
        loaded.append((program, compiled))
        if not kept:
            loaded.clear()
            del program
    for program, compiled in loaded:
        assert_equal(program.run(compiled.inputs), compiled.outputs)


def test_a_file_that_is_damaged_after_it_was_loaded(small_pair, tmp_path):
    path = tmp_path / "p.so"
    path.write_bytes(small_pair[0].content)
    program = Program.load(path)
    path.write_bytes(b"\0" * len(small_pair[0].content))
    assert_equal(program.run(small_pair[0].inputs), small_pair[0].outputs)
    path.unlink()
    assert_equal(program.run(small_pair[0].inputs), small_pair[0].outputs)


def test_the_device_of_this_process_sees_what_was_recompiled(small_pair, tmp_path):
    path = tmp_path / "p.so"
    device = open_device("local")
    for compiled in (*small_pair, small_pair[0]):
        replace(path, compiled.content)
        assert_equal(device.run(path, compiled.inputs), compiled.outputs)
    loaded = device._loaded.copy()
    device.run(path, small_pair[0].inputs)
    assert device._loaded == loaded and len(loaded) == 1
    device.close()


FLAT = """
import gc, os, sys
from pathlib import Path
from small_programs import INPUTS
from aqd_deploy.runtime import Program

def held():
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    maps = Path("/proc/self/maps").read_text()
    files = len(os.listdir("/proc/self/fd"))
    counts = [files, int(status["Threads"]), maps.count(".so"), maps.count("variant")]
    return counts, (maps.count("\\n"), int(status["VmRSS"].split()[0]))

def use(path):
    (output,) = Program.load(path).run(INPUTS).values()
    return output.tobytes()

paths = [Path(sys.argv[1], f"variant{index}.so") for index in range(100)]
for path in paths[:20]:
    use(path)
before, (maps, rss) = held()
assert len({use(path) for path in paths}) == 100, "the programs do not differ"
after, (maps_now, rss_now) = held()
assert after == before, (before, after)
assert maps_now - maps <= 5, (maps, maps_now)
assert rss_now - rss < 1000, (rss, rss_now)
assert after[-1] == 0, "a program is still mapped"
assert not gc.garbage
"""


def test_a_hundred_programs_leave_nothing(small_pair, tmp_path):
    write_variants(*small_pair, tmp_path, 100)
    run_script(FLAT, tmp_path)


def test_a_program_that_is_used_stays(small_pair, tmp_path):
    """A hundred others come and go beside it, all through the same descriptor."""
    first, second = small_pair
    program = Program.load(first.path)
    for path in write_variants(second, first, tmp_path, 10):
        Program.load(path).run(first.inputs)
    assert_equal(program.run(first.inputs), first.outputs)


def test_outputs_outlive_their_program(small_pair):
    program = Program.load(small_pair[0].path)
    outputs = program.run(small_pair[0].inputs)
    views = {name: value[:, ::2] for name, value in outputs.items()}
    del program
    gc.collect()
    other = Program.load(small_pair[1].path)
    other.run(small_pair[1].inputs)
    assert_equal(outputs, small_pair[0].outputs)
    del outputs
    other.run(small_pair[1].inputs)
    for name, value in views.items():
        np.testing.assert_array_equal(value, small_pair[0].outputs[name][:, ::2])


def test_the_linker_answers_by_name(small_pair):
    """Why a descriptor's number is not enough of a name: it is used again while the library is loaded."""
    code = small_pair[0].content

    def load(path_of):
        descriptor = os.memfd_create("library")
        os.write(descriptor, code)
        try:
            return descriptor, ctypes.CDLL(path_of(descriptor))._handle
        finally:
            os.close(descriptor)

    (number, plain), (again, same) = (load(lambda fd: f"/proc/self/fd/{fd}") for _ in range(2))
    assert number == again and plain == same
    (number, fresh), (again, other) = (load(_fresh_path) for _ in range(2))
    assert number == again and len({plain, fresh, other}) == 3


def test_every_path_of_a_descriptor_is_another_one():
    with tempfile.TemporaryFile() as file:
        paths = [_fresh_path(file.fileno()) for _ in range(1000)]
        assert len(set(paths)) == 1000 and max(map(len, paths)) < 100
        assert all(os.path.samestat(os.stat(path), os.fstat(file.fileno())) for path in paths)


def no_memory_file(_):
    raise PermissionError(13, "Permission denied")


@pytest.mark.parametrize("how", ["missing", "refused"])
def test_a_system_without_memory_files(how, small_pair, tmp_path, monkeypatch):
    if how == "missing":
        monkeypatch.delattr(os, "memfd_create")
    else:
        monkeypatch.setattr(os, "memfd_create", no_memory_file)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    programs = [Program.load(compiled.path) for compiled in small_pair]
    for program, compiled in zip(programs, small_pair, strict=True):
        assert_equal(program.run(compiled.inputs), compiled.outputs)
    assert not list(tmp_path.iterdir())


def test_a_library_that_the_linker_refuses(small_pair, tmp_path):
    path = tmp_path / "p.so"
    path.write_bytes(b"\x7fELF" + bytes(200))
    append_manifest(path, read_manifest(small_pair[0].path))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(
            ProgramError, match=r"cannot load the program p\.so; got .*; try: compile it again"
        ):
            Program.load(path)
    assert len(os.listdir("/proc/self/fd")) == before


def test_no_place_for_code(small_pair, monkeypatch):
    def refused(_):
        raise OSError("failed to map segment from shared object")

    monkeypatch.setattr(library, "_memory_file", refused)
    monkeypatch.setattr(library, "_temporary_file", refused)
    with pytest.raises(ProgramError, match=r"failed to map segment.*TMPDIR=FOLDER"):
        Program.load(small_pair[0].path)
