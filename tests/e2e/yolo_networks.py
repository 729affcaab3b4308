"""Small networks with random weights, built like YOLOv8, YOLOX and YOLOv5, and what their outputs mean, in
plain numpy: written from their papers and exports, sharing nothing with the detectors.
"""

from __future__ import annotations

import io
import warnings

import numpy as np
import onnx
import torch
from torch import nn

SIDE, STRIDES, CLASSES, BINS = 64, (8, 16, 32), 3, 16
ANCHORS = ([[8, 12], [14, 10]], [[20, 28], [30, 22]], [[40, 50], [56, 44]])


class Block(nn.Module):
    """Convolution, batch norm, SiLU."""

    def __init__(self, inside, out, kernel=3, stride=1):
        super().__init__()
        self.conv = nn.Conv2d(inside, out, kernel, stride, kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(out)

    def forward(self, x):
        return nn.functional.silu(self.norm(self.conv(x)))


class Split(nn.Module):
    """C2f: a split, a bottleneck with a sum, and all of it joined."""

    def __init__(self, width):
        super().__init__()
        half = width // 2
        self.first, self.last = Block(width, width, 1), Block(width + half, width, 1)
        self.inner = nn.Sequential(Block(half, half), Block(half, half))

    def forward(self, x):
        a, b = self.first(x).chunk(2, 1)
        return self.last(torch.cat([a, b, b + self.inner(b)], 1))


class Pools(nn.Module):
    """SPPF: three max-pools, one behind the other."""

    def __init__(self, width):
        super().__init__()
        self.first, self.last = Block(width, width // 2, 1), Block(width * 2, width, 1)
        self.pool = nn.MaxPool2d(5, 1, 2)

    def forward(self, x):
        parts = [self.first(x)]
        for _ in range(3):
            parts.append(self.pool(parts[-1]))
        return self.last(torch.cat(parts, 1))


class Body(nn.Module):
    """Maps of three levels, of 16 channels each; with `focus` the image is taken apart by slices first."""

    def __init__(self, focus):
        super().__init__()
        self.focus = focus
        self.stem = Block(12, 8) if focus else Block(3, 8, stride=2)
        self.down = nn.ModuleList([Block(8, 16, stride=2), Block(16, 16, stride=2), Block(16, 16, stride=2)])
        self.last = nn.Sequential(Block(16, 16, stride=2), Pools(16))
        self.stage, self.up = Split(16), nn.ModuleList([Block(32, 16, 1), Block(32, 16, 1)])

    def forward(self, x):
        if self.focus:
            x = torch.cat([x[..., i::2, j::2] for j in (0, 1) for i in (0, 1)], 1)
        x = self.down[0](self.stem(x))
        p3 = self.down[1](x)
        p4 = self.stage(self.down[2](p3))
        p5 = self.last(p4)
        grown = nn.functional.interpolate
        p4 = self.up[0](torch.cat([grown(p5, scale_factor=2), p4], 1))
        p3 = self.up[1](torch.cat([grown(p4, scale_factor=2), p3], 1))
        return p3, p4, p5


def heads(*channels):
    """For each level a 1x1 convolution to each of these channels."""
    return nn.ModuleList([nn.ModuleList([nn.Conv2d(16, c, 1) for c in channels]) for _ in STRIDES])


def grid(offset):
    """Cell places float32 [N, 2] and strides [N, 1] of all levels."""
    places, strides = [], []
    for stride in STRIDES:
        cells = torch.arange(SIDE // stride).float() + offset
        y, x = torch.meshgrid(cells, cells, indexing="ij")
        places.append(torch.stack([x, y], -1).reshape(-1, 2))
        strides.append(torch.full((len(places[-1]), 1), float(stride)))
    return torch.cat(places), torch.cat(strides)


class V8(nn.Module):
    """`form`: maps (box and cls of each level), joined (both in one), rows [1, 4 + classes, N]."""

    def __init__(self, form):
        super().__init__()
        self.form, self.body, self.heads = form, Body(focus=False), heads(4 * BINS, CLASSES)
        self.dfl = nn.Conv2d(BINS, 1, 1, bias=False)
        self.dfl.weight.data[:] = torch.arange(BINS).float().view(1, BINS, 1, 1)
        places, strides = grid(0.5)
        self.register_buffer("places", places.T[None])
        self.register_buffer("strides", strides.T[None])

    def forward(self, image):
        maps = [[head(x) for head in level] for level, x in zip(self.heads, self.body(image), strict=True)]
        if self.form == "maps":
            return [each for level in maps for each in level]
        joined = [torch.cat(level, 1) for level in maps]
        if self.form == "joined":
            return joined
        flat = torch.cat([each.view(1, 4 * BINS + CLASSES, -1) for each in joined], 2)
        box, cls = flat.split((4 * BINS, CLASSES), 1)
        box = self.dfl(box.view(1, 4, BINS, -1).transpose(2, 1).softmax(1)).view(1, 4, -1)
        low, high = box.chunk(2, 1)
        low, high = self.places - low, self.places + high
        box = torch.cat([(low + high) / 2, high - low], 1) * self.strides
        return [torch.cat([box, cls.sigmoid()], 1)]


class X(nn.Module):
    """`form`: maps (box, obj and cls of each level), rows [1, N, 5 + classes] whose boxes are of cells."""

    def __init__(self, form):
        super().__init__()
        self.form, self.body, self.heads = form, Body(focus=True), heads(4, 1, CLASSES)

    def forward(self, image):
        maps = [[head(x) for head in level] for level, x in zip(self.heads, self.body(image), strict=True)]
        if self.form == "maps":
            return [each for level in maps for each in level]
        joined = [torch.cat([box, obj.sigmoid(), cls.sigmoid()], 1) for box, obj, cls in maps]
        return [torch.cat([each.flatten(2) for each in joined], 2).permute(0, 2, 1)]


class V5(nn.Module):
    """`form`: maps (one a level), permuted ([1, anchors, H, W, K]), rows [1, N, K] of pixels."""

    def __init__(self, form):
        super().__init__()
        self.form, self.body, self.heads = form, Body(focus=False), heads(2 * (5 + CLASSES))
        for level, stride in enumerate(STRIDES):
            cells = torch.arange(SIDE // stride).float()
            y, x = torch.meshgrid(cells, cells, indexing="ij")
            self.register_buffer(f"grid{level}", torch.stack([x, y], -1)[None, None] - 0.5)
            anchors = torch.tensor(ANCHORS[level]).float().view(1, 2, 1, 1, 2)
            self.register_buffer(f"anchors{level}", anchors.expand(1, 2, *y.shape, 2).clone())

    def forward(self, image):
        maps = [level[0](x) for level, x in zip(self.heads, self.body(image), strict=True)]
        if self.form == "maps":
            return maps
        rows = []
        for level, x in enumerate(maps):
            _, _, height, width = x.shape
            x = x.view(1, 2, 5 + CLASSES, height, width).permute(0, 1, 3, 4, 2).contiguous()
            if self.form == "permuted":
                rows.append(x)
                continue
            xy, wh, rest = x.sigmoid().split((2, 2, 1 + CLASSES), 4)
            xy = (xy * 2 + getattr(self, f"grid{level}")) * STRIDES[level]
            wh = (wh * 2) ** 2 * getattr(self, f"anchors{level}")
            rows.append(torch.cat([xy, wh, rest], 4).view(1, 2 * height * width, 5 + CLASSES))
        return rows if self.form == "permuted" else [torch.cat(rows, 1)]


NETWORKS = {"v8": V8, "x": X, "v5": V5}


class _Images:
    def __init__(self, images):
        self.left = iter(images)

    def get_next(self):
        return next(({"images": image} for image in self.left), None)


def quantized(name, form, folder, seed=0):
    """The path of a file that onnxruntime quantized, but for what decodes."""
    from onnxruntime.quantization import QuantFormat, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    torch.manual_seed(seed)
    module = NETWORKS[name](form)
    # Of pixels from 0 to 255, every part of an image has both.
    images = [torch.randint(256, (1, 3, SIDE, SIDE)).float() / 255 for _ in range(8)]
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 2)
            nn.init.normal_(layer.bias, 0, 0.5)
            layer.momentum = None
    module.train()
    with torch.no_grad():
        for image in images:
            module.body(image)
        for level in module.heads:
            for head in level:
                head.weight *= 4
    module.eval()
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, (images[0],), buffer, input_names=["images"], opset_version=17, dynamo=False,
            output_names=["output0"] if form == "rows" else None,
        )  # fmt: skip
    float_file, prepared, path = (folder / f"{name}.{form}.{kind}.onnx" for kind in ("float", "prep", "qdq"))
    float_file.write_bytes(buffer.getvalue())
    quant_pre_process(str(float_file), str(prepared))
    quantize_static(
        str(prepared), str(path), _Images([image.numpy() for image in images]), per_channel=True,
        quant_format=QuantFormat.QDQ, nodes_to_exclude=_decoding(onnx.load(prepared)),
    )  # fmt: skip
    return path


def _decoding(model):
    """Names of the nodes behind the last convolutions of images, which people leave out."""
    made = {name: node for node in model.graph.node for name in node.output}
    found, left = set(), [value.name for value in model.graph.output]
    while left:
        node = made.get(left.pop())
        body = node is not None and node.op_type == "Conv" and "dfl" not in node.name
        if node is not None and not body and node.name not in found:
            found.add(node.name)
            left += node.input
    return sorted(found)


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


def boxes_of(name, form, outputs):
    """Boxes [n, 4], scores [n, classes] float64 of a network's outputs (float64, in their order), cell by
    cell.
    """
    found = []
    if form == "rows":
        (rows,) = outputs
        for row in rows[0].T if name == "v8" else rows[0]:
            found.append(row)
        if name == "x":
            places = [(s, x, y) for s in STRIDES for y in range(SIDE // s) for x in range(SIDE // s)]
            found = [
                [(r[0] + x) * s, (r[1] + y) * s, np.exp(r[2]) * s, np.exp(r[3]) * s, *r[4:]]
                for r, (s, x, y) in zip(found, places, strict=True)
            ]
    else:
        per_level = len(outputs) // len(STRIDES)
        for level, stride in enumerate(STRIDES):
            maps = outputs[level * per_level : (level + 1) * per_level]
            found += _level(name, form, maps, level, stride)
    found = np.array(found)
    scores = found[:, 4:] if name == "v8" else found[:, 4:5] * found[:, 5:]
    middles, sides = found[:, :2], found[:, 2:4]
    return np.concatenate([middles - sides / 2, middles + sides / 2], 1), scores


def _level(name, form, maps, level, stride):
    """Rows: middle, sides, (objectness,) classes."""
    if form == "permuted":
        (x,) = maps
        maps = [x[0].transpose(0, 3, 1, 2).reshape(1, -1, *x.shape[2:4])]
    values = np.concatenate([each[0] for each in maps])
    rows = []
    for y in range(values.shape[1]):
        for x in range(values.shape[2]):
            cell = values[:, y, x]
            if name == "v8":
                sides = []
                for k in range(4):
                    e = np.exp(cell[k * BINS : (k + 1) * BINS])
                    sides.append(sum(i * e[i] for i in range(BINS)) / e.sum() * stride)
                left, top, right, bottom = sides
                x1, y1 = (x + 0.5) * stride - left, (y + 0.5) * stride - top
                x2, y2 = (x + 0.5) * stride + right, (y + 0.5) * stride + bottom
                rows.append([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1, *_sigmoid(cell[4 * BINS :])])
            elif name == "x":
                sides = np.exp(cell[2:4]) * stride
                rows.append([(x + cell[0]) * stride, (y + cell[1]) * stride, *sides, *_sigmoid(cell[4:])])
            else:
                for anchor in range(2):
                    t = _sigmoid(cell[anchor * (5 + CLASSES) : (anchor + 1) * (5 + CLASSES)])
                    sides = (2 * t[2:4]) ** 2 * ANCHORS[level][anchor]
                    rows.append(
                        [(2 * t[0] - 0.5 + x) * stride, (2 * t[1] - 0.5 + y) * stride, *sides, *t[4:]]
                    )
    return rows
