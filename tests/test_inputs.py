"""Every input file is opened by one function: regular, of a size that its kind can have, whole."""

from __future__ import annotations

import os
import socket

import pytest

from aqd_deploy.errors import ImageError
from aqd_deploy.inputs import MAX_DEPTH, MIB, FileKind, parse_json

KIND = FileKind("image file", "a PNG", MIB, ImageError, "a command")


def test_a_regular_file_is_read(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"123")
    (tmp_path / "link").symlink_to(path)
    assert KIND.read(path) == KIND.read(tmp_path / "link") == b"123"


@pytest.mark.parametrize("kind", ["pipe", "folder", "socket", "device"])
def test_what_is_no_regular_file_is_refused_at_once(tmp_path, kind, monkeypatch):
    monkeypatch.chdir(tmp_path)  # names of sockets are short
    match kind:
        case "pipe":
            os.mkfifo("x")
        case "folder":
            os.mkdir("x")
        case "socket":
            socket.socket(socket.AF_UNIX).bind("x")
        case "device":
            os.symlink("/dev/zero", "x")
    with pytest.raises(ImageError, match=f"a {kind} is no image file; got x; valid: a PNG"):
        KIND.read("x")


def test_sizes_are_refused_before_a_byte_is_read(tmp_path):
    path = tmp_path / "a.png"
    with path.open("wb") as file:
        file.truncate(MIB + 1)
    with pytest.raises(ImageError, match=r"too large.*1048577 bytes.*up to 1 MB"):
        KIND.read(path)


def test_a_reader_that_believes_a_header_gets_what_there_is(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"123")
    with KIND.open(path) as file:
        assert (file.read(1), file.read(1 << 45), file.read(1 << 45)) == (b"1", b"23", b"")
        file.seek(0)
        assert file.read() == b"123"


def test_missing_and_impossible_names(tmp_path):
    with pytest.raises(ImageError, match=r"no such image file.*none.*a command"):
        KIND.read(tmp_path / "none")
    with pytest.raises(ImageError, match="cannot be read"):
        KIND.read("a\0b")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(ImageError, match="cannot be read"):
        KIND.read(tmp_path / "loop")


def test_a_file_that_holds_more_than_it_says_is_refused():
    """As one that is written to meanwhile does, and every file of /proc."""
    with pytest.raises(ImageError, match="changes while it is read"):
        KIND.read("/proc/self/status")


@pytest.mark.parametrize(
    "text",
    [
        "NaN",
        "[Infinity]",
        "1e400",
        "[" * 100_000,
        '{"a":' * 100_000,
        "1" * 5000,
        '"\\ud800"',
        b"\xff",
        "{",
        "",
    ],
    ids=lambda text: repr(text)[:12],
)
def test_what_json_does_not_have_is_refused(text):
    with pytest.raises(ValueError):
        parse_json(text)


def test_json_may_be_nested_as_deep_as_is_said():
    assert parse_json("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    with pytest.raises(ValueError, match="64 levels"):
        parse_json("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1))
    assert parse_json('{"x": [1, -2.5e3, null, true, "\\ud83d\\ude00"]}')["x"][:2] == [1, -2500.0]
