"""Class names are written in a font that has their characters, or not at all."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import ImageFont

from aqd_deploy.detection import fonts
from aqd_deploy.detection.decode import Detections
from aqd_deploy.detection.draw import draw

# Of a private area: no font but one made for it has them.
NOWHERE = "\U000f1234\U000f1235"


@pytest.fixture(autouse=True)
def fresh():
    for cached in (fonts._font_with, fonts._system_fonts):
        cached.cache_clear()
    yield
    for cached in (fonts._font_with, fonts._system_fonts):
        cached.cache_clear()


def drawn(name):
    one = Detections(np.array([[40, 50, 100, 120]], np.float32), np.array([0.9], np.float32), np.array([1]))
    return np.asarray(draw(np.zeros((200, 200, 3), np.uint8), one, ["a", name]))


def test_latin_needs_no_font_of_the_system(monkeypatch):
    monkeypatch.setattr(fonts, "_system_fonts", None)
    assert fonts.font_for("traffic light", 16).getname()[0] == ImageFont.load_default(16).getname()[0]


def test_what_no_font_has_is_drawn_by_its_number():
    assert fonts.undrawable(["cat", NOWHERE]) == [NOWHERE]
    assert np.array_equal(drawn(NOWHERE), drawn("#1"))
    assert not np.array_equal(drawn("#1"), drawn("#2"))


@pytest.mark.parametrize("answer", ["", "/nowhere/a.ttf\n", None])
def test_without_fontconfig_or_its_fonts(monkeypatch, answer):
    def listed(command, **_):
        if answer is None:
            raise FileNotFoundError(command[0])
        return type("Done", (), {"stdout": answer})

    monkeypatch.setattr(fonts.processes, "run", listed)
    assert fonts.font_for("\u732b", 16) is None
    assert np.array_equal(drawn("\u732b"), drawn("#1"))


def test_a_font_of_the_system_is_asked_for_all_characters(monkeypatch, tmp_path):
    asked = []
    path = tmp_path / "own.ttf"
    own = ImageFont.load_default(16)
    path.write_bytes(own.font_bytes)
    monkeypatch.setattr(fonts, "_lacks", lambda font, characters: getattr(font, "path", None) != str(path))

    def listed(command, **_):
        asked.append(command)
        return type("Done", (), {"stdout": f"/nowhere/b-Bold.ttf\n{path}\n"})

    monkeypatch.setattr(fonts.processes, "run", listed)
    assert fonts.font_for("\u732b", 20).path == str(path)
    codes = " ".join(f"{ord(each):x}" for each in "0123456789\u732b")
    assert asked == [["fc-list", "-f", "%{file}\\n", f":charset={codes}"]]
