"""Which kernel call a row of the layer table belongs to, and what quantizing cost it."""

from __future__ import annotations

from float_networks import images, residual_network
from qdq_graphs import random_graph, random_image

from aqd_deploy.evaluation.layer_agreement import layer_agreement
from aqd_deploy.evaluation.lowered import Lowered
from aqd_deploy.quantization.calibration import Calibration
from aqd_deploy.quantization.pipeline import quantize
from aqd_deploy.quantization.recipe import Recipe
from aqd_deploy.workflow.evidence import quantization_noise, was_busy, with_kernels


def test_rows_get_the_call_that_writes_behind_them():
    model = random_graph(2, bits=4)
    lowered = Lowered.of(model)
    agreement = layer_agreement(lowered, [{"image": random_image(model, 2)}])
    rows = [row for row in agreement.layers if row.macs and row.tensors]
    head = [row for row in rows if row.head]
    assert len(head) > 1

    def writes(*names):
        return [[{"tensor": name, "first": 0, "height": 1, "width": 1} for name in names]]

    middle = [row for row in rows if not row.head]
    levels = writes(*(f"{row.tensors[0]}:nchw" for row in head))
    layers = [
        *({"name": row.name, "kernel": "blocked", "results": writes(row.tensors[0])} for row in middle),
        {"name": "head", "kernel": "winograd", "results": levels},
    ]
    latency = {"measured": [{"layers": [*({"ms": 1.5} for _ in middle), {"ms": 2.5}]}]}
    found = {row["name"]: row for row in with_kernels(agreement, lowered.graph, layers, latency)}
    first = found[rows[0].name]
    assert (first["call"], first["kernel"], first["ms"], first["shared_by"]) == (
        rows[0].name,
        "blocked",
        1.5,
        1,
    )
    last = [found[row.name] for row in head]
    assert {(row["call"], row["ms"], row["shared_by"]) for row in last} == {("head", 2.5, len(head))}
    unmeasured = with_kernels(agreement, lowered.graph, layers, {"measured": []})
    assert {row["ms"] for row in unmeasured} == {None}
    nothing = with_kernels(agreement, lowered.graph, [], latency)
    assert all(row["kernel"] is row["call"] is row["shared_by"] is None for row in nothing)


def test_rows_and_layers_of_the_float_network_go_by_one_name():
    """The stem has only its own noise."""
    network, feeds = residual_network(), images(4)
    qdq = quantize(network, Calibration.of(feeds), Recipe(weight_bits=4, activation_bits=4)).model
    noise = quantization_noise(qdq, network, feeds)
    rows = [row for row in layer_agreement(Lowered.of(qdq), feeds[:1]).layers if row.macs]
    assert {row.name for row in rows} == set(noise)
    assert noise["stem"]["alone"] == noise["stem"]["accumulated"] > 10


def test_a_run_was_busy_where_one_measurement_was():
    busy, quiet, silent = ({"environment": {"busy": told}} for told in (True, False, None))
    assert was_busy([quiet, busy, silent]) is True
    assert was_busy([quiet, silent, {}]) is False
    assert was_busy([silent, {}]) is was_busy([]) is None
