"""Bias correction (Nagel et al., "Data-free quantization through weight equalization and bias correction",
ICCV 2019), by calibration images: what quantization adds to a channel's mean is taken off its bias.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import numpy as np

from aqd_deploy.passes.canonical.draft import Draft
from aqd_deploy.quantization.alone import LayerError
from aqd_deploy.quantization.network import Layer, Network


def with_corrected_biases(
    network: Network, layers: Mapping[str, Layer], errors: Mapping[str, LayerError]
) -> tuple[Network, int]:
    """The network with b − E[quantized − float] in the place of b, each layer corrected as if it alone were
    quantized, and how many layers that are. A bias that layers share becomes one for each. Products without
    a bias of one number a channel (MatMul) stay as they are.
    """
    draft = Draft(copy.deepcopy(network.model))
    count = 0
    for node in draft.nodes:
        layer = layers.get(node.output[0])
        if layer is None or layer.op_type == "MatMul":
            continue
        shift = errors[layer.name].shift
        bias = np.zeros(len(shift)) if layer.bias is None else network.array(layer.bias).astype(np.float64)
        if bias.shape != shift.shape:
            continue
        name = draft.constant(f"{layer.output}_bias", (bias - shift).astype(np.float32))
        node.input[:] = [*node.input[:2], name]
        count += 1
    draft.remove_dead()
    return Network(draft.write()), count
