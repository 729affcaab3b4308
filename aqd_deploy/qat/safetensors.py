"""Files of the safetensors format: a JSON header with the place of every tensor, then their bytes.

https://huggingface.co/docs/safetensors describes it; reading it takes no package.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from aqd_deploy.inputs import parse_json
from aqd_deploy.schema import SchemaError, list_of, one_of, table, whole

TYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
    "BOOL": torch.bool,
}  # fmt: skip
_ENTRY = table({"dtype": one_of(*TYPES), "shape": list_of(whole()), "data_offsets": list_of(whole(), 2, 2)})


def is_safetensors(start: bytes, size: int) -> bool:
    """Whether a file of `size` bytes that begins with `start` (9 bytes) is one: it has the length of a JSON
    object in front.
    """
    return start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= size - 8


def read_safetensors(data: bytes) -> dict[str, Tensor]:
    """The tensors by name. Raises ValueError where the header is not one of this format, or its tensors are
    not in the file.
    """
    start = 8 + int.from_bytes(data[:8], "little")
    header = parse_json(data[8:start])
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        try:
            _ENTRY(entry, name)
        except SchemaError as error:
            raise ValueError(str(error)) from error
        dtype, shape, (begin, end) = TYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
        size = math.prod(shape)
        if not begin + size * dtype.itemsize == end <= len(data) - start:
            raise ValueError(f"the bytes of {name} are not those of its shape")
        tensors[name] = (
            torch.frombuffer(bytearray(data[start + begin : start + end]), dtype=dtype).reshape(shape)
            if size
            else torch.empty(shape, dtype=dtype)
        )
    return tensors
