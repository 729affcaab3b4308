"""What `bench` says beside its figures."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from aqd_deploy.bench.measure import _notes


@pytest.mark.parametrize(
    ("measured", "said"),
    [
        ([2], None),
        ([1, 2], "chosen for 2 threads; for 1 thread: `aqd-deploy compile --threads 1`"),
        ([4], "4"),
    ],
)
def test_another_number_of_threads_than_compiled_for_is_noted(measured, said):
    program = SimpleNamespace(manifest={"program": {"threads": 2}})
    peers = [SimpleNamespace(name="ncnn", note="no INT8"), SimpleNamespace(name="openvino", note="")]
    notes = _notes(program, measured, peers)
    assert notes.pop("ncnn") == "no INT8"
    assert (list(notes) == ["aqd-deploy"] and said in notes["aqd-deploy"]) if said else not notes
