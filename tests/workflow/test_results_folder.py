"""What `detect` writes, when, and what it leaves alone."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fake_detector import CAT, DOG, MANIFEST, content, detect_images, read, run, save_image
from PIL import Image

from aqd_deploy import own_files
from aqd_deploy.detection.image_files import image_files
from aqd_deploy.errors import AqdError, DeviceError, ImageError
from aqd_deploy.own_files import LIST
from aqd_deploy.workflow import results_folder


def test_results_and_which_drawing_is_whose(tmp_path):
    files = [save_image(tmp_path / "a" / "x.png", CAT, DOG), save_image(tmp_path / "b" / "X.jpeg.png")]
    files.append(save_image(tmp_path / "b" / "X.png", DOG))
    found = detect_images(run, MANIFEST, files, tmp_path / "new" / "out")
    out = tmp_path / "new" / "out"
    assert [entry.drawing for entry in found.images] == [
        out / name for name in ("x.png", "X.jpeg.png", "X_2.png")
    ]
    index = read(out, "images.json")
    assert index["categories"] == [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}]
    assert index["images"] == [
        {"id": k + 1, "file_name": str(path), "width": 64, "height": 64, "drawing": name}
        for k, (path, name) in enumerate(zip(files, ["x.png", "X.jpeg.png", "X_2.png"], strict=True))
    ]
    results = read(out, "results.json")
    assert [(r["image_id"], r["file_name"], r["category_id"], r["category_name"]) for r in results] == [
        (1, str(files[0]), 0, "cat"), (1, str(files[0]), 1, "dog"), (3, str(files[2]), 1, "dog"),
    ]  # fmt: skip
    assert sorted(content(out)) == ["X.jpeg.png", "X_2.png", "images.json", "results.json", "x.png"]


def test_photographs_are_not_written_over(tmp_path, monkeypatch):
    """`cd photos; detect m.so *.png -o .`"""
    monkeypatch.chdir(tmp_path)
    save_image(Path("a.png"), CAT)
    save_image(Path("b.jpg"), CAT)
    before = content(tmp_path)
    for out in (".", str(tmp_path)):
        with pytest.raises(AqdError, match=r"output is also an input; got .*a\.png; valid: another folder"):
            detect_images(run, MANIFEST, image_files([Path("b.jpg"), Path("a.png")]).files, Path(out))
    linked = save_image(tmp_path / "other" / "c.png", CAT)
    os.link(linked, "b.png")
    with pytest.raises(AqdError, match=r"also an input; got b\.png"):
        detect_images(run, MANIFEST, [linked, Path("b.jpg")], Path())
    os.unlink("b.png")
    shutil.rmtree("other")
    assert content(tmp_path) == before
    detect_images(run, MANIFEST, [Path("b.jpg")], Path())
    assert set(content(tmp_path)) == {*before, "b.png", "images.json", "results.json"}
    assert content(tmp_path)["a.png"] == before["a.png"]


@pytest.mark.parametrize("name", ["results.json", "images.json", "a.png"])
@pytest.mark.parametrize("verb", ["demo", "detect", None])
def test_files_of_others_are_not_written_over(tmp_path, name, verb):
    file = save_image(tmp_path / "in" / "a.png", CAT)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text(text := "mine")
    if verb is not None:
        # Of another verb, or of another time.
        time_ns = (tmp_path / "out" / name).stat().st_mtime_ns + (verb == "detect")
        line = {"verb": verb, "name": name, "size": 4, "mtime_ns": time_ns}
        (tmp_path / "out" / LIST).write_text(json.dumps(line) + "\n")
    with pytest.raises(AqdError, match=f"not known to be written by detect; got .*{name}"):
        detect_images(run, MANIFEST, [file], tmp_path / "out")
    assert content(tmp_path / "out") == {name: text.encode()}


@pytest.mark.parametrize("strict", [False, True])
def test_an_earlier_runs_files_go(tmp_path, strict):
    files = [save_image(tmp_path / "in" / name, CAT) for name in ("a.png", "b.png", "c.png")]
    out = tmp_path / "out"
    detect_images(run, MANIFEST, files, out)
    (out / "mine.txt").write_text("mine")
    detect_images(run, MANIFEST, files[1:2], out, strict=strict)
    assert sorted(content(out)) == ["b.png", "images.json", "mine.txt", "results.json"]
    assert {entry["file_name"] for entry in read(out, "results.json")} == {str(files[1])}


def test_an_earlier_runs_drawings_as_images(tmp_path):
    detect_images(run, MANIFEST, [save_image(tmp_path / "in" / "a.png", CAT)], tmp_path / "out")
    before = content(tmp_path / "out")
    with pytest.raises(AqdError, match="output is also an input"):
        detect_images(run, MANIFEST, [tmp_path / "out" / "a.png"], tmp_path / "out")
    other = save_image(tmp_path / "in" / "b.png", CAT)
    with pytest.raises(AqdError, match="output is also an input"):
        detect_images(run, MANIFEST, [other, tmp_path / "out" / "a.png"], tmp_path / "out")
    with pytest.raises(AqdError, match="output is also an input"):
        detect_images(run, MANIFEST, [other], tmp_path / "out", inputs=[tmp_path / "out" / "a.png"])
    assert content(tmp_path / "out") == before


def test_a_list_that_names_files_elsewhere(tmp_path):
    (tmp_path / "out" / "folder.png").mkdir(parents=True)
    precious = tmp_path / "precious.png"
    precious.write_text("x")
    names = ["../precious.png", "", ".", "..", "folder.png", "none.png", str(precious), 3, None, "\0"]
    mark = {"verb": "detect", "size": 1, "mtime_ns": precious.stat().st_mtime_ns}
    lines = [json.dumps({**mark, "name": name}) for name in names]
    (tmp_path / "out" / LIST).write_text("\n".join([*lines, "[", "{}", lines[0][:-3]]))
    detect_images(run, MANIFEST, [save_image(tmp_path / "a.png", CAT)], tmp_path / "out")
    assert precious.read_text() == "x"
    (tmp_path / "out" / "folder.png").rmdir()
    assert sorted(content(tmp_path / "out")) == ["a.png", "images.json", "results.json"]


def test_drawings_that_became_somebody_elses(tmp_path):
    """As by `mogrify -format png *.jpg`, which writes over them."""
    files = [save_image(tmp_path / "in" / f"{name}.jpg", CAT) for name in "ab"]
    out = tmp_path / "in"
    detect_images(run, MANIFEST, files, out)
    save_image(out / "b.png", DOG)
    before = (out / "b.png").read_bytes()
    with pytest.raises(AqdError, match=r"not known to be written by detect; got .*b\.png"):
        detect_images(run, MANIFEST, files, out)
    detect_images(run, MANIFEST, files[:1], out)
    assert (out / "b.png").read_bytes() == before
    assert sorted(content(out)) == ["a.jpg", "a.png", "b.jpg", "b.png", "images.json", "results.json"]


@pytest.mark.parametrize("name", ["b.png", "results.json"])
@pytest.mark.parametrize("strict", [False, True])
def test_a_file_that_appears_meanwhile(tmp_path, name, strict):
    files = [save_image(tmp_path / f"{each}.jpg", CAT) for each in "abc"]
    out = tmp_path / "out"

    def appearing(inputs):
        (out / name).unlink(missing_ok=True)
        (out / name).write_text("mine")
        return run(inputs)

    with pytest.raises(AqdError, match="not known to be written by detect"):
        detect_images(appearing, MANIFEST, files, out, strict=strict)
    assert (out / name).read_text() == "mine"


def test_a_file_that_appears_where_a_link_is_made(tmp_path, monkeypatch):
    """Between the look at the name and its use."""
    out = tmp_path / "out"
    lexists = os.path.lexists

    def appearing(path):
        there = lexists(path)
        if os.path.basename(path) == "a.png" and not there and os.path.isdir(out):
            Path(path).write_text("mine")
        return there

    file = save_image(tmp_path / "a.jpg", CAT)
    with (
        monkeypatch.context() as patch,
        pytest.raises(AqdError, match="not known to be written by detect"),
    ):
        patch.setattr(own_files.os.path, "lexists", appearing)
        detect_images(run, MANIFEST, [file], out)
    assert (out / "a.png").read_text() == "mine"


def test_a_file_system_without_links(tmp_path, monkeypatch):
    def refused(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(own_files.os, "link", refused)
    file = save_image(tmp_path / "a.jpg", CAT)
    for _ in range(2):
        detect_images(run, MANIFEST, [file], tmp_path / "out")
    assert sorted(content(tmp_path / "out")) == ["a.png", "images.json", "results.json"]


def test_two_at_once_in_one_folder(tmp_path):
    file, out = save_image(tmp_path / "a.png", CAT), tmp_path / "out"

    def nested(inputs):
        with pytest.raises(AqdError, match="another process writes to the output folder"):
            detect_images(run, MANIFEST, [file], out)
        return run(inputs)

    detect_images(nested, MANIFEST, [file], out)
    detect_images(run, MANIFEST, [file], out)
    assert sorted(content(out)) == ["a.png", "images.json", "results.json"]


def test_the_list_does_not_grow(tmp_path):
    files = [save_image(tmp_path / f"{name}.png", CAT) for name in "ab"]
    sizes = []
    for _ in range(3):
        detect_images(run, MANIFEST, files, tmp_path / "out")
        sizes.append((tmp_path / "out" / LIST).read_text().count("\n"))
    assert sizes[1] == sizes[2]


def test_an_output_that_cannot_be_made_is_found_before_the_work(tmp_path):
    file = save_image(tmp_path / "a.png", CAT)
    with pytest.raises((OSError, AqdError)):
        detect_images(None, MANIFEST, [file], file / "out")


def test_what_was_there_stays_where_the_first_drawing_cannot_be_saved(tmp_path, monkeypatch):
    files = [save_image(tmp_path / f"{name}.png", CAT) for name in "ab"]
    out = tmp_path / "out"
    detect_images(run, MANIFEST, files, out)
    before = content(out)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OSError, match="No space left"):
        detect_images(run, MANIFEST, files[:1], out)
    assert content(out) == before


def test_other_inputs_are_not_written_over(tmp_path):
    file = save_image(tmp_path / "a.png", CAT)
    detect_images(run, MANIFEST, [file], tmp_path / "out")
    annotations = tmp_path / "out" / "images.json"
    with pytest.raises(AqdError, match=r"also an input; got .*images\.json"):
        detect_images(run, MANIFEST, [file], tmp_path / "out", inputs=[annotations])


def test_damaged_images_are_told_and_the_others_done(tmp_path):
    files = [save_image(tmp_path / f"{k:02}.png", CAT) for k in range(20)]
    for k in (0, 7, 19):
        files[k].write_bytes(b"text")
    told = []
    found = detect_images(run, MANIFEST, files, tmp_path / "out", progress=told.append)
    assert list(found.failed) == [files[k] for k in (0, 7, 19)]
    assert [entry.path for entry in found.images] == [path for path in files if path not in found.failed]
    assert [line for line in told if "failed" in line] == [
        f"{files[k]}: failed: the file is not an image" for k in (0, 7, 19)
    ]
    # Numbers are given before it is known which files are images.
    assert [entry["id"] for entry in read(tmp_path / "out", "images.json")["images"]] == [
        entry.image_id for entry in found.images
    ]
    assert len(read(tmp_path / "out", "results.json")) == 17


def test_nothing_that_is_an_image_leaves_what_was_there(tmp_path):
    good, bad = save_image(tmp_path / "a.png", CAT), tmp_path / "b.png"
    bad.write_bytes(b"text")
    out = tmp_path / "new" / "out"
    assert list(detect_images(run, MANIFEST, [bad], out).failed) == [bad]
    assert not (tmp_path / "new").exists()
    detect_images(run, MANIFEST, [good], out)
    before = content(out)
    detect_images(run, MANIFEST, [bad], out)
    assert content(out) == before


def test_strictly_nothing_or_all(tmp_path):
    files = [save_image(tmp_path / f"{name}.png", CAT) for name in "abc"]
    out = tmp_path / "new" / "out"
    files[2].write_bytes(b"text")
    with pytest.raises(ImageError, match=r"c\.png"):
        detect_images(run, MANIFEST, files, out, strict=True)
    assert not (tmp_path / "new").exists()
    seen = []

    def looking(inputs):
        seen.append([path.name for path in out.iterdir() if path.name[0] != "."] if out.exists() else [])
        return run(inputs)

    detect_images(looking, MANIFEST, files[:2], out, strict=True)
    assert seen == [[], []] and sorted(content(out)) == ["a.png", "b.png", "images.json", "results.json"]


def test_what_was_done_stays_where_the_device_is_lost(tmp_path):
    files = [save_image(tmp_path / f"{name}.png", CAT) for name in "abcd"]
    calls = iter(range(100))

    def lost(inputs):
        if next(calls) == 2:
            raise DeviceError("the board was lost")
        return run(inputs)

    with pytest.raises(DeviceError):
        detect_images(lost, MANIFEST, files, tmp_path / "out")
    assert [entry["id"] for entry in read(tmp_path / "out", "images.json")["images"]] == [1, 2]
    assert len(read(tmp_path / "out", "results.json")) == 2
    assert sorted(content(tmp_path / "out")) == ["a.png", "b.png", "images.json", "results.json"]
    detect_images(run, MANIFEST, files[3:], tmp_path / "out")
    assert sorted(content(tmp_path / "out")) == ["d.png", "images.json", "results.json"]


SLOW = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from fake_detector import manifest_of, run
from aqd_deploy.detection.image_files import image_files
from aqd_deploy.workflow.detect import detect_images

def slow(inputs):
    time.sleep(0.05)
    return run(inputs)

detect_images(slow, manifest_of(), image_files([Path(sys.argv[2])]), Path(sys.argv[3]))
"""


def test_killed_half_way(tmp_path):
    """What was done more than a moment before is there, whole; the next run knows all files as ours."""
    for k in range(200):
        save_image(tmp_path / "in" / f"{k:03}.png", CAT)
    out, here = tmp_path / "out", str(Path(__file__).parent)
    process = subprocess.Popen([sys.executable, "-c", SLOW, here, str(tmp_path / "in"), str(out)])
    while len(list(out.glob("*.png"))) < 60:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    drawings, results = len(list(out.glob("*.png"))), read(out, "results.json")
    assert 30 <= len(results) <= drawings < 200
    for path in out.glob("*.png"):
        Image.open(path).load()
    assert [entry["id"] for entry in read(out, "images.json")["images"]] == [r["image_id"] for r in results]
    detect_images(run, MANIFEST, [tmp_path / "in" / "199.png"], out)
    assert sorted(content(out)) == ["199.png", "images.json", "results.json"]


@pytest.mark.parametrize(
    ("owner", "moment"), [(Path, "unlink"), (Path, "replace"), (os, "link"), (own_files.OwnFiles, "_append")]
)
@pytest.mark.parametrize("strict", [False, True])
def test_killed_anywhere(tmp_path, owner, moment, strict):
    """Before each step of that kind: the next run takes no file of ours for somebody else's."""
    files = [save_image(tmp_path / f"{name}.png", CAT) for name in "abcd"]
    out = tmp_path / "out"
    detect_images(run, MANIFEST, files[:2], out)
    real = getattr(owner, moment)
    for calls in range(100):
        left = [calls]

        def ending(*args, left=left, **options):
            left[0] -= 1
            if left[0] < 0:
                os._exit(3)
            return real(*args, **options)

        if (child := os.fork()) == 0:
            setattr(owner, moment, ending)
            detect_images(run, MANIFEST, files[2:], out, strict=strict)
            os._exit(0)
        killed = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
        detect_images(run, MANIFEST, files[:2], out)
        assert sorted(content(out)) == ["a.png", "b.png", "images.json", "results.json"]
        if not killed:
            break
    assert calls >= 1


def test_names_of_any_bytes_and_any_length(tmp_path):
    if sys.platform != "linux":
        pytest.skip("names of any bytes")
    names = [b"\xff\xe9.png", b"n" * 251 + b".png", "ö".encode() * 125 + b".png"]
    files = []
    for name in names:
        files.append(tmp_path / "in" / os.fsdecode(name))
        save_image(tmp_path / "x.png", CAT).rename(files[-1].parent.mkdir(exist_ok=True) or files[-1])
    other = save_image(tmp_path / "in2" / ("n" * 250 + ".png"), CAT)
    found = detect_images(run, MANIFEST, [*files, other], tmp_path / "out")
    assert not found.failed and len(found.images) == 4 == len({e.drawing for e in found.images})
    assert all(entry.drawing.is_file() for entry in found.images)
    assert read(tmp_path / "out", "images.json")["images"][0]["file_name"].endswith("\\xff\\xe9.png")
    detect_images(run, MANIFEST, [other], tmp_path / "out")
    assert len(content(tmp_path / "out")) == 3


def test_results_are_written_now_and_then(tmp_path, monkeypatch):
    """Not after each image: a thousand results would be written a thousand times."""
    files = [save_image(tmp_path / f"{k}.png", CAT) for k in range(11)]
    now, written = [0.0], []
    monkeypatch.setattr(results_folder.time, "monotonic", lambda: now[0])
    publish = own_files.OwnFiles.publish

    def counting(own, staged, name):
        written.append((name, now[0]))
        now[0] += 0.1 * (name == "results.json")
        publish(own, staged, name)

    def timed(inputs):
        now[0] += 0.4
        return run(inputs)

    monkeypatch.setattr(own_files.OwnFiles, "publish", counting)
    detect_images(timed, MANIFEST, files, tmp_path / "out")
    # After a second, and then after 20 times the tenth of a second that it took; results before the index.
    assert [round(at, 1) for name, at in written if name == "results.json"] == [1.2, 3.7, 4.6]
    names = [name for name, _ in written if name.endswith(".json")]
    assert names == ["results.json", "images.json"] * 3
