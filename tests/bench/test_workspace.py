"""Where the peers' models lie, and what is written on stdout by libraries."""

from __future__ import annotations

import os

import numpy as np
import pytest

from aqd_deploy.bench import workspace
from aqd_deploy.bench.network import Network
from aqd_deploy.bench.quiet import native_output_hidden
from aqd_deploy.bench.workspace import network_folder
from aqd_deploy.errors import AqdError

MANIFEST = {"name": "small", "preprocessing": {"mean": [1, 2, 3]}}


@pytest.fixture
def qdq(tmp_path, monkeypatch):
    """A file, and a writer of networks that only marks the folder."""

    def write(path, manifest, images, folder):
        assert path.read_bytes() == b"qdq"
        (folder / "float.onnx").write_bytes(os.urandom(8))
        return Network(folder)

    monkeypatch.setattr(workspace, "write_network", write)
    path = tmp_path / "m.qdq.onnx"
    path.write_bytes(b"qdq")
    return path


def content(qdq, keep, manifest=MANIFEST, images=None) -> bytes:
    with network_folder(qdq, manifest, images, keep) as network:
        return network.float_model.read_bytes()


def test_a_temporary_folder_goes_with_the_block(qdq):
    with network_folder(qdq, MANIFEST, None, None) as network:
        assert network.float_model.exists()
    assert not network.folder.exists()


def test_a_kept_network_is_found_again(qdq, tmp_path):
    keep = tmp_path / "a" / "b"
    first = content(qdq, keep)
    assert content(qdq, keep) == first
    assert [path.name.startswith("small-") for path in keep.iterdir()] == [True]


@pytest.mark.parametrize("name", ["../elsewhere", "/tmp/elsewhere", "a/b", "..", "n" * 300, "\0"])
def test_a_name_that_leads_elsewhere(qdq, tmp_path, name):
    keep = tmp_path / "keep"
    first = content(qdq, keep, {**MANIFEST, "name": name})
    (made,) = keep.iterdir()
    assert (made / "float.onnx").read_bytes() == first
    assert sorted(tmp_path.iterdir()) == [keep, qdq]


def test_what_a_network_depends_on_makes_another(qdq, tmp_path):
    keep = tmp_path / "keep"
    first = content(qdq, keep)
    other = {**MANIFEST, "preprocessing": {"mean": [0, 0, 0]}}
    assert content(qdq, keep, other) != first
    assert content(qdq, keep, images=np.zeros((1, 3, 4, 4), np.uint8)) != first
    assert len(list(keep.iterdir())) == 3


def test_a_folder_that_cannot_be_made(qdq):
    with pytest.raises(AqdError, match="cannot keep"), network_folder(qdq, MANIFEST, None, qdq):
        pass


def test_native_output_is_hidden_and_can_be_read(capfd):
    print("before")
    with native_output_hidden() as written:
        os.write(1, b"from a library\n")
        os.write(2, b"complaint\n")
        assert written() == "from a library\ncomplaint\n"
    print("after")
    assert capfd.readouterr() == ("before\nafter\n", "")
