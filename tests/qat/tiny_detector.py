"""A detector so small that building it takes no time, and whether two are the same network."""

import torch

from aqd_deploy.qat.config import parse_architecture
from aqd_deploy.qat.models import build_model, calibrate

TINY = {
    "width": 0.125,
    "fpn_channels": 8,
    "head_depth": 1,
    "classes": 3,
    "image_height": 64,
    "image_width": 64,
}


def tiny_model(bits=4, **changes):
    torch.manual_seed(0)
    model = build_model(parse_architecture("fcos_r18", bits=bits, **{**TINY, **changes}))
    image = torch.randn(1, 3, 64, 64) * 50
    if bits is not None:
        calibrate(model, [image])
    return model.eval(), image


def same(model, other, image) -> bool:
    with torch.no_grad():
        a, b = model(image), other(image)
    return all(torch.equal(a[key], b[key]) for key in a)
