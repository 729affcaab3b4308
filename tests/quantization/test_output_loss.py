"""The loss that tells how far a quantized network's outputs are from the float network's."""

import numpy as np
import pytest

from aqd_deploy.quantization.output_loss import DetectionLoss, MeanSquare, loss_for

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


@pytest.mark.parametrize("entry", [FCOS, RETINANET])
def test_equal_outputs_have_no_loss(entry):
    outputs = maps(
        entry, {"cls": 6 if entry is RETINANET else 2, "box": 12 if entry is RETINANET else 4, "ctr": 1}
    )
    loss = loss_for({"detector": entry})
    assert isinstance(loss, DetectionLoss)
    assert loss([outputs], [outputs]) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("name", FCOS_MAPS)
@pytest.mark.parametrize("change", [-0.3, 0.3])
def test_every_output_counts_in_both_directions(name, change):
    loss = loss_for({"detector": FCOS})
    small, large = ({**FCOS_MAPS, name: FCOS_MAPS[name] + scale * change} for scale in (1, 2))
    assert 0 < loss([FCOS_MAPS], [small]) < loss([FCOS_MAPS], [large])


def test_boxes_count_where_the_float_network_sees_something():
    scores = np.full((1, 2, 3, 4), -20.0)
    scores[0, 1, 2, 3] = 20.0
    reference = {**FCOS_MAPS, "cls_p3": scores, "cls_p4": np.full((1, 2, 3, 4), -20.0)}
    seen, unseen = np.zeros((1, 4, 3, 4)), np.zeros((1, 4, 3, 4))
    seen[0, :, 2, 3], unseen[0, :, 0, 0] = 0.5, 0.5
    loss = loss_for({"detector": FCOS})
    losses = [
        loss([reference], [{**reference, "box_p3": reference["box_p3"] + each}]) for each in (seen, unseen)
    ]
    assert losses[0] == pytest.approx(4 * 0.5, rel=1e-6) and losses[1] < 1e-6


def test_the_weight_of_an_anchor_is_its_own():
    channels = {"cls": 6, "box": 12}
    reference = maps(RETINANET, channels)
    reference["cls"] = np.full((1, 6, 3, 4), -20.0)
    reference["cls"][0, 2 * 1 + 0] = 20.0
    changed = [reference["box"].copy() for _ in range(3)]
    for anchor, box in enumerate(changed):
        box[0, anchor * 4] += 1
    loss = loss_for({"detector": RETINANET})
    losses = [loss([reference], [{**reference, "box": box}]) for box in changed]
    assert losses == [pytest.approx(0, abs=1e-6), pytest.approx(1, rel=1e-6), pytest.approx(0, abs=1e-6)]


def test_images_count_by_what_is_seen_in_them():
    loss = loss_for({"detector": FCOS})
    empty = {
        name: np.full_like(value, -30.0) if name.startswith("cls") else value
        for name, value in FCOS_MAPS.items()
    }
    moved = {name: value + (0.4 if name.startswith("box") else 0) for name, value in FCOS_MAPS.items()}
    alone, both = loss([FCOS_MAPS], [moved]), loss([FCOS_MAPS, empty], [moved, empty])
    assert both == pytest.approx(alone, rel=1e-6)


def test_extreme_logits_do_not_overflow():
    loss = loss_for({"detector": FCOS})
    far = {name: np.sign(value) * 1e4 for name, value in FCOS_MAPS.items()}
    with np.errstate(all="raise", under="ignore"):
        assert np.isfinite(loss([far], [FCOS_MAPS])) and np.isfinite(loss([FCOS_MAPS], [far]))


def test_a_network_without_a_detector_of_maps_has_the_mean_square():
    boxes = {**COMMON, "classes": ["a"], "kind": "boxes", "outputs": {"boxes": ["b"], "scores": ["s"]}}
    assert isinstance(loss_for({}), MeanSquare) and isinstance(loss_for({"detector": boxes}), MeanSquare)


def test_the_mean_square_is_a_share_of_the_outputs():
    reference = {"a": np.array([0.0, 2.0]), "b": np.array([0.0, 200.0])}
    found = {"a": np.array([1.0, 2.0]), "b": np.array([100.0, 200.0])}
    assert MeanSquare()([reference], [found]) == pytest.approx(0.25)
    constant = {"a": np.zeros(3)}
    assert MeanSquare()([constant], [constant]) == 0
