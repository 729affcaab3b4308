"""Darknet networks for tests: the texts of their cfg files, weights with random numbers, and what Darknet
computes, in plain numpy by the loops of its C code.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

NET = "[net]\n# how it was trained\nbatch=64\nheight={side}\nwidth={side}\nchannels=3\nsaturation = 1.5\n"


def conv(filters, size=3, stride=1, norm=True, activation="leaky", more=""):
    norm = "batch_normalize=1\n" if norm else ""
    return (
        f"[convolutional]\n{norm}filters={filters}\nsize={size}\nstride={stride}\npad=1\n"
        f"activation={activation}\n{more}"
    )


def yolo(mask, classes=3):
    return (
        f"[yolo]\nmask = {mask}\nanchors = 4,6, 8,10, 16,12, 20,24\nclasses={classes}\nnum=4\njitter=.3\n"
        "ignore_thresh = .7\ntruth_thresh = 1\nrandom=1\n"
    )


POOL, POOL_1 = "[maxpool]\nsize=2\nstride=2\n", "[maxpool]\nsize=2\nstride=1\n"
YOLOV3_TINY = "".join(
    [
        NET.format(side=64), conv(4), POOL, conv(6), POOL, conv(8), POOL, conv(8), POOL, conv(12), POOL_1,
        conv(12), conv(16, 1), conv(16, norm=False, size=1, activation="linear"), yolo("2,3"),
        "[route]\nlayers = -3\n", conv(6, 1), "[upsample]\nstride=2\n", "[route]\nlayers = -1, 6\n", conv(10),
        conv(16, 1, norm=False, activation="linear"), yolo("0,1"),
    ]
)  # fmt: skip
YOLOV3_BLOCKS = "".join(
    [
        NET.format(side=32), conv(4), conv(8, stride=2), conv(4, 1),
        conv(8), "[shortcut]\nfrom=-3\nactivation=linear\n", "[dropout]\nprobability=.5\n",
        conv(8, stride=2), conv(8, 1),
        "[shortcut]\nfrom=-2\nactivation=leaky\n", "[route]\nlayers=-1\ngroups=2\ngroup_id=1\n",
        "[maxpool]\nsize=5\nstride=1\n", conv(8, 3, activation="mish", more="groups=2\n"),
        "[route]\nlayers=-1,-3\n", conv(6, 1, activation="swish"),
        conv(32, 1, norm=False, activation="linear"), yolo("0,1,2,3"),
    ]
)  # fmt: skip


def reorged(side):
    """YOLOv2's passage, on maps of a quarter of the side."""
    return "".join(
        [
            NET.format(side=side), conv(4, stride=2), conv(8, stride=2), conv(8, stride=2),
            "[route]\nlayers=-2\n", conv(8, 1), "[reorg]\nstride=2\n", "[route]\nlayers=-1,-4\n", conv(12),
            conv(32, 1, norm=False, activation="linear"), yolo("0,1,2,3"),
        ]
    )  # fmt: skip


def yolov2(side, width):
    """All layers of yolov2, `width` the share of its channels that it has."""
    body = [
        *(32, "p", 64, "p", 128, -64, 128, "p", 256, -128, 256, "p", 512, -256, 512, -256, 512, "p"),
        *(1024, -512, 1024, -512, 1024, 1024, 1024, "[route]\nlayers=-9\n", -64, "[reorg]\nstride=2\n"),
        *("[route]\nlayers=-1,-4\n", 1024),
    ]  # fmt: skip
    parts = [NET.format(side=side)]
    for each in body:
        if isinstance(each, int):
            parts.append(conv(int(abs(each) * width), 3 if each > 0 else 1))
        else:
            parts.append(POOL if each == "p" else each)
    return "".join([*parts, conv(16, 1, norm=False, activation="linear"), REGION])


REGION = (
    "[region]\nanchors = 1.08,1.19,  3.42,4.41\nbias_match=1\nclasses=3\ncoords=4\nnum=2\nsoftmax=1\n"
    "jitter=.2\nrescore=1\nthresh = .6\nrandom=0\n"
)
YOLOV2_TINY = "".join(
    [
        NET.format(side=64), conv(4), POOL, conv(6), POOL, conv(8), POOL, conv(8), POOL_1, conv(12),
        conv(16, 1, norm=False, activation="linear"), REGION,
    ]
)  # fmt: skip


def sections_of(text):
    """(name, keys) of every section."""
    found = []
    for line in text.splitlines():
        line = line.split("#")[0].replace(" ", "")
        if line.startswith("["):
            found.append((line[1:-1], {}))
        elif line:
            key, value = line.split("=")
            found[-1][1][key] = value
    return found


class DarknetNetwork:
    """A cfg with random weights: they can be written, and computed."""

    def __init__(self, text, seed=0):
        self.text, self.sections = text, sections_of(text)
        self.random = np.random.default_rng(seed)
        self.layers = []
        self.shapes = []
        net = self.sections[0][1]
        shape = (3, int(net["height"]), int(net["width"]))
        image = np.zeros(shape)
        self.forward(image, make=True)

    def _draw(self, inside, keys):
        """biases, (scales, means, variances,) weights, float32."""
        filters, size = int(keys["filters"]), int(keys["size"])
        inside //= int(keys.get("groups", 1))
        random = self.random
        weights = random.normal(size=(filters, inside, size, size)) * np.sqrt(2 / (inside * size * size))
        values = [random.normal(size=filters) * 0.3]
        if keys.get("batch_normalize") == "1":
            variances = random.uniform(0.2, 2, filters)
            # Where ε lies makes a difference of a factor there.
            variances[0] = 1e-9
            weights[0] *= 1e-5
            values += [random.uniform(0.5, 1.5, filters), random.normal(size=filters) * 1e-6, variances]
        return [each.astype(np.float32) for each in (*values, weights)]

    def write(self, folder: Path, header=(0, 2, 0), more=b"", cut=0):
        """`n.cfg` and `n.weights`."""
        numbers = b"".join(array.tobytes() for layer in self.layers if layer for array in layer)
        seen = struct.pack("<q" if header[0] * 10 + header[1] >= 2 else "<i", 32013312)
        data = struct.pack("<3i", *header) + seen + numbers + more
        (folder / "n.cfg").write_text(self.text)
        (folder / "n.weights").write_bytes(data[: len(data) - cut])
        return folder / "n.cfg", folder / "n.weights"

    def forward(self, image, make=False):
        """The maps that heads read, float64 [C, H, W], of an image [3, H, W]."""
        self.maps, heads, x = [], [], image.astype(np.float64)
        for index, (name, keys) in enumerate(self.sections[1:]):
            if make:
                drawn = self._draw(x.shape[0], keys) if name == "convolutional" else None
                self.layers.append(drawn)
            x = getattr(self, f"_{name}")(x, keys, index)
            self.maps.append(x)
            if name in ("yolo", "region"):
                heads.append(x)
        return heads

    def _convolutional(self, x, keys, index):
        bias, *norm, weights = (each.astype(np.float64) for each in self.layers[index])
        size, stride, groups = int(keys["size"]), int(keys["stride"]), int(keys.get("groups", 1))
        pad = size // 2
        x = np.pad(x, ((0, 0), (pad, pad), (pad, pad)))
        parts = []
        for group in range(groups):
            inside, out = x.shape[0] // groups, len(weights) // groups
            view = np.lib.stride_tricks.sliding_window_view(
                x[group * inside : (group + 1) * inside], (size, size), axis=(1, 2)
            )[:, ::stride, ::stride]
            parts.append(np.einsum("chwij,ocij->ohw", view, weights[group * out : (group + 1) * out]))
        y = np.concatenate(parts)
        if norm:
            scale, mean, variance = (each[:, None, None] for each in norm)
            y = (y - mean) / (np.sqrt(variance) + 0.000001) * scale
        return self._activate(y + bias[:, None, None], keys.get("activation", "logistic"))

    @staticmethod
    def _activate(x, kind):
        return {
            "linear": lambda: x,
            "leaky": lambda: np.where(x > 0, x, x * np.float32(0.1)),
            "logistic": lambda: 1 / (1 + np.exp(-x)),
            "mish": lambda: x * np.tanh(np.log1p(np.exp(x))),
            "swish": lambda: x / (1 + np.exp(-x)),
            "relu": lambda: np.maximum(x, 0),
        }[kind]()

    @staticmethod
    def _maxpool(x, keys, index):
        size, stride = int(keys["size"]), int(keys["stride"])
        padding = int(keys.get("padding", size - 1))
        height, width = ((side + padding - size) // stride + 1 for side in x.shape[1:])
        y = np.full((len(x), height, width), -np.inf)
        for i in range(height):
            for j in range(width):
                for n in range(size):
                    for m in range(size):
                        row, column = i * stride - padding // 2 + n, j * stride - padding // 2 + m
                        if 0 <= row < x.shape[1] and 0 <= column < x.shape[2]:
                            y[:, i, j] = np.maximum(y[:, i, j], x[:, row, column])
        return y

    def _route(self, x, keys, index):
        parts = []
        for number in map(int, keys["layers"].split(",")):
            each = self.maps[number if number >= 0 else index + number]
            groups, group = int(keys.get("groups", 1)), int(keys.get("group_id", 0))
            parts.append(np.split(each, groups)[group])
        return np.concatenate(parts)

    def _shortcut(self, x, keys, index):
        return self._activate(x + self.maps[index + int(keys["from"])], keys.get("activation", "linear"))

    @staticmethod
    def _upsample(x, keys, index):
        return x.repeat(int(keys["stride"]), axis=1).repeat(int(keys["stride"]), axis=2)

    @staticmethod
    def _reorg(x, keys, index):
        """src/blas.c, reorg_cpu with forward = 0."""
        stride, (channels, height, width) = int(keys["stride"]), x.shape
        flat, out = x.ravel(), np.empty(x.size)
        part = channels // stride**2
        for k in range(channels):
            for j in range(height):
                for i in range(width):
                    offset = k // part
                    w2, h2 = i * stride + offset % stride, j * stride + offset // stride
                    source = w2 + width * stride * (h2 + height * stride * (k % part))
                    out[i + width * (j + height * k)] = flat[source]
        return out.reshape(channels * stride**2, height // stride, width // stride)

    @staticmethod
    def _dropout(x, keys, index):
        return x

    _yolo = _region = _dropout
