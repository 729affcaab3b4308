"""The networks of other frameworks in plain torch functions, on their checkpoints' own tensors and names.

Nothing here is of the product. Written from the frameworks' public code, in float64; `codes` remembers what
each activation quantizer gave, by the name of its convolution.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

LEVELS = 5


class Foreign:
    def __init__(self, tensors, *, standardized=True, stride_in_1x1=False, epsilon=1e-5):
        self.t = {name: value.double() for name, value in tensors.items()}
        self.standardized, self.stride_in_1x1, self.epsilon = standardized, stride_in_1x1, epsilon
        self.codes = {}

    def active(self, quantizer):
        return f"{quantizer}.clip_val" in self.t and float(self.t[f"{quantizer}.iteration"]) > 0

    def conv(self, name, x, stride=1, *, end=False):
        weight = self.t[f"{name}.weight"]
        padding = weight.shape[-1] // 2
        if self.active(f"{name}.quant_activation"):
            clip = self.t[f"{name}.quant_activation.clip_val"].abs()
            top = float(self.t[f"{name}.quant_activation.level_num"]) - 1
            code = torch.round(torch.clamp(x / clip, 0, 1) * top)
            self.codes.setdefault(name, []).append(code)
            x = code / top * clip
        if self.active(f"{name}.quant_weight"):
            if self.standardized and not end:
                weight = (weight - weight.mean()) / weight.std()
            clip = self.t[f"{name}.quant_weight.clip_val"].abs()
            top = float(self.t[f"{name}.quant_weight.level_num"]) - 1
            weight = torch.round((torch.clamp(weight / clip, -1, 1) + 1) / 2 * top) / top
            weight = (weight * 2 - 1) * clip
        return F.conv2d(x, weight, self.t.get(f"{name}.bias"), stride, padding)

    def bn(self, name, x):
        mean, var, gamma, beta = (
            self.t[f"{name}.{key}"].reshape(1, -1, 1, 1)
            for key in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / torch.sqrt(var + self.epsilon) * gamma + beta

    def group_norm(self, name, x):
        return F.group_norm(x, 32, self.t[f"{name}.weight"], self.t[f"{name}.bias"])

    def has(self, name):
        return name in self.t


def _stages(net, x, block, norm):
    """C3, C4, C5. `block(stage, index, part)` and `norm(conv)` are the names."""
    maps = []
    for stage in (1, 2, 3, 4):
        index = 0
        while net.has(f"{block(stage, index, 'conv1')}.weight"):
            stride = 2 if stage > 1 and index == 0 else 1
            deep = net.has(f"{block(stage, index, 'conv3')}.weight")
            strides = [stride, 1] if not deep else [stride, 1, 1] if net.stride_in_1x1 else [1, stride, 1]
            out = x
            for number, step in enumerate(strides, 1):
                conv = block(stage, index, f"conv{number}")
                out = net.bn(norm(conv), net.conv(conv, out, step))
                out = F.relu(out) if number < len(strides) else out
            short = block(stage, index, "downsample")
            if net.has(f"{short}.weight"):
                x = net.bn(norm(short), net.conv(short, x, stride))
            x = F.relu(out + x)
            index += 1
        maps.append(x)
    return maps[1:]


def _pyramid(net, c, lateral, output, p6, p7, behind, p6_of_p5):
    """P3 to P7; `behind(conv, x)` is what follows a convolution."""
    sums = [behind(lateral(2), net.conv(lateral(2), c[2]))]
    for index in (1, 0):
        below = behind(lateral(index), net.conv(lateral(index), c[index]))
        sums.insert(0, below + F.interpolate(sums[0], scale_factor=2, mode="nearest"))
    levels = [behind(output(i), net.conv(output(i), x)) for i, x in enumerate(sums)]
    six = behind(p6, net.conv(p6, levels[-1] if p6_of_p5 else c[2], 2))
    return [*levels, six, behind(p7, net.conv(p7, F.relu(six), 2))]


def detectron2(net, image, fcos):
    """The heads' maps by kind and level, of pixels minus their mean, BGR."""
    stem = "backbone.bottom_up.stem.conv1"
    x = F.relu(net.bn(f"{stem}.norm", net.conv(stem, image, 2, end=True)))
    x = F.max_pool2d(x, 3, 2, 1)

    def block(stage, index, part):
        part = "shortcut" if part == "downsample" else part
        return f"backbone.bottom_up.res{stage + 1}.{index}.{part}"

    c = _stages(net, x, block, lambda conv: f"{conv}.norm")

    def behind(conv, value):
        return F.relu(net.bn(f"{conv}.norm.0", value)) if net.has(f"{conv}.norm.0.weight") else value

    pyramid = _pyramid(
        net, c, lambda i: f"backbone.fpn_lateral{3 + i}", lambda i: f"backbone.fpn_output{3 + i}",
        "backbone.top_block.p6", "backbone.top_block.p7", behind, fcos,
    )  # fmt: skip
    head = "proposal_generator.fcos_head." if fcos else "head."
    towers = ("cls_tower", "bbox_tower") if fcos else ("cls_subnet", "bbox_subnet")
    maps = {}
    for level, features in enumerate(pyramid):
        ends = []
        for tower in towers:
            x, place = features, 0
            while net.has(f"{head}{tower}.{place}.weight"):
                x = net.conv(f"{head}{tower}.{place}", x)
                if net.has(f"{head}{tower}.{place + 1}.{level}.weight"):
                    x, step = net.bn(f"{head}{tower}.{place + 1}.{level}", x), 3
                elif fcos:
                    x, step = net.group_norm(f"{head}{tower}.{place + 1}", x), 3
                else:
                    step = 2
                x, place = F.relu(x), place + step
            ends.append(x)
        name = f"p{3 + level}"
        cls, box = ("cls_logits" if fcos else "cls_score"), "bbox_pred"
        maps[f"cls_{name}"] = net.conv(f"{head}{cls}", ends[0], end=True)
        maps[f"box_{name}"] = net.conv(f"{head}{box}", ends[1], end=True)
        if fcos:
            maps[f"box_{name}"] = F.relu(maps[f"box_{name}"] * net.t[f"{head}scales.{level}.scale"])
            maps[f"ctr_{name}"] = net.conv(f"{head}ctrness", ends[1], end=True)
    return maps


def torchvision(net, pixels, fcos):
    """The same of pixels 0 to 255, RGB."""
    mean = torch.tensor([0.485, 0.456, 0.406], dtype=torch.float64).reshape(1, 3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225], dtype=torch.float64).reshape(1, 3, 1, 1)
    body = "backbone.body."
    x = F.relu(net.bn(f"{body}bn1", net.conv(f"{body}conv1", (pixels / 255 - mean) / std, 2)))
    x = F.max_pool2d(x, 3, 2, 1)

    def block(stage, index, part):
        return f"{body}layer{stage}.{index}.{'downsample.0' if part == 'downsample' else part}"

    def norm(conv):
        return conv[:-1] + "1" if conv.endswith("downsample.0") else conv.replace(".conv", ".bn")

    c = _stages(net, x, block, norm)
    fpn, extra = "backbone.fpn.", "backbone.fpn.extra_blocks."
    deeper = ".0" if net.has(f"{fpn}inner_blocks.0.0.weight") else ""
    of_p5 = net.t[f"{extra}p6.weight"].shape[1] == net.t[f"{extra}p7.weight"].shape[1]
    pyramid = _pyramid(
        net, c, lambda i: f"{fpn}inner_blocks.{i}{deeper}", lambda i: f"{fpn}layer_blocks.{i}{deeper}",
        f"{extra}p6", f"{extra}p7", lambda _, value: value, of_p5,
    )  # fmt: skip
    cls, box = "head.classification_head.", "head.regression_head."
    old = not fcos and net.has(f"{cls}conv.0.weight")
    maps = {}
    for level, features in enumerate(pyramid):
        ends = []
        for head in (cls, box):
            x, index = features, 0
            while True:
                conv, behind = f"{head}conv.{index}.0", f"{head}conv.{index}.1"
                if fcos or old:
                    step = 3 if fcos else 2
                    conv, behind = f"{head}conv.{step * index}", f"{head}conv.{step * index + 1}"
                if not net.has(f"{conv}.weight"):
                    break
                x = net.conv(conv, x)
                x = F.relu(net.group_norm(behind, x) if net.has(f"{behind}.weight") else x)
                index += 1
            ends.append(x)
        name = f"p{3 + level}"
        maps[f"cls_{name}"] = net.conv(f"{cls}cls_logits", ends[0])
        maps[f"box_{name}"] = net.conv(f"{box}bbox_reg", ends[1])
        if fcos:
            maps[f"box_{name}"] = F.relu(maps[f"box_{name}"])
            maps[f"ctr_{name}"] = net.conv(f"{box}bbox_ctrness", ends[1])
    return maps
