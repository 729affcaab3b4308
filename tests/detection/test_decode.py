"""Decoding against a slow scalar reference, integers against floats, and manifests that do not fit."""

from __future__ import annotations

import copy
import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aqd_deploy.detection.decode import decode
from aqd_deploy.detection.images import Placement
from aqd_deploy.errors import AqdError, ModelFileError, ScaleError, ShapeError

CLASSES = ["a", "b", "c"]
STRIDES = [8, 16]


def manifest_of(kind, **changes):
    kinds = ("cls", "box", "ctr") if kind == "fcos" else ("cls", "box")
    detector = {
        "kind": kind,
        "classes": CLASSES,
        "strides": STRIDES,
        "outputs": {name: [f"{name}_p3", f"{name}_p4"] for name in kinds},
        "anchors": None
        if kind == "fcos"
        else {"base": 4.0, "scales": [1.0, 1.26], "ratios": [0.5, 1.0, 2.0]},
        "score_threshold": 0.3,
        "nms_iou": 0.5,
        "max_detections": 100,
        "pre_nms": 1000,
    }
    detector.update(changes)
    return {"schema": 1, "detector": detector}


def integer_outputs(kind, rng, size=32, per_channel=True):
    """Random head outputs int32 and the manifest's scales for them."""
    per_cell = 1 if kind == "fcos" else 6
    outputs, scales = {}, {}
    for level, stride in zip(("p3", "p4"), STRIDES, strict=True):
        side = size // stride
        channels = {"cls": per_cell * len(CLASSES), "box": per_cell * 4, "ctr": 1}
        for name in ("cls", "box", "ctr") if kind == "fcos" else ("cls", "box"):
            values = rng.integers(-40000, 40000, size=(1, channels[name], side, side))
            if kind == "fcos" and name == "box":
                values = np.abs(values)
            outputs[f"{name}_{level}"] = values.astype(np.int32)
            count = channels[name] if per_channel else 1
            scales[f"{name}_{level}"] = (rng.uniform(0.5, 1.5, size=count) * 5e-5).tolist()
    return outputs, scales


def with_scales(manifest, scales):
    complete = copy.deepcopy(manifest)
    complete["outputs"] = {name: {"scale": scale} for name, scale in scales.items()}
    return complete


def dequantized(outputs, scales, dtype=np.float64):
    return {
        name: (values * np.array(scales[name]).reshape(1, -1, 1, 1)).astype(dtype)
        for name, values in outputs.items()
    }


def scalar_reference(outputs, manifest, placement):
    """One entry after the other, from the text of docs/qdq-form.md. Real-valued outputs."""
    detector = manifest["detector"]
    count = len(detector["classes"])
    found = []
    for k, stride in enumerate(detector["strides"]):
        names = {kind: of_kind[k] for kind, of_kind in detector["outputs"].items()}
        cls, box = outputs[names["cls"]][0], outputs[names["box"]][0]
        of_level = []
        for channel in range(cls.shape[0]):
            anchor, label = divmod(channel, count)
            for i in range(cls.shape[1]):
                for j in range(cls.shape[2]):
                    score = 1 / (1 + math.exp(-cls[channel, i, j]))
                    if not score > detector["score_threshold"]:
                        continue
                    cx, cy = (j + 0.5) * stride, (i + 0.5) * stride
                    d = [float(box[anchor * 4 + n, i, j]) for n in range(4)]
                    if detector["kind"] == "fcos":
                        score = math.sqrt(score / (1 + math.exp(-outputs[names["ctr"]][0, 0, i, j])))
                        corners = [
                            cx - d[0] * stride, cy - d[1] * stride, cx + d[2] * stride, cy + d[3] * stride
                        ]  # fmt: skip
                    else:
                        shape = detector["anchors"]
                        ratio = shape["ratios"][anchor // len(shape["scales"])]
                        side = shape["base"] * stride * shape["scales"][anchor % len(shape["scales"])]
                        w, h = side / math.sqrt(ratio), side * math.sqrt(ratio)
                        cx, cy = cx + d[0] * w, cy + d[1] * h
                        w, h = w * math.exp(d[2]), h * math.exp(d[3])
                        corners = [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]
                    of_level.append((score, corners, label))
        of_level.sort(key=lambda entry: -entry[0])
        found += of_level[: detector["pre_nms"]]
    candidates = []
    for score, corners, label in found:
        fx, fy = placement.placed_width / placement.width, placement.placed_height / placement.height
        x = [min(max((v - placement.left) / fx, 0), placement.width) for v in corners[::2]]
        y = [min(max((v - placement.top) / fy, 0), placement.height) for v in corners[1::2]]
        if x[1] > x[0] and y[1] > y[0]:
            candidates.append((score, [x[0], y[0], x[1], y[1]], label))
    candidates.sort(key=lambda entry: -entry[0])
    kept = []
    for entry in candidates:
        if all(entry[2] != other[2] or iou(entry[1], other[1]) <= detector["nms_iou"] for other in kept):
            kept.append(entry)
    return kept[: detector["max_detections"]]


def iou(a, b):
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(w, 0) * max(h, 0)
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def assert_same(detections, reference):
    assert detections.boxes.dtype == np.float32 and detections.scores.dtype == np.float32
    assert detections.labels.dtype == np.int64
    assert detections.labels.tolist() == [label for *_, label in reference]
    # Detections are stored as float32: half a unit in the last place of coordinates up to 100.
    assert np.allclose(detections.scores, [score for score, *_ in reference], rtol=0, atol=1e-6)
    assert np.allclose(
        detections.boxes.reshape(-1, 4), np.array([b for _, b, _ in reference]).reshape(-1, 4), atol=1e-4
    )


PLACEMENTS = [
    Placement(32, 32, 0, 0, 32, 32),
    Placement(60, 40, 0, 5, 32, 21),
    Placement(9, 20, 9, 0, 14, 32),
]


@pytest.mark.parametrize("kind", ["fcos", "retinanet"])
@pytest.mark.parametrize("changes", [{}, {"pre_nms": 7}, {"max_detections": 3}, {"nms_iou": 0.0}])
@settings(max_examples=15)
@given(seed=st.integers(0, 10**6), placement=st.sampled_from(PLACEMENTS))
def test_against_the_scalar_reference(kind, changes, seed, placement):
    manifest = manifest_of(kind, **changes)
    outputs, scales = integer_outputs(kind, np.random.default_rng(seed), per_channel=seed % 2 == 0)
    expected = scalar_reference(dequantized(outputs, scales), manifest, placement)
    assert_same(decode(outputs, with_scales(manifest, scales), placement), expected)
    assert_same(decode(dequantized(outputs, scales), manifest, placement), expected)


@pytest.mark.parametrize("kind", ["fcos", "retinanet"])
@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), threshold=st.floats(0.02, 0.98))
def test_integers_and_their_float64_values_give_the_same_detections(kind, seed, threshold):
    manifest = manifest_of(kind, score_threshold=threshold)
    outputs, scales = integer_outputs(kind, np.random.default_rng(seed))
    integers = decode(outputs, with_scales(manifest, scales), PLACEMENTS[0])
    floats = decode(dequantized(outputs, scales), manifest, PLACEMENTS[0])
    assert np.array_equal(integers.labels, floats.labels)
    assert np.array_equal(integers.boxes, floats.boxes)
    assert np.array_equal(integers.scores, floats.scores)


def test_a_box_by_hand_fcos():
    manifest = manifest_of("fcos")
    outputs, scales = integer_outputs("fcos", np.random.default_rng(0))
    for values in outputs.values():
        values[:] = -(10**6)
    for name in scales:
        scales[name] = [0.5]
    outputs["cls_p4"][0, 1, 1, 0] = 4  # 2.0
    outputs["ctr_p4"][0, 0, 1, 0] = 0
    outputs["box_p4"][0, :, 1, 0] = [1, 2, 3, 0]  # 0.5 1.0 1.5 0.0 strides of 16 around (8, 24)
    found = decode(outputs, with_scales(manifest, scales), Placement(64, 64, 0, 0, 32, 32))
    assert found.boxes.tolist() == [[0, 16, 64, 48]]
    assert found.labels.tolist() == [1] and len(found) == 1
    assert found.scores[0] == pytest.approx(math.sqrt(0.5 / (1 + math.exp(-2))), abs=1e-7)


def test_the_threshold_is_strict_and_per_channel():
    """sigmoid(0) = 0.5 exactly: not above a threshold of 0.5; one step more is."""
    manifest = manifest_of("fcos", score_threshold=0.5, nms_iou=1.0)
    outputs, _ = integer_outputs("fcos", np.random.default_rng(0))
    for name, values in outputs.items():
        values[:] = 1 if name.startswith("box") else -5
    outputs["cls_p3"][0, :, 0, 0] = [0, 1, 0]
    scales = {name: [1e-9] * values.shape[1] for name, values in outputs.items()}
    scales["box_p3"] = [1.0] * 4
    assert decode(outputs, with_scales(manifest, scales), PLACEMENTS[0]).labels.tolist() == [1]


@pytest.mark.parametrize(("threshold", "expected"), [(0.0, 60), (1.0, 0)])
def test_thresholds_at_the_ends(threshold, expected):
    manifest = manifest_of("fcos", score_threshold=threshold, nms_iou=1.0)
    outputs, scales = integer_outputs("fcos", np.random.default_rng(0))
    for name, values in outputs.items():
        values[:] = 1 if name.startswith("box") else -(2**31)
    scales = {name: [1.0 if name.startswith("box") else 1e-12] for name in scales}
    assert len(decode(outputs, with_scales(manifest, scales), PLACEMENTS[0])) == expected


def test_extreme_integers_do_not_wrap():
    """A scale so small that the threshold lies outside int32: nothing passes, not even the largest value."""
    manifest = manifest_of("fcos", score_threshold=0.9)
    outputs, scales = integer_outputs("fcos", np.random.default_rng(0))
    outputs["cls_p3"][:] = 2**31 - 1
    outputs["cls_p4"][:] = -(2**31)
    tiny = {name: [1e-12] for name in scales}
    assert len(decode(outputs, with_scales(manifest, tiny), PLACEMENTS[0])) == 0
    mixed = with_scales(manifest, {**tiny, "cls_p3": [1e-12, 1.0, 1e-12], "box_p3": [1.0]})
    assert set(decode(outputs, mixed, PLACEMENTS[0]).labels.tolist()) == {1}
    low = with_scales(manifest_of("fcos", score_threshold=0.1), tiny)
    low["outputs"]["box_p4"]["scale"] = low["outputs"]["box_p3"]["scale"] = 1.0
    # 0.1 is far below −2^31 · 10^−12, so every entry of both levels is a candidate.
    assert len(decode(outputs, low, PLACEMENTS[0])) > 0


def test_huge_box_deltas_stay_finite():
    manifest = manifest_of("retinanet")
    outputs, scales = integer_outputs("retinanet", np.random.default_rng(0))
    real = dequantized(outputs, scales)
    for name in ("box_p3", "box_p4"):
        real[name][0, 2:4] = 1e6
    found = decode(real, manifest, PLACEMENTS[1])
    assert len(found) > 0 and np.isfinite(found.boxes).all()


def test_nan_outputs_are_no_detections():
    manifest = manifest_of("fcos")
    outputs, scales = integer_outputs("fcos", np.random.default_rng(0))
    real = {name: np.full_like(values, np.nan) for name, values in dequantized(outputs, scales).items()}
    assert len(decode(real, manifest, PLACEMENTS[0])) == 0
    real = dequantized(outputs, scales)
    real["box_p3"][:] = np.nan
    assert np.isfinite(decode(real, manifest, PLACEMENTS[0]).boxes).all()


def broken_cases():
    outputs, scales = integer_outputs("fcos", np.random.default_rng(0))
    good = with_scales(manifest_of("fcos"), scales)

    def manifest_with(**changes):
        changed = copy.deepcopy(good)
        changed["detector"].update(changes)
        return changed

    def without(name):
        changed = copy.deepcopy(good)
        del changed["detector"][name]
        return changed

    def scaled(scale):
        changed = copy.deepcopy(good)
        changed["outputs"]["cls_p3"] = {"scale": scale}
        return changed

    unscaled = copy.deepcopy(good)
    del unscaled["outputs"]["cls_p3"]
    missing = {name: values for name, values in outputs.items() if name != "ctr_p4"}
    return [
        (outputs, {}, ModelFileError, "no detector"),
        (outputs, manifest_with(kind="yolo"), ModelFileError, "yolo.*fcos, retinanet"),
        (outputs, manifest_with(classes=[]), ModelFileError, "no valid classes"),
        (outputs, manifest_with(strides=[8]), ModelFileError, "another number of outputs"),
        (outputs, manifest_with(score_threshold=1.5), ModelFileError, "score_threshold.*1.5.*0 to 1"),
        (outputs, manifest_with(max_detections=0), ModelFileError, "max_detections"),
        (outputs, manifest_with(nms_iou="high"), ModelFileError, "no valid nms_iou"),
        (outputs, without("nms_iou"), ModelFileError, "no nms_iou"),
        (outputs, manifest_with(classes=["a", "b"]), ShapeError, r"cls_p3.*\[1, 3, 4, 4\].*\[1, 2, H, W\]"),
        (missing, good, ShapeError, "missing.*ctr_p4"),
        ({**outputs, "box_p3": outputs["box_p4"]}, good, ShapeError, "different sizes"),
        ({**outputs, "cls_p3": outputs["cls_p3"][0]}, good, ShapeError, "another shape"),
        ({**outputs, "cls_p3": outputs["cls_p3"] > 0}, good, ModelFileError, "not made of numbers"),
        (outputs, unscaled, ScaleError, "cls_p3 has no scale"),
        (outputs, scaled([1.0, 1.0]), ScaleError, "wrong number.*2.*1 or 3"),
        (outputs, scaled(0.0), ScaleError, "not valid"),
        (outputs, scaled([1.0, float("nan"), 1.0]), ScaleError, "not valid"),
    ]


@pytest.mark.parametrize("case", range(len(broken_cases())))
def test_what_does_not_fit_is_refused(case):
    outputs, manifest, error, message = broken_cases()[case]
    with pytest.raises(error, match=message) as caught:
        decode(outputs, manifest, PLACEMENTS[0])
    assert isinstance(caught.value, AqdError)


def test_decoding_a_small_image_is_fast():
    """160 x 160, FCOS, five levels, ten classes, a twentieth of the entries above the threshold."""
    rng = np.random.default_rng(0)
    strides = [8, 16, 32, 64, 128]
    names = {kind: [f"{kind}_{k}" for k in range(5)] for kind in ("cls", "box", "ctr")}
    manifest = manifest_of(
        "fcos", classes=[str(k) for k in range(10)], strides=strides, outputs=names, score_threshold=0.05
    )
    outputs = {}
    for kind, channels in (("cls", 10), ("box", 4), ("ctr", 1)):
        for k, stride in enumerate(strides):
            side = -(-160 // stride)
            values = rng.normal(-58000 if kind == "cls" else 0, 17500, size=(1, channels, side, side))
            outputs[f"{kind}_{k}"] = values.astype(np.int32)
    manifest = with_scales(manifest, dict.fromkeys(outputs, 0.0001))

    def fastest(work):
        times = []
        for _ in range(6):
            start = time.process_time()
            work()
            times.append(time.process_time() - start)
        return min(times)

    # The yardstick, so that no CPU's speed is assumed; decoding takes a fifth of it.
    yardstick = fastest(lambda: sum(range(1_000_000)))
    assert fastest(lambda: decode(outputs, manifest, Placement(160, 160, 0, 0, 160, 160))) < 2 * yardstick
