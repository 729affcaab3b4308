"""Damaged checkpoints."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path

import mutations
from mutations import damage_document, json_text
from subject import Subject


def checkpoints(folder: Path) -> list[Subject]:
    from aqd_deploy.frontends.random_network import random_detector
    from aqd_deploy.qat.checkpoint import save_checkpoint
    from aqd_deploy.qat.config import parse_architecture

    config = parse_architecture("fcos_r18", bits=4, width=0.0625, fpn_channels=4, head_depth=1, classes=2,
                                image_height=32, image_width=32)  # fmt: skip
    model = random_detector(config)
    readers = (("export", "{m.pt}", "-o", "{out.onnx}"), ("inspect", "{m.pt}"))
    made = []
    for kind, compact in (("compact checkpoint", True), ("full checkpoint", False)):
        path = folder / "m.pt"
        save_checkpoint(path, model, compact=compact)
        made.append(Subject(kind, "m.pt", path.read_bytes(), _checkpoint, readers, weight=2))
    return made


def _checkpoint(data: bytes, rng: random.Random) -> bytes:
    import torch

    content = torch.load(io.BytesIO(data), weights_only=True)
    state = content["state"]
    name = rng.choice(sorted(state))
    match rng.randrange(6):
        case 0 | 1:
            content["config"] = json_text(damage_document(json.loads(content["config"]), rng), rng)
        case 2:
            content[rng.choice(sorted(content))] = mutations.odd_value(1, rng)
        case 3:
            state[name] = rng.choice((
                torch.zeros(0), torch.zeros(3, 3), torch.zeros(2, dtype=torch.complex64), "text", None,
                torch.full_like(state[name], torch.nan) if state[name].is_floating_point() else 7,
                torch.zeros(state[name].shape, dtype=torch.bool), torch.zeros(()).expand(state[name].shape),
                torch.zeros(state[name].shape, dtype=torch.float64), torch.empty(2, 2).to_sparse(),
                torch.zeros(10**6).expand(10**6, 10**6), torch.quantize_per_tensor(torch.ones(2), 1, 0,
                torch.qint8),
                torch.empty(4, device="meta"), state[name].to(torch.int8), -state[name].float(),
            ))  # fmt: skip
        case 4:
            del state[name]
        case 5:
            state[rng.choice(("x", name + ".", "packed:" + name, "head.gn.weight"))] = state[name]
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()
