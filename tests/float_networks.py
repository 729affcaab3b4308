"""Small float networks to quantize, made from a seed without torch."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

from aqd_deploy.frontends.graph import GraphBuilder

SIZE = 16


def images(count: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    """Inputs of the networks below: smooth pictures, as neighbouring pixels hang together."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 1, 3, SIZE // 4, SIZE // 4)).repeat(4, axis=3).repeat(4, axis=4)
    noise = rng.integers(-20, 21, (count, 1, 3, SIZE, SIZE))
    return [{"image": np.clip(each, 0, 255).astype(np.uint8)} for each in coarse + noise]


class FloatBuilder(GraphBuilder):
    """A `GraphBuilder` with convolutions of random weights; every channel's weights have another size."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__("float_network")
        self.rng = np.random.default_rng(seed)

    def weights(self, name: str, *shape: int) -> str:
        """A weight whose outputs are about as large as its inputs."""
        size = np.exp(self.rng.normal(scale=0.5, size=(shape[0], *[1] * (len(shape) - 1))))
        values = self.rng.laplace(size=shape) * size / np.sqrt(np.prod(shape[1:]))
        return self.constant(name, values.astype(np.float32))

    def conv(self, x: str, name: str, weight: str, group: int = 1, relu: bool = True) -> str:
        """3x3, stride 1, with a bias, and a ReLU behind it or none."""
        outputs = self.initializers[weight].dims[0]
        bias = self.constant(f"{name}.bias", self.rng.normal(scale=0.1, size=outputs).astype(np.float32))
        x = self.add("Conv", [x, weight, bias], name, kernel_shape=[3, 3], pads=[1] * 4, group=group)
        return self.add("Relu", [x], f"{name}.relu") if relu else x


def residual_network(seed: int = 0) -> onnx.ModelProto:
    """A stem, a block with a skip and a map of both signs in it, and a head whose weights two maps share:
    outputs `fine` and `coarse`.
    """
    net = FloatBuilder(seed)
    x = net.image([100, 110, 120], [64.0, 64.0, 64.0], SIZE, SIZE)
    x = net.conv(x, "stem", net.weights("stem.weight", 8, 3, 3, 3))
    y = net.conv(x, "block.0", net.weights("block.0.weight", 8, 8, 3, 3), relu=False)
    y = net.conv(y, "block.1", net.weights("block.1.weight", 8, 4, 3, 3), group=2)
    fine = net.add("Relu", [net.add("Add", [x, y], "skip")], "skip.relu")
    coarse = net.add("MaxPool", [fine], "pool", kernel_shape=[2, 2], strides=[2, 2])
    tower, head = net.weights("tower.weight", 8, 8, 3, 3), net.weights("head.weight", 4, 8, 1, 1)
    for name, x, side in (("fine", fine, SIZE), ("coarse", coarse, SIZE // 2)):
        x = net.conv(x, f"tower.{name}", tower)
        x = net.add("Conv", [x, head], f"head.{name}", kernel_shape=[1, 1])
        net.output(x, name, [1, 4, side, side])
    return net.model({})


def float_input_network(seed: int = 0) -> onnx.ModelProto:
    """Two convolutions on an image of floats (`float_images`): output `out`."""
    net = FloatBuilder(seed)
    net.inputs.append(helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, SIZE, SIZE]))
    x = net.conv("image", "stem", net.weights("stem.weight", 8, 3, 3, 3))
    x = net.add("Conv", [x, net.weights("head.weight", 4, 8, 1, 1)], "head", kernel_shape=[1, 1])
    net.output(x, "out", [1, 4, SIZE, SIZE])
    return net.model({})


def float_images(count: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    """`images` as numbers around zero."""
    return [
        {"image": (each["image"] / np.float32(64) - 2).astype(np.float32)} for each in images(count, seed)
    ]
