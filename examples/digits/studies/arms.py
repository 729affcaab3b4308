"""What each study trains: an arm is one network, its training and the table cells that it stands for.

Float networks are trained from random weights; a quantized one starts from the float network of the same
detector, head normalisation and seed, as AQD does.
"""

from __future__ import annotations

from dataclasses import dataclass

from aqd_deploy.detection.detectors import DETECTORS
from aqd_deploy.qat.checkpoint import without_memory
from aqd_deploy.qat.config import ModelConfig, parse_architecture
from aqd_deploy.qat.layers import QuantConv2d
from aqd_deploy.qat.quantizer_kinds import QUANTIZERS

SIZE = 160
SEEDS = (1, 2, 3)
NORMS = {"shared": "shared batch norm", "group": "group norm", "levels": "multi-level batch norm"}
BITS = (4, 3, 2)
MODES = {"aqd": "AQD", "aqd*": "AQD*"}
PARTS = {
    "backbone": ("fpn.", "head."),
    "backbone + pyramid": ("head.",),
    "backbone + pyramid + heads": (),
}
"""What is quantized, and the beginnings of the paths that stay float."""
TINY = "yolov2_tiny"
ASPECT, HEIGHTS = 0.75, (19.0, 28.0, 40.0, 55.0, 78.0)
LEARNING_RATE = {"float": 2e-3, "quantized": 1.5e-3}


@dataclass(frozen=True)
class Arm:
    """One network to train. `bits` None is float; `floating` are the parts that stay float in a quantized
    one, by the beginnings of their paths. `trained_on` is a float network that goes on as the quantized ones
    do.
    """

    detector: str
    norm: str
    seed: int
    bits: int | None = None
    mode: str = "aqd"
    floating: tuple[str, ...] = ()
    quantizer: str = "aqd"
    trained_on: bool = False

    @property
    def name(self) -> str:
        """A file's name of it."""
        mode = self.mode.replace("*", "-star")
        kind = "float" if self.bits is None else f"{self.bits}bit_{mode}"
        kind += "_on" if self.trained_on else ""
        kind += "" if self.quantizer == "aqd" else f"_{self.quantizer}"
        kept = "".join(f"_float-{part.strip('.')}" for part in self.floating)
        network = self.detector if self.detector == TINY else f"{self.detector}_r18_{self.norm}"
        return f"{network}_{kind}{kept}_seed{self.seed}"

    @property
    def start(self) -> Arm | None:
        """The float network that it begins with."""
        begins = self.bits is not None or self.trained_on
        return Arm(self.detector, self.norm, self.seed) if begins else None

    @property
    def learning_rate(self) -> float:
        return LEARNING_RATE["float" if self.start is None else "quantized"]

    def config(self, size: int = SIZE) -> ModelConfig:
        """The network: the width and depth of the shipped digits detectors."""
        if self.detector == TINY:
            return tiny_yolo(self.bits, self.quantizer, size, self.name)
        config = ModelConfig(
            detector=self.detector, backbone="resnet18", width=0.25, fpn_channels=64, head_depth=2,
            classes=10, bits=self.bits, mode=self.mode, quantizer=self.quantizer, head_norm=self.norm,
            image_height=size, image_width=size, anchor_base=2.5,
            nms_iou=DETECTORS[self.detector].nms_iou, name=self.name,
            class_names=tuple(str(digit) for digit in range(10)),
        )  # fmt: skip
        if not self.floating:
            return config
        paths = [
            path for path, module in without_memory(config).named_modules()
            if isinstance(module, QuantConv2d) and module.quantized and path.startswith(self.floating)
        ]  # fmt: skip
        return config.replace(layer_bits=tuple((path, None, None) for path in paths))


def tiny_yolo(bits: int | None, quantizer: str, size: int, name: str) -> ModelConfig:
    """Tiny-YOLOv2 at 3/16 of its width; its anchors are as high as the 10th, 30th, 50th, 70th and 90th
    hundredth of the training digits, and as wide as digits of that height mostly are.
    """
    return parse_architecture(
        TINY, width=0.1875, classes=10, bits=bits, quantizer=quantizer, image_height=size, image_width=size,
        anchor_sides=(tuple((ASPECT * height, height) for height in HEIGHTS),),
        class_names=tuple(str(digit) for digit in range(10)),
    ).replace(name=name)  # fmt: skip


def head_norm() -> list[Arm]:
    """Table 3: FCOS with each normalisation of the head, float and 2 bits, three seeds."""
    return [Arm("fcos", norm, seed, bits) for bits in (None, 2) for norm in NORMS for seed in SEEDS]


def bits() -> list[Arm]:
    """Tables 2 and 4: RetinaNet and FCOS, float and at 4, 3 and 2 bits, AQD and AQD*."""
    first = SEEDS[0]
    return [
        arm
        for detector in ("fcos", "retinanet")
        for arm in (
            Arm(detector, "levels", first),
            *(Arm(detector, "levels", first, bits, mode) for bits in BITS for mode in MODES),
        )
    ]


def parts() -> list[Arm]:
    """Table 5: FCOS at 2 bits in its backbone, its pyramid, its heads; AQD*, as in the paper."""
    first = SEEDS[0]
    return [
        Arm("fcos", "levels", first),
        *(Arm("fcos", "levels", first, 2, "aqd*", floating) for floating in PARTS.values()),
    ]


def densities() -> list[Arm]:
    """Tiny-YOLOv2 with quantizers that follow densities and with AQD's: 8 and 4 bits, three seeds; float, and
    float trained as long as these.
    """
    quantized = [
        Arm(TINY, "levels", seed, bits, quantizer=quantizer)
        for bits in (8, 4) for quantizer in QUANTIZERS for seed in SEEDS
    ]  # fmt: skip
    floats = [Arm(TINY, "levels", seed, trained_on=on) for on in (False, True) for seed in SEEDS]
    return [*floats, *quantized]


STUDIES = {"head-norm": head_norm, "bits": bits, "parts": parts, "densities": densities}
"""What is trained for a study; `scales` measures networks that are trained already."""


def needed(arms: list[Arm]) -> list[Arm]:
    """The arms with those that they start from, each once, floats first."""
    every = dict.fromkeys([*(arm.start for arm in arms if arm.start is not None), *arms])
    return sorted(every, key=lambda arm: arm.start is not None)
