"""What lowering did, in few lines and with nothing lost that differs."""

from aqd_deploy.reporting.explanation import explanation


def explained(changed, left_alone=()):
    (head, *lines) = explanation(
        {"passes": [{"pass": "p", "changed": list(changed), "left_alone": list(left_alone)}]}
    ).splitlines()
    assert head == "p:" and max(map(len, lines)) <= 80
    return "\n".join(lines).replace("\n    ", " ").replace("  ", "", 1).split("\n  ")


def test_lines_of_different_nodes_become_one():
    lines = [
        f"a.b{i}.q: proven in all {16 * i} channels, error {i}.5e-07 steps, into c_{i}" for i in (1, 2, 3)
    ]
    assert explained(lines) == [
        "3 nodes: proven in all 16 to 48 channels, error 1.5e-07 to 3.5e-07 steps, into NAME"
    ]


def test_a_line_that_stands_alone_keeps_its_names():
    assert explained(["a.b: folded", "c.d: left, 3 of 4"]) == ["a.b: folded", "c.d: left, 3 of 4"]


def test_reasons_are_not_mixed():
    lines = ["a.b (Relu): c.d reads it", "a.e (Relu): c.f reads it", "a.g (MaxPool): c.f reads it"]
    assert explained([], lines) == [
        "left alone: 2 nodes: NAME (Relu): NAME reads it",
        "left alone: a.g (MaxPool): c.f reads it",
    ]


def test_lists_and_foreign_names():
    lines = ["/m/Relu_1:0 behind quantizer x_1, x_2, x_3", "/m/Relu_2:0 behind quantizer x_4"]
    assert explained(lines) == ["2 nodes: NAME behind quantizer NAME"]
    assert explained(["x_1: narrowed to 0..3", "x_2: narrowed to 0..3"]) == ["2 nodes: narrowed to 0..3"]


def test_passes_without_a_word_are_left_out_and_the_tail_comes_last():
    passes = [{"pass": "quiet", "changed": [], "left_alone": []}, {"pass": "p", "changed": ["a.b: folded"]}]
    tail = {
        "file": "m.tail.onnx", "inputs": ["x", "y"], "outputs": ["z"],
        "operators": {"Softmax": 2, "Concat": 1},
    }  # fmt: skip
    assert explanation({"passes": passes}, tail).splitlines() == [
        "p:",
        "  a.b: folded",
        "tail (m.tail.onnx):",
        "  x: integers end here, the tail reads the reals",
        "  y: integers end here, the tail reads the reals",
        "  3 nodes stay float behind x, y and make z (Softmax x2, Concat)",
    ]
