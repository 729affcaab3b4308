"""From an image file to the tensor a detector takes, and back from its pixels to the image's.

The input of our own networks is raw pixels: no mean is subtracted and nothing is scaled here, the file that
holds the network does that exactly. A network from elsewhere may take (pixel − mean)/std. What happens to an
image before is all in `letterbox`, and `describe_preprocessing` says it in words, because accuracy lost at
deployment is often lost here.
"""

from __future__ import annotations

import os
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from PIL import Image, ImageOps

from aqd_deploy.errors import ImageError, ModelFileError
from aqd_deploy.inputs import GIB, FileKind
from aqd_deploy.schema import Check, SchemaError, anything, list_of, number, table, text, whole

# Raster formats only: Pillow's EPS reader, for one, starts another program on the file's text.
FORMATS = ("PNG", "JPEG", "MPO", "BMP", "GIF", "TIFF", "WEBP", "PPM")
MAX_PIXELS = 100_000_000
_STRIP_PIXELS = 1 << 22
COLORS = ("RGB", "BGR")
IMAGE_FILE = FileKind("image file", f"a file in one of {', '.join(FORMATS)}", GIB, ImageError)
# The tag of EXIF, and its values that turn width and height around.
_ORIENTATION, _TURNED = 0x0112, (5, 6, 7, 8)
LONGEST_SIDE = 16384
_SIDE = whole(1, LONGEST_SIDE)
PREPROCESSING_KEYS: tuple[dict[str, Check], dict[str, Check]] = (
    {"height": _SIDE, "width": _SIDE, "color": text, "pad_value": list_of(whole(0, 255), 3, 3)},
    {"input": text, "resize": text, "mean": anything, "std": anything},
)
"""What the manifest's `preprocessing` must have, and what it may have."""
_PREPROCESSING = table(*PREPROCESSING_KEYS)
_NORMALISATION = table({"mean": list_of(number(), 3, 3), "std": list_of(number(above=0), 3, 3)})

# What Pillow's readers raise for damaged files.
_DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    struct.error,
    zlib.error,
)


def load_image(path: str | os.PathLike[str]) -> np.ndarray:
    """The pixels of an image file, uint8 [H, W, 3], RGB, as a viewer shows them.

    - EXIF orientation is applied.
    - Grey and palette images become RGB; CMYK is converted by Pillow (without a colour profile).
    - Transparency is laid over white.
    - 16 bits a channel: the upper 8 bits (v >> 8), as Pillow itself does for 16-bit RGB.
    - An animation gives its first frame.

    An image of n pixels takes about 7·n bytes and 50 MB meanwhile, as Pillow decodes it and as it is
    returned; 18·n as WebP.

    Raises ImageError: no such file, no regular one, empty, not an image, truncated or damaged, floating-point
    pixels, or more than 100 million pixels (a decompression bomb), which is found out before anything is
    decoded.
    """
    name = os.fspath(path)
    with IMAGE_FILE.open(path) as file:
        if os.fstat(file.fileno()).st_size == 0:
            raise ImageError(
                "the image file is empty", received=name, valid="a PNG, JPEG or other image file"
            )
        return _decoded(file, name)


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Width and height of the image that `load_image` gives, from the file's header. Raises ImageError."""
    name = os.fspath(path)
    with (
        IMAGE_FILE.open(path) as file,
        _reading(name),
        Image.open(file, formats=_readable_formats()) as image,
    ):
        turned = image.getexif().get(_ORIENTATION, 1) in _TURNED
        return (image.height, image.width) if turned else (image.width, image.height)


def _decoded(file: IO[bytes], name: str) -> np.ndarray:
    with _reading(name), Image.open(file, formats=_readable_formats()) as image:
        if image.width * image.height > MAX_PIXELS:
            raise _too_large(name, f"{image.width} x {image.height} pixels")
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        return _pixels(image, name)


@contextmanager
def _reading(name: str) -> Iterator[None]:
    """A block in which Pillow reads the image file called `name`: what it raises becomes ImageError."""
    try:
        with warnings.catch_warnings():
            # A warning here is Pillow's about bombs or broken metadata; MAX_PIXELS settles the first.
            warnings.simplefilter("ignore")
            yield
    except Image.UnidentifiedImageError:
        raise ImageError("the file is not an image", received=name, valid=", ".join(FORMATS)) from None
    except Image.DecompressionBombError as error:
        raise _too_large(name, str(error)) from None
    except _DAMAGED as error:
        raise ImageError(f"the image file is truncated or damaged ({error})", received=name) from error


def _readable_formats() -> list[str]:
    """FORMATS that this build of Pillow has a reader for."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _too_large(name: str, size: str) -> ImageError:
    return ImageError(
        "the image is too large", received=f"{name}: {size}", valid=f"at most {MAX_PIXELS} pixels"
    )


def _pixels(image: Image.Image, name: str) -> np.ndarray:
    """uint8 [H, W, 3] of a decoded image: converted strip by strip, because every step of a whole image at
    once would hold another copy of it.
    """
    if image.mode == "F":
        raise ImageError("the image has floating-point pixels", received=name, valid="8 or 16 bits a channel")
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    rows = max(1, _STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        pixels[top : top + rows] = np.asarray(_to_rgb(strip, name))
    return pixels


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise ImageError(
                "the image has more than 16 bits a channel", received=name, valid="8 or 16 bits a channel"
            )
        image = Image.fromarray((values >> 8).astype(np.uint8))
    if image.has_transparency_data:
        over = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", over.size, (255, 255, 255, 255)), over).convert("RGB")
    return image.convert("RGB")


@dataclass(frozen=True)
class Placement:
    """Where an image of `width` x `height` pixels lies in the network's input.

    x_network = x_image · placed_width / width + left, and y alike. Coordinates are continuous: pixel k covers
    [k, k+1].
    """

    width: int
    height: int
    left: int
    top: int
    placed_width: int
    placed_height: int

    def _affine(self) -> tuple[np.ndarray, np.ndarray]:
        x, y = self.placed_width / self.width, self.placed_height / self.height
        return np.array([x, y, x, y]), np.array([self.left, self.top, self.left, self.top], dtype=np.float64)

    def to_network(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes [n, 4] (x1, y1, x2, y2) from image pixels to network pixels, float64."""
        scale, shift = self._affine()
        return np.asarray(boxes, dtype=np.float64) * scale + shift

    def to_image(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes [n, 4] (x1, y1, x2, y2) from network pixels to image pixels, clipped to the image,
        float64."""
        scale, shift = self._affine()
        original = (np.asarray(boxes, dtype=np.float64) - shift) / scale
        return np.clip(original, 0, [self.width, self.height, self.width, self.height])


def letterbox(
    image: np.ndarray, height: int, width: int, pad_value: tuple[int, int, int]
) -> tuple[np.ndarray, Placement]:
    """Fits an image into [height, width] keeping its proportions: uint8 [H, W, 3] → uint8 [height, width, 3].

    Resized by one factor (Pillow's bilinear filter, which averages when it shrinks; sides rounded, at least 1
    pixel), centred (an odd rest goes right and down), the rest filled with `pad_value`, given in the image's
    channel order. An image of the right size is returned unchanged, pixel for pixel.
    """
    source_height, source_width = image.shape[:2]
    factor = min(height / source_height, width / source_width)
    placed_height = min(height, max(1, round(source_height * factor)))
    placed_width = min(width, max(1, round(source_width * factor)))
    top, left = (height - placed_height) // 2, (width - placed_width) // 2
    placement = Placement(source_width, source_height, left, top, placed_width, placed_height)
    if (placed_height, placed_width) != (source_height, source_width):
        resized = Image.fromarray(np.ascontiguousarray(image)).resize(
            (placed_width, placed_height), Image.Resampling.BILINEAR
        )
        image = np.asarray(resized)
    canvas = np.empty((height, width, 3), dtype=np.uint8)
    canvas[:] = pad_value
    canvas[top : top + placed_height, left : left + placed_width] = image
    return canvas, placement


@dataclass(frozen=True)
class Preprocess:
    """The manifest's preprocessing: callable on uint8 [H, W, 3] RGB, gives a tensor [1, 3, height, width] and
    its Placement.

    `color` is the channel order of the tensor; `pad_value` is in that order, as `mean` and `std` are. With
    these the tensor is (pixel − mean)/std in float32, without them uint8 pixels.
    """

    input: str
    height: int
    width: int
    color: str
    pad_value: tuple[int, int, int]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] = (1.0, 1.0, 1.0)

    @classmethod
    def from_manifest(cls, manifest: dict[str, Any]) -> Preprocess:
        """Reads `manifest["preprocessing"]` (docs/qdq-form.md); ModelFileError where it is missing or not
        valid. `mean` and `std` are for an input that stands for floats, which `manifest["inputs"]` says; of
        another one they tell what is in the network.
        """
        entry = manifest.get("preprocessing")
        if not isinstance(entry, dict):
            raise ModelFileError(
                "the manifest has no preprocessing, so an image file cannot be fed to the model"
            )
        name = entry.get("input", "image")
        takes_floats = name in manifest.get("inputs", {})
        try:
            _PREPROCESSING(entry, "")
            if takes_floats:
                _NORMALISATION(entry, "")
        except SchemaError as error:
            raise error.of("the manifest's preprocessing", ModelFileError) from None
        if entry["color"] not in COLORS:
            raise ModelFileError("unknown colour order", received=entry["color"], valid=", ".join(COLORS))
        if entry.get("resize", "letterbox") != "letterbox":
            raise ModelFileError("unknown resize method", received=entry["resize"], valid="letterbox")
        pixels = (name, entry["height"], entry["width"], entry["color"], tuple(entry["pad_value"]))
        return cls(*pixels, tuple(entry["mean"]), tuple(entry["std"])) if takes_floats else cls(*pixels)

    def __call__(self, image: np.ndarray) -> tuple[np.ndarray, Placement]:
        """ImageError where the array is not uint8 [H, W, 3] with at least one pixel."""
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
            raise ImageError(
                "the array is not an RGB image",
                received=f"{image.dtype} {list(image.shape)}",
                valid="uint8 [H, W, 3]",
            )
        ordered = image[..., ::-1] if self.color == "BGR" else image
        placed, placement = letterbox(ordered, self.height, self.width, self.pad_value)
        tensor = np.ascontiguousarray(placed.transpose(2, 0, 1)[None])
        if self.mean is None:
            return tensor, placement
        mean, std = (np.reshape(values, (1, 3, 1, 1)) for values in (self.mean, self.std))
        return ((tensor - mean) / std).astype(np.float32), placement


def describe_preprocessing(manifest: dict[str, Any]) -> str:
    """What happens to an image and to the outputs, in a few sentences, for reports. Takes any canonical
    manifest."""
    steps = Preprocess.from_manifest(manifest)
    entry = manifest["preprocessing"]
    text = (
        f"Image to `{steps.input}`: decoded to 8-bit RGB (EXIF orientation applied), resized with its "
        f"proportions kept (bilinear, averaging when shrinking) and centred in {steps.width} x "
        f"{steps.height} (width x height), padded with {list(steps.pad_value)}, channels in {steps.color} "
        f"order. "
    )
    told = f"mean {entry.get('mean')} and std {entry.get('std')}"
    if steps.mean is None:
        text += f"The uint8 pixels go in as they are; {told} are part of the network."
    else:
        text += f"What goes in is (pixel - mean) / std, with {told}; quantized, where the network is."
    detector = manifest.get("detector")
    if detector is None:
        return text
    return (
        f"{text} Outputs ({detector['kind']}): class probability above {detector['score_threshold']}, "
        f"at most {detector['pre_nms']} candidates a level, class-wise NMS at IoU {detector['nms_iou']}, "
        f"at most {detector['max_detections']} detections."
    )
