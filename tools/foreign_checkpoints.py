"""Checkpoints with random weights in other frameworks' formats: `tools/foreign_checkpoints.py KIND FILE`.

Their names and shapes are those of the frameworks' own files, so that what reads them can be tried without a
download. Batch norms have the statistics that their weights make likely, so that numbers stay of one size.
"""

from __future__ import annotations

import argparse
import pickle
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

BLOCKS = {"r18": (2, 2, 2, 2), "r34": (3, 4, 6, 3), "r50": (3, 4, 6, 3)}
LEVELS = 5
ANCHORS = 9
STEPS = 5000
"""Iterations that a trained quantizer has counted."""


@dataclass
class Writer:
    """Collects tensors. `levels` of inner layers and of first and last ones; None: no quantizers."""

    seed: int = 0
    levels: tuple[int, int] | None = None
    tensors: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.random = torch.Generator().manual_seed(self.seed)

    def normal(self, *shape: int, std: float = 1.0) -> Tensor:
        return torch.randn(*shape, generator=self.random) * std

    def uniform(self, *shape: int, low: float = 0.5, high: float = 1.5) -> Tensor:
        return torch.rand(*shape, generator=self.random) * (high - low) + low

    def conv(
        self, name: str, out: int, inp: int, size: int, *, bias: bool = False, end: bool = False,
        gain: float = 1.0,
    ) -> float:  # fmt: skip
        """A convolution; returns the variance that its outputs are likely to have."""
        std = gain * (2 / (inp * size * size)) ** 0.5
        self.tensors[f"{name}.weight"] = self.normal(out, inp, size, size, std=std)
        if bias:
            self.tensors[f"{name}.bias"] = self.normal(out, std=0.1)
        if self.levels is None:
            return 1.0
        self._quantizer(f"{name}.quant_activation", self.levels[end], [1], 3.0)
        self._quantizer(f"{name}.quant_weight", self.levels[end], [1, 1, 1, 1], 2 * std if end else 1.5)
        return 1.0 if end else inp * size * size / 2

    def _quantizer(self, name: str, levels: int, shape: list[int], clip: float) -> None:
        self.tensors[f"{name}.iteration"] = torch.full([1], float(STEPS))
        self.tensors[f"{name}.level_num"] = torch.full([1], float(levels))
        self.tensors[f"{name}.clip_val"] = torch.full(shape, clip) * self.uniform(1, low=0.8, high=1.2)

    def norm(self, name: str, channels: int, variance: float = 1.0, gain: float = 1.0) -> None:
        self.tensors[f"{name}.weight"] = self.uniform(channels) * gain
        self.tensors[f"{name}.bias"] = self.normal(channels, std=0.2)
        self.tensors[f"{name}.running_mean"] = self.normal(channels, std=0.1) * variance**0.5
        self.tensors[f"{name}.running_var"] = self.uniform(channels) * variance

    def counted_norm(self, name: str, channels: int, variance: float = 1.0, gain: float = 1.0) -> None:
        self.norm(name, channels, variance, gain)
        self.tensors[f"{name}.num_batches_tracked"] = torch.tensor(STEPS)

    def group_norm(self, name: str, channels: int) -> None:
        self.tensors[f"{name}.weight"] = self.uniform(channels)
        self.tensors[f"{name}.bias"] = self.normal(channels, std=0.2)


@dataclass(frozen=True)
class Sizes:
    """The backbone, the factor on its channels, the pyramid's channels, a tower's convolutions, classes."""

    backbone: str = "r18"
    width: float = 1.0
    channels: int = 256
    depth: int = 4
    classes: int = 80

    def base(self) -> int:
        return round(64 * self.width)

    def stage(self, index: int) -> int:
        """The channels that stage 1 to 4 gives."""
        return self.base() * 2 ** (index - 1) * (4 if self.backbone == "r50" else 1)


def _blocks(writer: Writer, sizes: Sizes, block_name, norm_name) -> None:  # type: ignore[no-untyped-def]
    """The four stages; `block_name(stage, block, part)` and `norm_name` of that give the modules' names."""
    taken = sizes.base()
    for stage, count in enumerate(BLOCKS[sizes.backbone], 1):
        inner, out = sizes.base() * 2 ** (stage - 1), sizes.stage(stage)
        for block in range(count):
            layers = [("conv1", inner, taken, 3), ("conv2", out, inner, 3)]
            if sizes.backbone == "r50":
                layers = [("conv1", inner, taken, 1), ("conv2", inner, inner, 3), ("conv3", out, inner, 1)]
            if block == 0 and (stage > 1 or taken != out):
                layers.append(("downsample", out, taken, 1))
            for part, channels, before, size in layers:
                name = block_name(stage, block, part)
                variance = writer.conv(name, channels, before, size)
                last = channels == out and part != "downsample" and part != "conv1"
                writer.counted_norm(norm_name(name), channels, variance, 0.5 if last else 1.0)
            taken = out


def detectron2(sizes: Sizes, fcos: bool, writer: Writer, authors: bool) -> dict[str, Tensor]:
    """RetinaNet of Detectron2 or FCOS of AdelaiDet; as AQD's `authors` changed them: batch norm and ReLU in
    the pyramid, a batch norm a level in the head.
    """
    stem = "backbone.bottom_up.stem.conv1"
    writer.conv(stem, sizes.base(), 3, 7, end=True, gain=1 / 60)
    if writer.levels is not None:
        # The image is not quantized: its quantizer is there, and switched off.
        writer.tensors[f"{stem}.quant_activation.iteration"] = torch.zeros(1)
    writer.counted_norm(f"{stem}.norm", sizes.base())

    def block(stage: int, index: int, part: str) -> str:
        part = "shortcut" if part == "downsample" else part
        return f"backbone.bottom_up.res{stage + 1}.{index}.{part}"

    _blocks(writer, sizes, block, lambda name: f"{name}.norm")
    taken = sizes.channels if fcos else sizes.stage(4)
    convs = [(f"fpn_lateral{1 + stage}", sizes.stage(stage), 1) for stage in (2, 3, 4)]
    convs += [(f"fpn_output{level}", sizes.channels, 3) for level in (3, 4, 5)]
    convs += [("top_block.p6", taken, 3), ("top_block.p7", sizes.channels, 3)]
    for name, before, size in convs:
        variance = writer.conv(f"backbone.{name}", sizes.channels, before, size, bias=not authors)
        if authors:
            writer.counted_norm(f"backbone.{name}.norm.0", sizes.channels, variance)
    head = "proposal_generator.fcos_head." if fcos else "head."
    for tower in ("cls_tower", "bbox_tower") if fcos else ("cls_subnet", "bbox_subnet"):
        for index in range(sizes.depth):
            step = 3 if authors or fcos else 2
            name = f"{head}{tower}.{step * index}"
            variance = writer.conv(name, sizes.channels, sizes.channels, 3, bias=not fcos)
            for level in range(LEVELS) if authors else ():
                writer.counted_norm(f"{head}{tower}.{3 * index + 1}.{level}", sizes.channels, variance)
            if fcos and not authors:
                writer.group_norm(f"{head}{tower}.{3 * index + 1}", sizes.channels)
    anchors = 1 if fcos else ANCHORS
    ends = {"cls_logits" if fcos else "cls_score": anchors * sizes.classes, "bbox_pred": anchors * 4}
    for name, out in {**ends, **({"ctrness": 1} if fcos else {})}.items():
        writer.conv(f"{head}{name}", out, sizes.channels, 3, bias=True, end=True)
    for level in range(LEVELS) if fcos else ():
        writer.tensors[f"{head}scales.{level}.scale"] = writer.uniform(1, low=0.8, high=1.3)
    return writer.tensors


def torchvision(sizes: Sizes, fcos: bool, writer: Writer, version: int) -> dict[str, Tensor]:
    """RetinaNet (version 1 or 2) or FCOS of torchvision."""
    writer.conv("backbone.body.conv1", sizes.base(), 3, 7)
    writer.norm("backbone.body.bn1", sizes.base())

    def block(stage: int, index: int, part: str) -> str:
        return f"backbone.body.layer{stage}.{index}.{'downsample.0' if part == 'downsample' else part}"

    def norm(name: str) -> str:
        return f"{name[:-1]}1" if name.endswith("downsample.0") else name.replace(".conv", ".bn")

    _blocks(writer, sizes, block, norm)
    for name in [name for name in writer.tensors if name.endswith("num_batches_tracked")]:
        del writer.tensors[name]
    for index in range(3):
        fpn = "backbone.fpn."
        writer.conv(f"{fpn}inner_blocks.{index}.0", sizes.channels, sizes.stage(index + 2), 1, bias=True)
        writer.conv(f"{fpn}layer_blocks.{index}.0", sizes.channels, sizes.channels, 3, bias=True)
    taken = sizes.stage(4) if version == 2 else sizes.channels
    writer.conv("backbone.fpn.extra_blocks.p6", sizes.channels, taken, 3, bias=True)
    writer.conv("backbone.fpn.extra_blocks.p7", sizes.channels, sizes.channels, 3, bias=True)
    cls, box = "head.classification_head.", "head.regression_head."
    for head in (cls, box):
        for index in range(sizes.depth):
            place = f"{head}conv.{3 * index}" if fcos else f"{head}conv.{index}.0"
            writer.conv(place, sizes.channels, sizes.channels, 3, bias=fcos or version == 1)
            if fcos or version == 2:
                behind = f"{head}conv.{3 * index + 1}" if fcos else f"{head}conv.{index}.1"
                writer.group_norm(behind, sizes.channels)
    anchors = 1 if fcos else ANCHORS
    writer.conv(f"{cls}cls_logits", anchors * sizes.classes, sizes.channels, 3, bias=True)
    writer.conv(f"{box}bbox_reg", anchors * 4, sizes.channels, 3, bias=True)
    if fcos:
        writer.conv(f"{box}bbox_ctrness", 1, sizes.channels, 3, bias=True)
    return writer.tensors


KINDS = {
    "aqd_retinanet": lambda sizes, writer: detectron2(sizes, False, writer, True),
    "aqd_fcos": lambda sizes, writer: detectron2(sizes, True, writer, True),
    "detectron2_retinanet": lambda sizes, writer: detectron2(sizes, False, writer, False),
    "adelaidet_fcos": lambda sizes, writer: detectron2(sizes, True, writer, False),
    "torchvision_retinanet": lambda sizes, writer: torchvision(sizes, False, writer, 1),
    "torchvision_retinanet_v2": lambda sizes, writer: torchvision(sizes, False, writer, 2),
    "torchvision_fcos": lambda sizes, writer: torchvision(sizes, True, writer, 1),
}


def checkpoint(
    kind: str, sizes: Sizes, levels: tuple[int, int] | None = None, seed: int = 0
) -> dict[str, Tensor]:
    """The tensors of a checkpoint of one of `KINDS`, by their names; `levels` as `Writer` has them."""
    return KINDS[kind](sizes, Writer(seed, levels))


def main(arguments: list[str]) -> None:
    """Writes one, for reading `--help` is the description."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("file", type=Path, help=".pth, or .pkl of numpy arrays")
    parser.add_argument("--backbone", choices=BLOCKS, default="r18")
    parser.add_argument("--width", type=float, default=1.0, help="factor on the backbone's channels")
    parser.add_argument("--channels", type=int, default=256, help="channels of the pyramid")
    parser.add_argument("--depth", type=int, default=4, help="convolutions of a tower")
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--bits", type=int, nargs=2, metavar=("INNER", "ENDS"), help="of AQD's layers")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    sizes = Sizes(given.backbone, given.width, given.channels, given.depth, given.classes)
    levels = (2 ** given.bits[0], 2 ** given.bits[1]) if given.bits else None
    tensors = checkpoint(given.kind, sizes, levels, given.seed)
    if given.file.suffix == ".pkl":
        arrays = {name: value.numpy() for name, value in tensors.items()}
        given.file.write_bytes(pickle.dumps({"model": arrays, "__author__": "random"}, protocol=2))
    else:
        torch.save({"model": tensors}, given.file)


if __name__ == "__main__":
    main(sys.argv[1:])
