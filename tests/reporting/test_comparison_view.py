"""The layer doctor's document for people: the worst layers, 80 columns, each sentence once."""

from aqd_deploy.reporting.comparison_view import ROWS, comparison_view

NOISE = {"snr_db": 12.34, "noise_ratio": 0.06, "cosine": 0.97}
EXACT = {"snr_db": None, "noise_ratio": 0.0, "cosine": 1.0}
SIDE = {"bits": 4, "used": 0.5, "saturated": 0.021}


def layer(name, remedies=(), **more):
    return {
        "name": name, "weight": {**SIDE, "scales": 1}, "activation": SIDE, "alone": NOISE,
        "accumulated": NOISE, "dead_channels": {"input": 3, "output": 1}, "remedies": list(remedies), **more,
    }  # fmt: skip


def document(layers, **more):
    matched = {"by_name": len(layers), "by_order": 0, "unmatched": []}
    integers = {"differing": 0, "count": 10, "most_steps": 0}
    return {"images": 2, "matched": matched, "layers": layers, "outputs": {"y": EXACT},
            "integers": integers, **more}  # fmt: skip


def test_a_row_has_everything():
    view = comparison_view(document([layer("conv", ["first advice", "second advice"])]))
    assert "conv   4/4    12.3   12.3  0.9700  2.1%  50%   3/1   ab" in view
    assert "a  first advice\nb  second advice" in view
    assert "1 layer of both files; 2 images" in view
    assert "the 10 codes that layers read are those of the fake-quantized file" in view


def test_floats_and_exact_layers():
    view = comparison_view(document([layer("stem", activation=None, weight=None, alone=EXACT)]))
    assert "stem   -/-   exact" in view


def test_many_layers_with_long_names():
    layers = [layer(f"backbone.stage{i}." + "x" * 60, [f"advice {i % 3}"]) for i in range(100)]
    view = comparison_view(document(layers))
    assert max(map(len, view.splitlines())) <= 80
    assert view.count("…") == ROWS and "20 of 100 layers" in view
    assert view.count("advice 1") == 1


def test_what_was_not_matched_and_not_lowered():
    matched = {"by_name": 1, "by_order": 2, "unmatched": ["a", "b"]}
    view = comparison_view(document([layer("c")], matched=matched, integers={"refused": "a reason; try: it"}))
    assert "2 of them matched by order and shape" in view and "2 are not in the float file: a, b" in view
    assert "no integers to compare with: a reason; try: it" in view


def test_differing_integers_are_counted():
    integers = {"differing": 3, "count": 10, "most_steps": 1}
    assert "3 of 10 codes" in comparison_view(document([layer("c")], integers=integers))
