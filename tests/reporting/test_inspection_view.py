"""What `inspect` shows people: at most 40 lines, whatever the file holds."""

import pytest

from aqd_deploy.reporting.inspection_view import LINES, inspection_view


def program(**more):
    tensor = {"dtype": "int32", "shape": [1, 10, 2, 2]}
    target = {"name": "host", "profile": "zen4", "architecture": "x86_64", "cpu": "x86-64-v4",
              "kernels": "vnni", "features": [f"avx512_{i}" for i in range(100)]}  # fmt: skip
    section = {
        "tvm_version": "1", "target": target, "threads": 2,
        "inputs": [{"name": "image", "dtype": "uint8", "shape": [1, 3, 8, 8]}],
        "outputs": [{**tensor, "name": f"{head}_p{level}"} for head in ("cls", "box") for level in (3, 4, 5)],
        "weights": {"by_bits": {"2": {"tensors": 1, "weights": 8, "bytes": 2}}, "expanded_bytes": 8},
        "memory": {"bytes": 10}, "tuning": {"task": 1, "shape": 1, "default": 2, "records": "shipped"},
        "layers": [{"name": f"layer{i}"} for i in range(1000)], **more,
    }  # fmt: skip
    weights = {"count": 8, "bytes": 2, "bytes_per_weight": 0.25,
               "by_bits": {"2": {"weights": 8, "bytes": 2, "bytes_per_weight": 0.25}}}  # fmt: skip
    return {"file": "my m.so", "kind": "program", "bytes": 100, "weights": weights,
            "manifest": {"name": "net", "program": section}}  # fmt: skip


def test_a_program_tells_what_it_is():
    view = inspection_view(program())
    for told in ("host (zen4): x86_64 x86-64-v4, vnni kernels", "8 in 0.000 MB (2 bits: 8, 0.25 bytes each)",
                 "cls_p3 … cls_p5", "2 of 4 convolutions (shipped)", "avx512_0"):  # fmt: skip
        assert told in view
    assert "layer7" not in view
    assert view.endswith("everything: aqd-deploy inspect 'my m.so' --json")


def test_what_a_foreign_program_does_not_say_is_not_told():
    """Only these are required of a manifest (`runtime.manifest`)."""
    document = program()
    section = document["manifest"]["program"]
    kept = {key: section[key] for key in ("tvm_version", "inputs", "outputs")}
    kept["target"] = {"name": "board", "architecture": "aarch64", "features": []}
    document["manifest"] = {"program": kept}
    document["weights"] = {"count": 0, "bytes": 0, "bytes_per_weight": None, "by_bits": {}}
    assert "board: aarch64" in inspection_view(document)


@pytest.mark.parametrize("size", [0, 1, 10, 10_000])
def test_no_view_is_longer(size):
    ports = [{"name": f"tensor{i}x" * 20, "dtype": "int32", "shape": [1, None, 2, i]} for i in range(size)]
    ranges = {f"t{i}" * 50: {"lo": -i, "hi": i} for i in range(size)}
    document = {
        "file": "m.onnx", "kind": "integer", "bytes": 1, "weights": {"count": 1, "by_bits": {"8": 1}},
        "operators": {f"Op{i}": i for i in range(size)}, "inputs": ports, "outputs": ports, "ranges": ranges,
        "float_tensors": {"count": 0, "names": []}, "manifest": {"name": "n" * size, "architecture": ranges},
    }  # fmt: skip
    for each in (document, program(outputs=ports[:1000])):
        lines = inspection_view(each).splitlines()
        assert len(lines) <= LINES == 40 and max(map(len, lines)) <= 80
        assert lines[-1].startswith("everything: ")
