"""torch → QDQ ONNX: walks the modules of an AQD detector, one emit rule a module type.

The result is the canonical form of docs/qdq-form.md. A head convolution that all pyramid levels share
becomes one weight initializer and one DequantizeLinear, which every level's Conv reads.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnx
from torch import Tensor, nn

from aqd_deploy.detection.maps import CELL_OFFSET
from aqd_deploy.detection.settings import DetectorSettings
from aqd_deploy.errors import UnsupportedModelError
from aqd_deploy.frontends.graph import GraphBuilder
from aqd_deploy.integer.manifest import MANIFEST_KEY, SCHEMA
from aqd_deploy.qat.config import ModelConfig
from aqd_deploy.qat.detectors import trained_detector
from aqd_deploy.qat.fpn import FPN
from aqd_deploy.qat.heads import Head, LevelScale
from aqd_deploy.qat.layers import (
    BatchNorm,
    ConvBatchNorm,
    ConvBias,
    MultiLevelConvBatchNorm,
    QuantConv2d,
    SharedConv,
)
from aqd_deploy.qat.models import Detector, unwrapped
from aqd_deploy.qat.resnet import BasicBlock, Bottleneck, ResNet
from aqd_deploy.qat.soundness import check_network
from aqd_deploy.qat.yolo_body import HaltingPool, SpaceToDepth, YoloBody


def export_qdq(model: Detector, *, name: str | None = None) -> onnx.ModelProto:
    """The QDQ ONNX of `model`, with input `image` uint8 [1, 3, H, W] and the manifest in its metadata.

    `name` goes into the manifest (default: the configuration's label). A float model gives the same graph
    without quantizers. Raises UnsupportedModelError for GroupNorm (but in a float network whose configuration
    tells of it) and for module types without a rule, ScaleError for a step that is not positive and finite,
    CheckpointError for a tensor that holds NaN or infinity.
    """
    refuse_group_norm(model)
    model = unwrapped(model)
    check_network(model, "the network")
    manifest = make_manifest(model.config, name)
    emitter = _Emitter(model, manifest["name"])
    settings = DetectorSettings.from_manifest(manifest)
    sides = manifest["preprocessing"]["height"], manifest["preprocessing"]["width"]
    channels = settings.detector.channels()
    for kind, maps in emitter.detector(model).items():
        for tensor, level in zip(maps, settings.levels, strict=True):
            cells = [-(-side // level.stride) for side in sides]
            emitter.graph.output(tensor, level.outputs[kind], [1, channels[kind], *cells])
    return emitter.graph.model({MANIFEST_KEY: json.dumps(manifest)})


def refuse_group_norm(model: nn.Module) -> None:
    """Raises UnsupportedModelError where `model` has a GroupNorm that its configuration does not tell of, or
    is quantized and has one.
    """
    told = {each.norm for each in model.modules() if isinstance(each, SharedConv) and not each.conv.quantized}
    for path, module in model.named_modules():
        if isinstance(module, nn.GroupNorm) and module not in told:
            raise UnsupportedModelError(
                "GroupNorm computes its statistics at inference and cannot be computed in integers",
                received=f"the module {path}",
                valid="batch norm, one a pyramid level in shared heads (multi-level BN)",
                next_command="retrain the head with multi-level batch norm",
            )


def make_manifest(config: ModelConfig, name: str | None = None) -> dict[str, Any]:
    """The manifest of docs/qdq-form.md for a detector of this configuration."""
    entry = trained_detector(config)
    kinds = entry.detector.kinds
    return {
        "schema": SCHEMA,
        "name": name or config.label,
        "architecture": {
            "detector": config.detector,
            "backbone": config.backbone,
            "width": config.width,
            "head_depth": config.head_depth,
            "fpn_channels": config.fpn_channels,
        },
        "bits": {"weights": config.bits, "activations": config.bits, "first_last": _first_last_bits(config)},
        "preprocessing": {
            "input": "image",
            "height": config.image_height,
            "width": config.image_width,
            "color": "BGR",
            "resize": "letterbox",
            "pad_value": [round(mean) for mean in config.mean],
            "mean": list(config.mean),
            "std": [1, 1, 1],
        },
        "detector": {
            "kind": config.detector,
            "classes": list(config.names_of_classes),
            **({"category_ids": list(config.category_ids)} if config.category_ids else {}),
            "strides": list(config.strides),
            **({"cell_offset": config.cell_offset} if config.cell_offset != CELL_OFFSET else {}),
            "outputs": {kind: [f"{kind}_{level}" for level in config.levels] for kind in kinds},
            **entry.geometry(config),
            "score_threshold": config.score_threshold,
            "nms_iou": config.nms_iou,
            "max_detections": config.max_detections,
            "pre_nms": config.pre_nms,
        },
    }


def _first_last_bits(config: ModelConfig) -> int | None:
    return config.first_last_bits if config.bits is not None and config.mode == "aqd" else None


def _array(tensor: Tensor | None) -> np.ndarray:
    assert tensor is not None
    return tensor.detach().cpu().numpy()


class _Emitter:
    """The rules; those of heads are `HeadLayers`, those of bodies of YOLOv2 `BodyLayers`. A tensor is the
    name of a value in the graph; modules are named by their path in the network.
    """

    def __init__(self, model: Detector, name: str) -> None:
        self.graph = GraphBuilder(name)
        self.paths = {module: path for path, module in model.named_modules()}
        self.weights: dict[nn.Module, str] = {}

    def detector(self, model: Detector) -> dict[str, list[str]]:
        """The output maps by kind, a tensor a level."""
        config = model.config
        image = self.image(config)
        features = self.features(model, image)
        if not isinstance(model.head, Head):
            raise self._no_rule(model.head)
        return model.head.maps(self, features)

    def features(self, model: Detector, image: str) -> list[str]:
        """What the head is given."""
        if isinstance(model.backbone, YoloBody):
            return [model.backbone.map(self, image)]
        return self.fpn(model.fpn, *self.resnet(model.backbone, image))

    def image(self, config: ModelConfig) -> str:
        """Pixels minus their mean: the whole part in the zero point, the rest as a sum."""
        whole = [round(mean) for mean in config.mean]
        value = self.graph.image(whole, [1.0, 1.0, 1.0], config.image_height, config.image_width)
        rest = np.array([w - mean for w, mean in zip(whole, config.mean, strict=True)], np.float32)
        if not rest.any():
            return value
        return self.graph.add(
            "Add", [value, self.graph.constant("image_rest", rest.reshape(1, 3, 1, 1))], "image_centred"
        )

    def max_pool(self, module: nn.Module, x: str) -> str:
        strides, pads = ([1, 1], [0, 0, 1, 1]) if isinstance(module, HaltingPool) else ([2, 2], [0] * 4)
        return self.graph.add(
            "MaxPool", [x], self.paths[module], kernel_shape=[2, 2], strides=strides, pads=pads
        )

    def space_to_depth(self, module: nn.Module, x: str) -> str:
        """Slices, which every runtime has, in the order of `SpaceToDepth`."""
        path, block = self.paths[module], SpaceToDepth.BLOCK
        ends, axes, steps = (
            self.graph.constant(f"{path}.{name}", np.asarray(value, np.int64))
            for name, value in (("ends", [2**31 - 1] * 2), ("axes", [2, 3]), ("steps", [block] * 2))
        )
        parts = []
        for place in SpaceToDepth.places():
            name = f"{path}.at_{place[0]}_{place[1]}"
            start = self.graph.constant(f"{name}.start", np.asarray(place, np.int64))
            parts.append(self.graph.add("Slice", [x, start, ends, axes, steps], name))
        return self.joined(parts, path)

    def joined(self, maps: list[str], name: str) -> str:
        return self.graph.add("Concat", maps, name, axis=1)

    def resnet(self, module: ResNet, image: str) -> tuple[str, str, str]:
        x = self.conv_batch_norm(module.stem, image)
        x = self.graph.add(
            "MaxPool", [x], "backbone.pool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]
        )
        stages = []
        for stage in (module.layer1, module.layer2, module.layer3, module.layer4):
            for block in stage:
                x = self.block(block, x)
            stages.append(x)
        return stages[1], stages[2], stages[3]

    def block(self, module: nn.Module, x: str) -> str:
        if not isinstance(module, (BasicBlock, Bottleneck)):
            raise self._no_rule(module)
        convs = [module.conv1, module.conv2] + ([module.conv3] if isinstance(module, Bottleneck) else [])
        branch = x
        for conv in convs:
            branch = self.conv_batch_norm(conv, branch)
        identity = x if module.downsample is None else self.conv_batch_norm(module.downsample, x)
        path = self.paths[module]
        return self.relu(self.graph.add("Add", [branch, identity], f"{path}.skip"), path)

    def fpn(self, module: FPN, c3: str, c4: str, c5: str) -> list[str]:
        sums = [self.pyramid_conv(module.lateral[2], c5)]
        for index, features in ((1, c4), (0, c3)):
            lateral = self.pyramid_conv(module.lateral[index], features)
            above = self.graph.upsample(sums[0], 2, f"fpn.upsample.{index}")
            sums.insert(0, self.graph.add("Add", [lateral, above], f"fpn.skip.{index}"))
        outputs = [self.pyramid_conv(conv, x) for conv, x in zip(module.output, sums, strict=True)]
        p6 = self.pyramid_conv(module.p6, c5 if module.p6_from == "c5" else outputs[-1])
        ahead = self.relu(p6, "fpn.p6") if isinstance(module.p6, ConvBias) else p6
        return [*outputs, p6, self.pyramid_conv(module.p7, ahead)]

    def pyramid_conv(self, module: nn.Module, x: str) -> str:
        return self.conv(module.conv, x) if isinstance(module, ConvBias) else self.conv_batch_norm(module, x)

    def tower(self, layers: nn.ModuleList, maps: list[str]) -> list[str]:
        for layer in layers:
            if isinstance(layer, MultiLevelConvBatchNorm):
                maps = [self.shared_conv_batch_norm(layer, x, level) for level, x in enumerate(maps)]
            elif isinstance(layer, SharedConv):
                maps = [self.shared_conv(layer, x, f".level{level}") for level, x in enumerate(maps)]
            else:
                raise self._no_rule(layer)
        return maps

    def shared_conv(self, module: SharedConv, x: str, tag: str) -> str:
        x = self.conv(module.conv, x, tag)
        if module.norm is not None:
            path = self.paths[module.norm]
            scale = self.graph.constant(f"{path}.gamma", _array(module.norm.weight))
            bias = self.graph.constant(f"{path}.beta", _array(module.norm.bias))
            x = self.graph.add(
                "GroupNormalization", [x, scale, bias], f"{path}{tag}", epsilon=module.norm.eps,
                num_groups=module.norm.num_groups,
            )  # fmt: skip
        return self.relu(x, f"{self.paths[module]}{tag}")

    def shared_conv_batch_norm(self, module: MultiLevelConvBatchNorm, x: str, level: int) -> str:
        tag = f".level{level}"
        x = self.batch_norm(module.bn.of(level), self.conv(module.conv, x, tag))
        return self.relu(x, f"{self.paths[module]}{tag}")

    def prediction(self, conv: QuantConv2d, maps: list[str]) -> list[str]:
        return [self.conv(conv, x, f".level{level}") for level, x in enumerate(maps)]

    def scaled(self, scales: nn.ModuleList, maps: list[str]) -> list[str]:
        return [self.level_scale(scale, x) for scale, x in zip(scales, maps, strict=True)]

    def level_scale(self, module: nn.Module, x: str) -> str:
        if not isinstance(module, LevelScale):
            raise self._no_rule(module)
        path = self.paths[module]
        factor = self.graph.constant(f"{path}.value", _array(module.value()).astype(np.float32))
        return self.relu(self.graph.add("Mul", [x, factor], path), path)

    def conv_batch_norm(self, module: nn.Module, x: str) -> str:
        if not isinstance(module, ConvBatchNorm):
            raise self._no_rule(module)
        x = self.batch_norm(module.bn, self.conv(module.conv, x))
        if module.relu and module.leak:
            return self.graph.add("LeakyRelu", [x], f"{self.paths[module]}.leaky", alpha=module.leak)
        return self.relu(x, self.paths[module]) if module.relu else x

    def conv(self, module: QuantConv2d, x: str, tag: str = "") -> str:
        path = f"{self.paths[module]}{tag}"
        quantizer = module.activation_quantizer
        if quantizer is not None:
            step = f"{self.paths[module]}.input"
            x = self.graph.quantize_activation(
                x, float(quantizer.step()), quantizer.bits, f"{step}{tag}", quantizer.zero_point
            )
        inputs = [x, self.weight(module)]
        if module.bias is not None:
            inputs.append(self.graph.constant(f"{self.paths[module]}.bias", _array(module.bias)))
        size, pad = module.kernel_size, module.padding
        return self.graph.add(
            "Conv", inputs, path, kernel_shape=[size, size], strides=[module.stride] * 2, pads=[pad] * 4,
            dilations=[module.dilation] * 2, group=module.groups,
        )  # fmt: skip

    def weight(self, module: QuantConv2d) -> str:
        """The dequantized weight, emitted at its first use and read again by every other use of the layer."""
        if module not in self.weights:
            path = f"{self.paths[module]}.weight"
            if module.weight_quantizer is None:
                self.weights[module] = self.graph.constant(path, _array(module.weight))
            else:
                q, step = module.integer_weight()
                bits = module.weight_quantizer.bits
                self.weights[module] = self.graph.quantized_weight(_array(q), float(step), bits, path)
        return self.weights[module]

    def batch_norm(self, module: nn.Module, x: str) -> str:
        if not isinstance(module, BatchNorm):
            raise self._no_rule(module)
        path = self.paths[module]
        values = {
            "gamma": module.weight,
            "beta": module.bias,
            "mean": module.running_mean,
            "variance": module.running_var,
        }
        constants = [self.graph.constant(f"{path}.{key}", _array(value)) for key, value in values.items()]
        return self.graph.add("BatchNormalization", [x, *constants], path, epsilon=module.eps)

    def relu(self, x: str, path: str) -> str:
        return self.graph.add("Relu", [x], f"{path}.relu")

    def _no_rule(self, module: nn.Module) -> UnsupportedModelError:
        return UnsupportedModelError(
            "no export rule for this module",
            received=f"{type(module).__name__} at {self.paths[module]}",
            valid="the modules of aqd_deploy.qat",
        )
