"""The loss that tells how far a quantized network's outputs are from the float network's."""

import numpy as np
import pytest
from float_graphs import float_graph

from aqd_deploy.errors import ModelFileError, ShapeError, UnsupportedModelError
from aqd_deploy.quantization.output_loss import (
    BOX_WEIGHT,
    DetectionLoss,
    MeanSquare,
    loss_for,
    loss_of,
    manifest_of,
)

COMMON = {
    "classes": ["a", "b"],
    "score_threshold": 0.05,
    "nms_iou": 0.5,
    "max_detections": 10,
    "pre_nms": 100,
}
FCOS = {
    **COMMON, "kind": "fcos", "strides": [8, 16],
    "outputs": {kind: [f"{kind}_p3", f"{kind}_p4"] for kind in ("cls", "box", "ctr")},
}  # fmt: skip
RETINANET = {
    **COMMON, "kind": "retinanet", "strides": [8],
    "anchors": {"base": 4.0, "scales": [1.0], "ratios": [0.5, 1.0, 2.0]},
    "outputs": {"cls": ["cls"], "box": ["box"]},
}  # fmt: skip


def maps(entry, channels, seed=0):
    rng = np.random.default_rng(seed)
    return {
        name: rng.normal(size=(1, channels[kind], 3, 4)).astype(np.float32)
        for kind, names in entry["outputs"].items()
        for name in names
    }


FCOS_MAPS = maps(FCOS, {"cls": 2, "box": 4, "ctr": 1})
FCOS_MAPS |= {name: np.abs(value) + 1 for name, value in FCOS_MAPS.items() if name.startswith("box")}
NOTHING = -20.0
"""A logit whose probability is 2e-9."""


def loss(entry, reference, outputs):
    """Of one image."""
    return loss_for({"detector": entry}).against([reference])([outputs])


def test_equal_outputs_have_no_loss():
    assert loss(FCOS, FCOS_MAPS, FCOS_MAPS) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("name", FCOS_MAPS)
@pytest.mark.parametrize("change", [-0.3, 0.3])
def test_every_output_counts_in_both_directions(name, change):
    small, large = ({**FCOS_MAPS, name: FCOS_MAPS[name] + scale * change} for scale in (1, 2))
    assert 0 < loss(FCOS, FCOS_MAPS, small) < loss(FCOS, FCOS_MAPS, large)


def retinanet_maps(seen):
    """One place is seen, the anchor `seen` of the cell (0, 0), and its box is the anchor."""
    cls, box = np.full((1, 6, 3, 4), NOTHING), np.zeros((1, 12, 3, 4))
    cls[0, 2 * seen, 0, 0] = 20.0
    return {"cls": cls, "box": box}


def test_a_box_counts_by_its_overlap_where_the_float_network_sees_something():
    reference = retinanet_maps(1)
    for anchor, expected in ((0, 0), (1, BOX_WEIGHT / 2), (2, 0)):
        twice_as_wide = reference["box"].copy()
        twice_as_wide[0, anchor * 4 + 2, 0, 0] = np.log(2)
        found = loss(RETINANET, reference, {**reference, "box": twice_as_wide})
        assert found == pytest.approx(expected, abs=1e-6), anchor


def test_boxes_without_an_area_have_no_overlap():
    reference = {**FCOS_MAPS, "cls_p3": np.full((1, 2, 3, 4), 20.0), "cls_p4": np.full((1, 2, 3, 4), NOTHING)}
    turned = {**reference, "box_p3": -reference["box_p3"]}
    assert loss(FCOS, reference, turned) == pytest.approx(BOX_WEIGHT)


def test_a_score_counts_by_its_divergence():
    reference = retinanet_maps(1)
    reference["cls"][0, 2, 0, 0] = np.log(4)  # p = 0.8
    changed = {**reference, "cls": reference["cls"].copy()}
    changed["cls"][0, 2, 0, 0] = 0.0  # p_q = 0.5
    expected = 0.8 * np.log(0.8 / 0.5) + 0.2 * np.log(0.2 / 0.5)
    assert loss(RETINANET, reference, changed) == pytest.approx(expected, rel=1e-5)


def test_what_is_seen_clearly_counts_more():
    reference = retinanet_maps(1)
    reference["cls"][0, 0, 0, 0] = np.log(0.1 / 0.9)
    wider = [reference["box"].copy() for _ in range(2)]
    for anchor, box in enumerate(wider):
        box[0, anchor * 4 + 2, 0, 0] = np.log(2)
    faint, clear = (loss(RETINANET, reference, {**reference, "box": box}) for box in wider)
    assert clear == pytest.approx(10 * faint, rel=1e-5)


def test_images_count_by_what_is_seen_in_them():
    empty = {
        name: np.full_like(value, -30.0) if name.startswith("cls") else value
        for name, value in FCOS_MAPS.items()
    }
    moved = {name: value + (0.4 if name.startswith("box") else 0) for name, value in FCOS_MAPS.items()}
    alone = loss(FCOS, FCOS_MAPS, moved)
    both = loss_for({"detector": FCOS}).against([FCOS_MAPS, empty])([moved, empty])
    assert both == pytest.approx(alone, rel=1e-6)


def test_extreme_logits_do_not_overflow():
    far = {name: np.sign(value) * 1e4 for name, value in FCOS_MAPS.items()}
    with np.errstate(all="raise", under="ignore"):
        assert np.isfinite(loss(FCOS, far, FCOS_MAPS)) and np.isfinite(loss(FCOS, FCOS_MAPS, far))


def test_a_network_that_nobody_describes_has_the_mean_square():
    assert isinstance(loss_for({}), MeanSquare)


ROWS = {
    **COMMON, "kind": "boxes", "outputs": {"boxes": ["boxes"], "scores": ["scores"], "labels": ["labels"]},
}  # fmt: skip
DECODED = {
    "boxes": np.array([[0, 0, 10, 20], [5, 5, 45, 25], [0, 0, 8, 8]], np.float32),
    "scores": np.array([0.9, 0.5, 0.0], np.float32),
    "labels": np.array([0, 1, 0]),
}


def test_decoded_boxes_are_compared_row_by_row():
    assert loss(ROWS, DECODED, DECODED) == 0
    wider = DECODED["boxes"] + np.array([[0, 0, 10, 0], [0, 0, 0, 0], [0, 0, 4, 4]])
    # The overlap of a box that counts 0.9 is a half; what is no box may lie anywhere.
    assert loss(ROWS, DECODED, {**DECODED, "boxes": wider}) == pytest.approx(BOX_WEIGHT * 0.9 * 0.5 / 1.4)


@pytest.mark.parametrize("scores", [[0.7, 0.5, 0.0], [0.9, 0.6, 0.0]])
def test_scores_of_decoded_boxes_count(scores):
    assert loss(ROWS, DECODED, {**DECODED, "scores": np.array(scores)}) > 0.005


def test_a_box_of_another_class_is_worse_than_one_that_was_not_found():
    other = loss(ROWS, DECODED, {**DECODED, "labels": np.array([1, 1, 0])})
    missed = loss(ROWS, DECODED, {**DECODED, "scores": np.array([0.0, 0.5, 0.0])})
    assert other > missed > 1


def test_outputs_that_do_not_fit_the_manifest_are_refused():
    entry = {
        **COMMON,
        "kind": "yolo_decoded",
        "objectness": False,
        "boxes": "xyxy",
        "outputs": {"rows": ["rows"]},
    }
    outputs = {"rows": np.zeros((1, 6, 7), np.float32)}
    loss_for({"detector": entry}).against([outputs])
    with pytest.raises(ShapeError, match="rows of boxes"):
        loss_for({"detector": entry}).against([{"rows": np.zeros((1, 12, 7), np.float32)}])


ONE_CLASS = {**COMMON, "classes": ["a"], "kind": "boxes", "outputs": {"boxes": ["b"], "scores": ["s"]}}
MAX = "ReduceMax <axes = [1], keepdims = 0>"
DECODING = f"b = Reshape(image, four) s = {MAX} (b)"
SORTED = f"r = Reshape(image, four) m = {MAX} (r) s, i = TopK(m, k) b = Gather(r, i)"
NUMBERS = {"four": np.array([-1, 4]), "k": np.array([5])}


def decoded(body):
    return float_graph(body, {name: value for name, value in NUMBERS.items() if name in body}, "b s")


def test_a_description_stands_for_what_the_file_does_not_say():
    model = decoded(DECODING)
    assert isinstance(loss_of(model, manifest_of(model)), MeanSquare)
    assert isinstance(loss_of(model, manifest_of(model, {"detector": ONE_CLASS})), DetectionLoss)


def test_boxes_that_are_sorted_have_no_rows_to_compare():
    model = decoded(SORTED)
    with pytest.raises(UnsupportedModelError, match="TopK"):
        loss_of(model, manifest_of(model, {"detector": ONE_CLASS}))


def test_a_description_of_another_network_is_refused():
    with pytest.raises(ModelFileError, match="labels"):
        manifest_of(decoded(DECODING), {"detector": ROWS})


def test_the_mean_square_is_a_share_of_the_outputs():
    reference = {"a": np.array([0.0, 2.0]), "b": np.array([0.0, 200.0])}
    found = {"a": np.array([1.0, 2.0]), "b": np.array([100.0, 200.0])}
    assert MeanSquare().against([reference])([found]) == pytest.approx(0.25)
    constant = {"a": np.zeros(3)}
    assert MeanSquare().against([constant])([constant]) == 0
