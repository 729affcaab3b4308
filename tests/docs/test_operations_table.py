"""The table "operation → what becomes of it" of docs/how-to/foreign-models.md: small networks that
onnxruntime quantizes, a few a row, hold what each row says.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest

from aqd_deploy.errors import UnsupportedModelError
from aqd_deploy.integer.manifest import read_manifest
from aqd_deploy.integer.reader import read_graph
from aqd_deploy.passes.pipeline import LoweringResult, lower

torch = pytest.importorskip("torch")
F = torch.nn.functional

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "foreign-models.md"
SHAPE = (1, 3, 16, 16)


def conv(inner=8, outer=8, kernel=1, **settings):
    return torch.nn.Conv2d(inner, outer, kernel, **settings)


class Network(torch.nn.Module):
    """A convolution with ReLU, what is asked for with its layers, and a convolution of `width` channels."""

    def __init__(self, call, *layers, width=8):
        super().__init__()
        self.call, self.layers = call, torch.nn.ModuleList(layers)
        self.first, self.last = conv(3, 8, 3, padding=1), conv(width, 8)

    def forward(self, image):
        return self.last(self.call(self.first(image).relu(), *self.layers))


class Tail(Network):
    """The same without the last convolution."""

    def forward(self, image):
        return self.call(self.first(image).relu(), *self.layers)


def shuffled(x):
    return x.reshape(1, 2, 4, 16, 16).transpose(1, 2).reshape(1, 8, 16, 16)


# By the beginning of a row: networks, and operations of the integer file that come of each.
CASES = {
    "Conv; Gemm": [
        (lambda: Network(lambda x, c: c(x), conv(8, 8, 3, groups=4, dilation=2)), {"ConvInteger"}),
        (lambda: Tail(lambda x, m: m(x.flatten(1)), torch.nn.Linear(2048, 5)), {"ConvInteger"}),
    ],
    "ConvTranspose": [
        (
            lambda: Network(lambda x, c: c(x), torch.nn.ConvTranspose2d(8, 8, 3, stride=2)),
            {"DepthToSpace_CRD"},
        ),
    ],
    "bias, BatchNormalization": [
        (lambda: Network(lambda x, c, b: b(c(x)), conv(), torch.nn.BatchNorm2d(8)), set()),
    ],
    "Relu, Clip": [
        (lambda: Network(lambda x, c: F.relu6(c(x)), conv()), set()),
        (lambda: Network(lambda x, c: c(x).clamp(-0.5, 0.5), conv()), set()),
    ],
    "Sigmoid": [
        (lambda: Network(lambda x, c: torch.sigmoid(c(x)), conv()), {"Lookup"}),
        (lambda: Network(lambda x, c: F.silu(c(x)), conv()), {"Lookup"}),
        (lambda: Network(lambda x, c: F.hardswish(c(x)), conv()), {"Lookup"}),
        (lambda: Network(lambda x: x / 3 + 1), {"Lookup"}),
    ],
    "the same between": [(lambda: Network(lambda x, c: F.silu(c(x)), conv()), {"Steps"})],
    "the same without": [
        (lambda: Network(lambda x, c: F.silu(c(x)) + x, conv()), {"Pieces", "SkipAdd"}),
        (
            lambda: Network(lambda x, c: F.avg_pool2d(torch.tanh(c(x)), 2), conv()),
            {"Pieces", "StreamSumPool"},
        ),
        (lambda: Network(lambda x, c, d: F.silu(c(x)) * d(x), conv(), conv()), {"StreamMultiply"}),
    ],
    "Add of two": [(lambda: Network(lambda x, c: c(x) + x, conv()), {"SkipAdd", "Cast"})],
    "Mul of two": [
        (lambda: Network(lambda x, c: c(x) * x, conv()), {"Multiply"}),
        (
            lambda: Network(lambda x, c: x * torch.sigmoid(c(F.adaptive_avg_pool2d(x, 1))), conv()),
            {"Multiply", "SumPool", "Lookup"},
        ),
    ],
    "MaxPool": [(lambda: Network(lambda x: F.max_pool2d(x, 5, 1, 2)), {"MaxPool"})],
    "AveragePool": [
        (lambda: Network(lambda x: F.avg_pool2d(x, 3, 2, 1)), {"SumPool"}),
        (lambda: Network(lambda x: x.mean((2, 3), keepdim=True)), {"SumPool"}),
    ],
    "Resize": [
        (lambda: Network(lambda x: F.interpolate(x, scale_factor=2, mode="nearest")), {"Resize"}),
        (lambda: Network(lambda x: F.interpolate(x, scale_factor=2, mode="bilinear")), {"ResizeLinear"}),
        (lambda: Network(lambda x: F.interpolate(x, scale_factor=0.5, mode="bilinear")), {"SumPool"}),
    ],
    "Concat": [
        (lambda: Network(lambda x, c: torch.cat([c(x), x], 1), conv(), width=16), {"Concat"}),
        (lambda: Network(lambda x: x.chunk(2, 1)[1], width=4), {"Slice"}),
        (lambda: Network(lambda x: F.pixel_shuffle(x, 2), width=2), {"DepthToSpace_CRD"}),
        (lambda: Network(shuffled), {"Gather"}),
    ],
    "Flatten": [
        (lambda: Tail(lambda x, m: m(F.max_pool2d(x, 4).flatten(1)), torch.nn.Linear(128, 5)), set()),
        (lambda: Network(lambda x: x.transpose(2, 3)), {"Rearrange"}),
    ],
    "Softmax, TopK": [
        (lambda: Tail(lambda x: F.avg_pool2d(x, 16).flatten(1).softmax(1)), set()),
        (lambda: Tail(lambda x: x.flatten(1).topk(5)), set()),
    ],
    "Softmax, LayerNormalization": [
        (lambda: Network(lambda x: x.softmax(1)), None),
        (lambda: Network(lambda x: F.layer_norm(x, x.shape[1:])), None),
    ],
}  # fmt: skip
ELSEWHERE = {
    "Conv, Gemm, MatMul with an operand": "tests/passes/canonical",
    "QuantizeLinear of a float input": "every case here",
    "other quantizers": "tests/passes/canonical",
    "dynamic quantization": "tests/passes/canonical, tests/quantization/test_pipeline.py",
    "16-bit activations": "tests/passes/canonical",
}
WITHOUT_A_WORD = {"ConvInteger", "Requantize", "Steps", "Threshold", "MaxPool", "SumPool"}
"""What a case has anyway, whose row says that its operation takes none."""


class _Images:
    """Calibration data for onnxruntime."""

    def __init__(self):
        generator = np.random.default_rng(0)
        self._images = iter([{"image": generator.normal(size=SHAPE).astype(np.float32)} for _ in range(4)])

    def get_next(self):
        return next(self._images, None)


# onnxruntime quantizes what every operator makes, unless it is told not to.
_INPUTS_ONLY = {
    "op_types_to_quantize": ["Conv"],
    "extra_options": {"OpTypesToExcludeOutputQuantization": ["Conv"]},
}
SETTINGS = {"the same between": _INPUTS_ONLY, "the same without": _INPUTS_ONLY}


def lowered(make, folder, **settings) -> LoweringResult:
    from onnxruntime.quantization import QuantFormat, quantize_static

    torch.manual_seed(0)
    source, target = str(folder / "m.onnx"), str(folder / "m.qdq.onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            make().eval(), (torch.zeros(SHAPE),), source, input_names=["image"], dynamo=False,
            opset_version=17,
        )  # fmt: skip
    quantize_static(source, target, _Images(), quant_format=QuantFormat.QDQ, per_channel=True, **settings)
    return lower(onnx.load(target))


@pytest.mark.parametrize(
    ("row", "make", "words"),
    [
        pytest.param(row, *case, id=f"{row}-{number}")
        for row, cases in CASES.items()
        for number, case in enumerate(cases)
    ],
)
def test_what_becomes_of_it(row, make, words, tmp_path):
    if words is None:
        with pytest.raises(UnsupportedModelError, match="can't be lowered"):
            lowered(make, tmp_path)
        return
    result = lowered(make, tmp_path, **SETTINGS.get(row, {}))
    made = {node.op_type for node in result.model.graph.node}
    assert words <= made if words else made <= WITHOUT_A_WORD
    assert "image" in read_manifest(result.model)["inputs"] and read_graph(result.model).outputs
    assert (result.tail is not None) == row.startswith("Softmax, TopK")


def test_every_row_is_held():
    table = PAGE.read_text().partition("\n| operation |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| (.+?) \|", table, re.MULTILINE)
    begun = [*CASES, *ELSEWHERE]
    assert len(rows) == len(begun) and all(any(row.startswith(each) for each in begun) for row in rows)
