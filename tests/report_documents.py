"""Reports of schema 3 with every section, whose numbers are drawn so that one is not mistaken for another."""

from __future__ import annotations

import random
from typing import Any

from aqd_deploy.reporting.document import ACCURACY, check_report, completed

STAGES = ("float", "fake_quantized", "integer_reference", "program")
IMAGES = {"folder": "images", "count": 2417, "annotated": True, "format": "coco",
          "annotations": {"file": "labels.json", "sha256": "5f" * 32}}  # fmt: skip
GATES = [
    {"asked": "ap>=0.3217", "metric": "AP", "stage": "program", "value": 0.3518,
     "limit": 0.3217, "met": True},
    {"asked": "ap50>=0.9173", "metric": "AP50", "stage": "program", "value": None,
     "limit": 0.9173, "met": False},
]  # fmt: skip


def full_report(
    seed: int = 1, layers: int = 5, pictures: int = 2, classes: int = 3, **changed: Any
) -> dict[str, Any]:
    """A checked document of one network, `changed` at its top."""
    draw = random.Random(seed)
    document = {
        "schema": 3,
        "kind": "demo",
        "created": "2026-11-27T02:01:30+00:00",
        "command": ["aqd-deploy", "demo", "-o", "my run"],
        "environment": {
            "aqd_deploy": "0.1.0", "python": "3.11.7", "system": "Linux x86_64", "cpu": "Some CPU 9654P",
            "threads": 37, "thread_limits": "37 CPUs to run on", "clock_mhz": 2445.406, "governor": None,
            "load": 1.37, "busy": True, "packages": {"numpy": "2.4.6", "torch": None},
        },
        "images": dict(IMAGES),
        "gates": [dict(gate) for gate in GATES],
        "models": [full_model("net_4bit", draw, layers, pictures, classes)],
        **changed,
    }  # fmt: skip
    return check_report(completed(document))


def full_model(name: str, draw: random.Random, layers: int, pictures: int, classes: int) -> dict[str, Any]:
    """A network with every section."""
    accuracy = {
        stage: {
            **{metric: share(draw) for metric in ACCURACY},
            "APl": None,
            "per_class": {f"class {index}": share(draw) for index in range(classes)},
        }
        for stage in STAGES
    }
    return {
        "name": name,
        "preprocessing": "Letterboxed to 163 x 167.",
        "record": {"command": "train.py --seed 7919", "iterations": 1811, "AP": share(draw)},
        "files": {
            stage: {"file": f"{name}.{stage}", "bytes": draw.randrange(10**6, 10**7), "sha256": "a7" * 32}
            for stage in (*STAGES, "checkpoint")
        },
        "weights": {"count": draw.randrange(10**6, 10**7), "bytes": draw.randrange(10**5, 10**6),
                    "bytes_per_weight": 0.5321},
        "lowering": {"numerics": "exact", "requantized_channels": 3823, "proven": 3821,
                     "proven_share": 0.9995, "proven_of_network": 2789,
                     "largest_input_error_steps": 4.871e-06, "requantizations_count": 67,
                     "equal_end_to_end": 41, "float_tensors": 0,
                     "skip_adds": 2, "largest_skip_add_error": 0.8713},
        "accuracy": accuracy,
        "agreement": {
            "float": agreement(draw), "integer_reference": agreement(draw),
            "program": {"differing": 0, "count": draw.randrange(10**5, 10**6), "largest": 0},
        },
        "latency": latency(draw, layers),
        "layers": [layer(draw, index) for index in range(layers)],
        "layer_agreement": {"images": 23},
        "skip_adds": [
            {"name": f"skip{index}", "bound_steps": ms(draw), "own_bound_steps": ms(draw), "seen_steps": None}
            for index in range(2)
        ],
        "numerics": {
            "exact": {"accuracy": {"AP": share(draw)}, "agreement": agreement(draw),
                      "proven_share": share(draw), "differing_codes": differing(draw)},
            "paper": {"refused": "a scale of 0.7351 cannot be"},
        },
        "steps": {"preprocess_ms": ms(draw), "inference_ms": ms(draw), "decode_ms": ms(draw),
                  "total_ms": ms(draw), "images": 19, "rounds": 3, "inside": {"decode_ms": "NMS and more"}},
        "cost": cost(draw),
        "pictures": [
            {"image": f"{index}.png", "float": f"float/{index}.png", "integer": f"integer/{index}.png"}
            for index in range(pictures)
        ],
        "seconds": {"lower": ms(draw), "compile": ms(draw)},
    }  # fmt: skip


def latency(draw: random.Random, layers: int) -> dict[str, Any]:
    """A bench document with two peers and layers."""
    names = ("aqd-deploy", "onnxruntime float", "onnxruntime int8")
    keys = ("first_ms", "min_ms", "median_ms", "p90_ms", "p99_ms", "images_per_s", "spread")
    calls = [
        {"name": f"call{index}", "operation": "conv", "kernel": ("blocked", "winograd")[index % 2],
         "why": "measured", "ms": ms(draw), "share_of_time": share(draw),
         "macs": draw.randrange(10**6, 10**9), "bytes": draw.randrange(10**5, 10**6),
         "macs_per_byte": ms(draw), "effective_gmacs_per_s": ms(draw), "executed_gmacs_per_s": ms(draw),
         "share_of_peak": share(draw), "weight_bits": 4, "gb_per_s": ms(draw),
         "bound_by": ("memory", "arithmetic")[index % 2]}
        for index in range(layers)
    ]  # fmt: skip
    measured = {
        "threads": 37,
        "contenders": {name: {key: ms(draw) for key in keys} for name in names},
        "spread": share(draw),
        "ratios": {
            name: {
                "of_minima": share(draw),
                "of_medians": share(draw),
                "noisy": noisy,
                "rounds_quartiles": [],
            }
            for name, noisy in zip(names[1:], (False, True), strict=True)
        },
        "fastest_int8": {},
        "layers": calls,
        "peak_gmacs_per_s": {"vpmaddwd": ms(draw), "vpmaddubsw": ms(draw)},
        "read_gb_per_s": {"memory": ms(draw), "L2": ms(draw)},
    }
    return {
        "input": "image", "rounds": 8, "runs_per_round": 3, "measured": [measured],
        "notes": {"mnn": "no INT8"}, "environment": {"busy": True, "others_cpus": 1.497},
        "failed": [{"contender": "ncnn int8", "reason": "it ended with 139"}],
        "missing": [{"peer": "openvino", "next_command": "pip install openvino"}],
    }  # fmt: skip


def layer(draw: random.Random, index: int) -> dict[str, Any]:
    """A convolution whose codes differ a little."""
    return {
        "name": f"backbone.layer{index}.conv1", "operation": "ConvOdd", "kernel": "blocked", "ms": ms(draw),
        "weight_bits": 4, "activation_bits": 4, "macs": draw.randrange(10**6, 10**9),
        "proven_share": share(draw), "alone": {"snr_db": None, "differing": 0, "count": 51203},
        "accumulated": {"snr_db": ms(draw), **differing(draw)}, "program": differing(draw), "shared_by": 1,
    }  # fmt: skip


def cost(draw: random.Random) -> dict[str, Any]:
    """As `bench.cost` tells it."""
    energy = ("products_of_codes", "accumulation", "products", "sums", "total")
    return {
        "file_bytes": draw.randrange(10**6, 10**7), "peak_mb": ms(draw),
        "source": "Table 1 of a paper, 45 nm", "weights_bytes_by_bits": {"4": draw.randrange(10**5, 10**6)},
        "macs_by_bits": {"4x4": draw.randrange(10**8, 10**9)},
        "products_by_bits": {"32": draw.randrange(10**5, 10**6)},
        "adds_by_bits": {"32": draw.randrange(10**5, 10**6)},
        "energy_uj": {key: ms(draw) for key in energy},
        "scaled_energy_uj": {key: ms(draw) for key in energy},
        "float32_energy_uj": ms(draw), "area_um2": {"4x4": {"table": 419}},
        "notes": {"table": "an upper bound"},
    }  # fmt: skip


def agreement(draw: random.Random) -> dict[str, float]:
    return {"correlation": share(draw), "max_abs": ms(draw), "mean_abs": ms(draw) / 1e6}


def differing(draw: random.Random) -> dict[str, int]:
    return {"differing": draw.randrange(10**4, 10**5), "count": draw.randrange(10**6, 10**7), "largest": 3}


def ms(draw: random.Random) -> float:
    return round(draw.uniform(0.1, 90), 4)


def share(draw: random.Random) -> float:
    return round(draw.uniform(0.1, 0.99), 6)
