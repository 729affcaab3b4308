"""Ways to damage a file, each drawn from a `random.Random`: bytes that change, and documents (protobuf,
JSON) whose fields take values that their schema allows and their reader may not expect.
"""

from __future__ import annotations

import copy
import json
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

ODD_INTEGERS = (-1, 0, 1, 2, 3, 7, 255, 256, -128, 1 << 15, (1 << 31) - 1, 1 << 31, -(1 << 31), 1 << 40,
                (1 << 63) - 1, -(1 << 63), -2)  # fmt: skip
ODD_FLOATS = (0.0, -0.0, -1.0, 0.5, 1e-45, 1e-38, 1e38, 1e308, float("inf"), float("-inf"), float("nan"))
ODD_TEXTS = ("", " ", "x", "image", "../x", "/etc/passwd", "a\0b", "\u202e\U0001f600", "%s{0}", "y" * 5000,
             "NaN", "-1", "1e400", "axis", "to")  # fmt: skip
DEEP = 100_000


# Bytes.


def flip(data: bytes, rng: random.Random) -> bytes:
    """One to eight bits."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def truncate(data: bytes, rng: random.Random) -> bytes:
    """The beginning, often all but a few bytes."""
    return data[: rng.choice((rng.randrange(len(data) + 1), max(0, len(data) - rng.randrange(1, 40))))]


def insert(data: bytes, rng: random.Random) -> bytes:
    """A few random bytes in between."""
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.randbytes(rng.choice((1, 2, 4, 64))) + data[at:]


def blank(data: bytes, rng: random.Random) -> bytes:
    """A stretch of zeros or ones."""
    at, size = rng.randrange(len(data) + 1), rng.choice((1, 4, 16, 512))
    return data[:at] + rng.choice((b"\0", b"\xff")) * len(data[at : at + size]) + data[at + size :]


def splice(data: bytes, rng: random.Random) -> bytes:
    """A stretch copied to somewhere else, or cut out."""
    start, end = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    at = rng.randrange(len(data) + 1)
    return rng.choice((data[:start] + data[end:], data[:at] + data[start:end] + data[at:]))


def extreme(data: bytes, rng: random.Random) -> bytes:
    """A 2-, 4- or 8-byte number, mostly near the beginning, where headers are."""
    form = rng.choice(("<H", ">H", "<I", ">I", "<Q", ">Q"))
    size = struct.calcsize(form)
    if len(data) < size:
        return data
    top = (1 << (8 * size)) - 1
    number = rng.choice((0, 1, top, top >> 1, (top >> 1) + 1, rng.randrange(top), 0x7FFF))
    reach = min(len(data) - size, rng.choice((64, 300, len(data))))
    at = rng.randrange(reach + 1)
    return data[:at] + struct.pack(form, number) + data[at + size :]


BYTE_MUTATIONS: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    flip, flip, truncate, insert, blank, splice, extreme, extreme,
)  # fmt: skip


def damage_bytes(data: bytes, rng: random.Random) -> bytes:
    """One of the above."""
    return rng.choice(BYTE_MUTATIONS)(data, rng)


def png_with_numbers(data: bytes, rng: random.Random) -> bytes:
    """A PNG whose header says something else, its checksum right."""
    header = bytearray(data[16:29])
    at = rng.choice((0, 4, 8, 9, 10, 11, 12))
    if at < 8:
        header[at : at + 4] = struct.pack(">I", rng.choice((0, 1, 20_000, 70_000, (1 << 31) - 1)))
    else:
        header[at] = rng.randrange(256)
    return data[:16] + bytes(header) + struct.pack(">I", zlib.crc32(b"IHDR" + header)) + data[33:]


# Protobuf.


def damage_message(message: Message, rng: random.Random) -> bytes:
    """`message` serialized with one to three fields anywhere in it changed, removed, doubled or exchanged."""
    changed = copy.deepcopy(message)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = list(_fields(changed))
        if not places:
            break
        # Kinds of fields, not fields: otherwise the one message in a hundred nodes is never hit.
        kinds = sorted({(holder.DESCRIPTOR.name, field.name) for holder, field in places})
        kind = rng.choice(kinds)
        holder, field = rng.choice([p for p in places if (p[0].DESCRIPTOR.name, p[1].name) == kind])
        _damage_field(holder, field, rng)
    data = changed.SerializeToString()
    if rng.random() < 0.03:
        data = data.replace(rng.choice((b"image", b"conv", b"weight", b"Conv")), b"\xff\xfe\xfd", 1)
    return data


def _fields(message: Message) -> Iterator[tuple[Message, FieldDescriptor]]:
    for field, value in message.ListFields():
        yield message, field
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            for each in value if _repeated(field) else [value]:
                yield from _fields(each)


def _repeated(field: FieldDescriptor) -> bool:
    return bool(field.is_repeated) if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED


def _damage_field(holder: Message, field: FieldDescriptor, rng: random.Random) -> None:
    if rng.random() < 0.15:
        holder.ClearField(field.name)
    elif field.type == FieldDescriptor.TYPE_MESSAGE:
        _damage_submessage(holder, field, rng)
    elif _repeated(field):
        values = getattr(holder, field.name)
        at = rng.randrange(len(values))
        match rng.randrange(4):
            case 0:
                del values[at]
            case 1:
                values.append(values[at])
            case _:
                values[at] = _odd(values[at], field, rng)
    else:
        setattr(holder, field.name, _odd(getattr(holder, field.name), field, rng))


def _damage_submessage(holder: Message, field: FieldDescriptor, rng: random.Random) -> None:
    value = getattr(holder, field.name)
    if not _repeated(field):
        value.Clear()
        return
    first, second = rng.randrange(len(value)), rng.randrange(len(value))
    match rng.randrange(4):
        case 0:
            del value[first]
        case 1:
            value.add().CopyFrom(value[first])
        case 2:
            value[first].CopyFrom(copy.deepcopy(value[second]))
        case 3:
            value.add()


def _odd(value: Any, field: FieldDescriptor, rng: random.Random) -> Any:
    if field.type == FieldDescriptor.TYPE_ENUM:
        return rng.choice(list(field.enum_type.values_by_number))
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        number = rng.choice((*ODD_INTEGERS, value + 1, value - 1, 2 * value))
        narrow = field.cpp_type in (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_UINT32)
        size = 31 if narrow else 63
        return max(-(1 << size), min(number, (1 << size) - 1))
    if isinstance(value, float):
        return rng.choice(
            (*(v for v in ODD_FLOATS if abs(v) < 3e38 or v in (float("inf"),)), -value, float("nan"))
        )
    if isinstance(value, bytes):
        return rng.choice(
            (b"", value[:-1], value + b"\0", value * 2, damage_bytes(value, rng), b"\xff" * len(value))
        )
    return rng.choice((*ODD_TEXTS, value + "_", value[:-1]))


# JSON and what looks like it.


def damage_document(document: Any, rng: random.Random) -> Any:
    """A copy of a JSON-able document with one to three places changed; NaN and huge numbers included."""
    changed = copy.deepcopy(document)
    for _ in range(rng.choice((1, 1, 2, 3))):
        places = list(_places(changed))
        if not places:
            break
        holder, key = rng.choice(places)
        match rng.randrange(5):
            case 0:
                del holder[key]
            case 1 if isinstance(holder, dict):
                holder[str(key) + rng.choice(("_", "", "x"))] = holder.pop(key)
            case 2 if isinstance(holder, list):
                holder.insert(key, copy.deepcopy(holder[rng.randrange(len(holder))]))
            case _:
                holder[key] = odd_value(holder[key], rng)
    return changed


def _places(document: Any) -> Iterator[tuple[Any, Any]]:
    items = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in list(items):
        yield document, key
        if isinstance(value, (dict, list)):
            yield from _places(value)


def odd_value(value: Any, rng: random.Random) -> Any:
    """Something that a JSON document may hold in place of `value`."""
    near = (
        [-value, value + 1, value * 1000, float(value), str(value)]
        if _is_number(value)
        else [str(value)[:50]]
    )
    return rng.choice(
        (*near, None, True, [], {}, "", "x", [value], {"x": value}, [[]], rng.choice(ODD_INTEGERS),
         rng.choice(ODD_INTEGERS), rng.choice(ODD_FLOATS), rng.choice(ODD_TEXTS), 10**30)
    )  # fmt: skip


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def json_text(document: Any, rng: random.Random) -> str:
    """The document as text: now and then nested too deep, with a number too long, or in bytes that are no
    UTF-8 (as surrogates).
    """
    text = json.dumps(document)
    match rng.randrange(20):
        case 0:
            return "[" * DEEP + "]" * DEEP
        case 1:
            return text.replace(":", ": " + '{"a":' * DEEP, 1)
        case 2:
            return text.replace(" 1", " 1" + "0" * 5000, 1)
        case 3:
            return text.replace(":", ":\udcff", 1)
    return text


def damage_json(data: bytes, rng: random.Random) -> bytes:
    """A JSON file of which something says something else."""
    return json_text(damage_document(json.loads(data), rng), rng).encode(errors="surrogateescape")
