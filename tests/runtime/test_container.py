"""The program file: manifest behind a shared library, and every way such a file can be broken."""

import json
import struct
from pathlib import Path

import pytest

from aqd_deploy.errors import ProgramError
from aqd_deploy.runtime.container import (
    FORMAT_VERSION,
    append_manifest,
    read_container,
    read_manifest,
    write_atomically,
)

MANIFEST = {
    "name": "größe",
    "program": {
        "format": FORMAT_VERSION, "tvm_version": "0", "inputs": [], "outputs": [],
        "target": {"name": "board", "architecture": "x86_64", "features": []},
    },
}  # fmt: skip
LIBRARY = b"\x7fELF" + bytes(range(256)) * 4
FOOTER = 96


@pytest.fixture
def program(tmp_path):
    path = tmp_path / "p.so"
    path.write_bytes(LIBRARY)
    append_manifest(path, MANIFEST)
    return path


def damage(path, offset: int, value: int | None = None) -> None:
    data = bytearray(path.read_bytes())
    data[offset] = data[offset] ^ 1 if value is None else value
    path.write_bytes(data)


def test_round_trip(program):
    container = read_container(program)
    assert container.manifest == MANIFEST
    assert container.library_bytes == len(LIBRARY)
    assert container.file_bytes == program.stat().st_size
    assert program.read_bytes().startswith(LIBRARY)


def test_missing_file(tmp_path):
    with pytest.raises(ProgramError, match="no such program"):
        read_manifest(tmp_path / "none.so")


@pytest.mark.parametrize("data", [b"", b"\x7fELF", b"hello" * 100, json.dumps(MANIFEST).encode() * 9])
def test_not_a_program(tmp_path, data):
    path = tmp_path / "x.so"
    path.write_bytes(data)
    with pytest.raises(ProgramError, match="not a compiled program"):
        read_manifest(path)


def test_another_shared_library(tmp_path):
    path = tmp_path / "other.so"
    path.write_bytes(LIBRARY)
    with pytest.raises(ProgramError, match="not one of our programs"):
        read_manifest(path)


@pytest.mark.parametrize("kept", [0.3, 0.9, 0.999])
def test_truncated(program, kept):
    data = program.read_bytes()
    program.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(ProgramError, match="truncated"):
        read_manifest(program)


def test_cut_in_the_middle(program):
    data = program.read_bytes()
    program.write_bytes(data[:100] + data[200:])
    with pytest.raises(ProgramError, match="truncated or damaged"):
        read_manifest(program)


def test_damaged_library(program):
    damage(program, 500)
    with pytest.raises(ProgramError, match="library whose SHA-256 differs"):
        read_manifest(program)


def test_damaged_manifest(program):
    damage(program, len(LIBRARY) + 5)
    with pytest.raises(ProgramError, match="manifest whose SHA-256 differs"):
        read_manifest(program)


def test_another_format_version(program):
    data = bytearray(program.read_bytes())
    struct.pack_into("<I", data, len(data) - FOOTER + 8, FORMAT_VERSION + 1)
    program.write_bytes(data)
    with pytest.raises(ProgramError, match=f"another version; got format {FORMAT_VERSION + 1}"):
        read_manifest(program)


def test_failed_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "out.so"
    path.write_text("old")

    def fail(temporary):
        temporary.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(ProgramError, match="No space left on device"):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_unwritable_folder(tmp_path):
    with pytest.raises(ProgramError, match="folder of the output cannot be made"):
        write_atomically(Path("/dev/null/none/out.so"), lambda path: None)
