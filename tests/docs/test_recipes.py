"""CONTRIBUTING.md and docs/architecture.md name files and folders that there are."""

import re

import pytest
from needing import ROOT

PAGES = [ROOT / "CONTRIBUTING.md", ROOT / "docs" / "architecture.md"]
TOPS = ("aqd_deploy/", "passes/", "targets/", "tests/", "docs/", "tools/", ".ci/")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_files_exist(page):
    named = set(re.findall(r"`([\w./-]+)`", page.read_text()))
    paths = {name for name in named if name.startswith(TOPS) and "NAME" not in name}
    assert len(paths) > 5
    assert sorted(path for path in paths if not (ROOT / path).exists()) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_to_come_have_a_folder(page):
    named = {name for name in re.findall(r"`([\w./-]+)`", page.read_text()) if "NAME" in name}
    folders = {name.partition("NAME")[0].rpartition("/")[0] for name in named if name.startswith(TOPS)}
    assert sorted(folder for folder in folders if not (ROOT / folder).is_dir()) == []


def test_links_lead_somewhere():
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            assert link.startswith("https://") or (page.parent / link).exists(), f"{page.name}: {link}"
