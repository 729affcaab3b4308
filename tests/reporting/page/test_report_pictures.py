"""Pictures within a page: from the folder of the run only, and within limits; so is the whole page."""

from __future__ import annotations

import io
import os

import numpy as np
import pytest
from PIL import Image
from report_documents import full_report

from aqd_deploy.reporting.page.html import html_page
from aqd_deploy.reporting.page.markdown import markdown_page
from aqd_deploy.reporting.page.pictures import PictureBudget
from aqd_deploy.reporting.page.report_page import report_page

MEGABYTES = 10**6


def noise(path, width=64, height=48, seed=0):
    path.parent.mkdir(exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_large_pictures_become_smaller(tmp_path):
    noise(tmp_path / "a.png", 1300, 650)
    [data] = PictureBudget(tmp_path).take(["a.png"])
    with Image.open(io.BytesIO(data)) as image:
        assert (image.format, image.size) == ("WEBP", (640, 320))


def test_only_images_of_the_folder(tmp_path):
    folder = tmp_path / "run"
    noise(folder / "a.png")
    noise(tmp_path / "secret.png")
    (folder / "text.png").write_text("no image")
    os.symlink(tmp_path / "secret.png", folder / "link.png")
    names = ["a.png", "../secret.png", str(tmp_path / "secret.png"), "link.png", "text.png", "none.png", "\0"]
    found = PictureBudget(folder).take(names)
    assert [data is not None for data in found] == [True, *[False] * 6]


def test_the_budget(tmp_path):
    noise(tmp_path / "a.png")
    assert PictureBudget(None).take(["a.png"]) is None
    assert PictureBudget(tmp_path, size=100).take(["a.png"]) is None
    budget = PictureBudget(tmp_path, images=1)
    assert budget.take(["a.png", "a.png"]) is not None and budget.take(["a.png"]) is None
    assert PictureBudget.share(tmp_path, 3) == PictureBudget(tmp_path, 4, 800_000)
    assert PictureBudget.share(tmp_path, 50).images == 1


def test_pictures_side_by_side(tmp_path):
    report = full_report()
    for column in ("float", "integer"):
        noise(tmp_path / column / "0.png", seed=len(column))
    page = html_page(report_page(report, tmp_path))
    assert page.count('src="data:image/webp;base64,') == 2
    assert 'alt="0.png with the boxes of the float network"' in page
    assert page.count("cannot be shown") == 2
    assert "[integer network](integer/0.png)" in markdown_page(report_page(report, tmp_path))
    assert "<img" not in html_page(report_page(report))


@pytest.mark.parametrize("pictures", [0, 5000])
def test_a_page_of_500_layers_is_small(tmp_path, pictures):
    for index in range(6 if pictures else 0):
        for column in ("float", "integer"):
            noise(tmp_path / column / f"{index}.png", 640, 640, index)
    report = full_report(layers=500, pictures=pictures, classes=80)
    page = report_page(report, tmp_path)
    text = html_page(page)
    assert "backbone.layer499.conv1" in text and "call499" in text
    assert len(text.encode()) < 5 * MEGABYTES and len(markdown_page(page).encode()) < MEGABYTES
    if pictures:
        assert "data:image/webp" in text and "More pictures are in the folder" in text
