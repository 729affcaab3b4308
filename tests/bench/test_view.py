"""The text view: at most 80 columns, and it says what a person must know."""

from __future__ import annotations

import pytest
from documents import document, measured, ratio

from aqd_deploy.bench.layers import Roof, between_layers, family_totals, layer_table
from aqd_deploy.bench.view import text_view


def text(*entries, **changed) -> str:
    shown = text_view(document(*entries, **changed))
    assert max(map(len, shown.splitlines())) <= 80
    return shown


def unwrapped(shown: str) -> str:
    return " ".join(shown.split())


def test_the_ratio_line_is_that_of_the_faster_int8_variant():
    shown = unwrapped(text(measured(1, openvino_int8_qdq=ratio(0.4), openvino_int8_nncf=ratio(0.5))))
    assert "takes 0.50 of the time of openvino's INT8 (openvino int8 nncf): 2.00 times as fast" in shown
    assert "(openvino int8 qdq)" not in shown
    assert "openvino int8 qdq: how it is made" in shown


@pytest.mark.parametrize(
    ("convolutions", "told"),
    [
        (None, "instructions not told"),
        ({"jit_avx512_I8": 8}, "AMX in 0 of 8 convolutions"),
        (
            {"brgconv_avx512_amx_I8": 45, "brgconv_avx512_I8": 8, "brgconv_avx512_amx_bf16": 3},
            "AMX in 48 of 56 convolutions, bfloat16 in 3",
        ),
    ],
)
def test_what_a_peer_says_of_its_instructions(convolutions, told):
    found = document(measured(1, openvino_int8_qdq=ratio(0.4)))
    found["forms"][0]["convolutions"] = convolutions
    shown = text_view(found)
    assert f"openvino int8 qdq: how it is made; {told} " in unwrapped(shown)
    assert max(map(len, shown.splitlines())) <= 80


def test_one_block_a_number_of_threads():
    shown = text(measured(1, onnxruntime_float=ratio(0.1)), measured(2, onnxruntime_float=ratio(0.2)))
    assert "1 thread " in shown and "2 threads" in shown
    assert "0.100" in shown and "0.200" in shown


@pytest.mark.parametrize("noisy", [True, False])
def test_noise_is_named(noisy):
    shown = unwrapped(text(measured(1, onnxruntime_int8=ratio(0.5, 0.8, noisy))))
    assert ("too noisy to tell within 10 %: onnxruntime int8" in shown) == noisy


def test_noise_without_a_peer():
    quiet, loud = measured(1), {**measured(1), "spread": 0.34}
    assert "noisy" not in text(quiet)
    assert "the rounds differ by 34 %" in text(loud)


def test_who_was_not_measured_and_why():
    shown = unwrapped(
        text(
            measured(1, openvino_int8_qdq=ratio(0.4)),
            notes={"ncnn": "no INT8: its Python packages have no quantizer"},
            failed=[{"contender": "mnn int8", "reason": "it cannot run the network; got " + "x" * 60}],
            missing=[{"peer": "ncnn", "next_command": "pip install 'aqd-deploy[peers]'"}],
        )
    )
    assert "ncnn: no INT8" in shown
    assert "not measured: mnn int8; it cannot run the network" in shown
    assert "not installed: ncnn; try: pip install 'aqd-deploy[peers]'" in shown


def test_layers_have_one_line_each_and_their_reasons_below():
    layers = [
        {
            "name": f"heads.classification.tower.{index}.conv.level0-4_acc",
            "operation": "conv",
            "kernel": "winograd_avxvnni" if index % 2 else "depthwise_avxvnni",
            "why": f"reason number {index // 2}",
            "macs": 1_259_000_000,
            "executed_macs": 559_000_000,
        }
        for index in range(6)
    ]
    table = layer_table([[(layer["name"], 1.2345) for layer in layers]], layers, Roof(300e9, 10e9), whole=8.0)
    entry = {
        **measured(1),
        "peak_gmacs_per_s": {"vpdpbusd": 299.123},
        "read_gb_per_s": {"memory": 9.97, "L2": 60.2},
        "layers": table,
        "between_layers": between_layers(table, whole=8.0),
        "families": family_totals(table, Roof(300e9, 10e9)),
    }
    shown = text(entry)
    assert "measured peak: vpdpbusd 299 G MAC/s" in shown
    assert "measured reading: memory 10, L2 60 GB/s" in shown
    assert "0 of 6 calls are bound by memory, 6 by arithmetic" in unwrapped(shown)
    lines = [line for line in shown.splitlines() if "tower." in line]
    assert len(lines) == 6 and all("1.259" in line and "1234.500" in line for line in lines)
    assert lines[0].split()[-2:] == ["depthwise", "a"]
    assert lines[5].split()[-2:] == ["winograd", "c"]
    assert "c: reason number 2" in shown
    rest = [line.split() for line in shown.splitlines() if line.startswith("between layers ")]
    # Of the layers, and of the families.
    assert [each[2] for each in rest if each[2] != "-"] == ["593.000"]
    assert rest[1][2:5] == ["-", "593.000", "7.4"]
    assert "depthwise_avxvnni" in shown.split("family")[1]


def test_memory():
    entries = [
        {"contender": name, "threads": 2, "peak_mb": 80.4, "load_s": 0.21, "first_s": 0.1, "process_s": 0.9}
        for name in ("aqd-deploy", "onnxruntime int8")
    ]
    shown = text(measured(2), memory=entries)
    assert "peak MB" in shown
    assert "onnxruntime int8        2       80    0.21" in shown


def test_what_the_table_has_no_room_for():
    shown = unwrapped(text(measured(1)))
    assert "first inference 61.0 ms, p99 55.0 ms, 23.8 images a second, the rounds differ by 2 %" in shown
    entry = measured(1)
    entry["contenders"] = {"aqd-deploy": {**entry["contenders"]["aqd-deploy"], "first_ms": None}}
    assert "first inference" not in text(entry)


def test_a_busy_machine_is_told():
    about = {"cpu": "Some CPU", "packages": {}, "busy": True, "others_cpus": 1.26, "cpus": 8}
    shown = unwrapped(text(measured(1), environment=about))
    assert "the machine was busy: other processes used 1.3 of its 8 CPUs meanwhile" in shown
    assert "busy" not in text(measured(1), environment={**about, "busy": False})
