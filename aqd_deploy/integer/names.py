"""Names in an integer file: text that a sentence, a manifest and a compiler can carry."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from aqd_deploy.errors import UnsupportedModelError

RESERVED_SUFFIX = ":nchw"
"""Names of tensors that end so are the compiler's."""

MAX_LENGTH = 250


def check_names(model: onnx.ModelProto) -> None:
    """ "Names are printable text of at most 250 characters." Protobuf hands over what isn't UTF-8 as bytes.

    Raises UnsupportedModelError.
    """
    for name in _names(model):
        if not is_text(name, MAX_LENGTH):
            raise UnsupportedModelError(
                "a name in the file is not printable text",
                received=repr(name)[:80],
                valid=f"up to {MAX_LENGTH} printable characters",
            )


def is_text(name: object, longest: int) -> bool:
    """Whether a name of a protobuf message is printable text of at most `longest` characters."""
    return isinstance(name, str) and len(name) <= longest and name.isprintable()


def _names(model: onnx.ModelProto) -> Iterator[object]:
    graph = model.graph
    for entry in model.opset_import:
        yield entry.domain
    for function in model.functions:
        yield from (function.domain, function.name, function.overload)
    for named in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        yield named.name
    for node in graph.node:
        yield from (node.name, node.op_type, node.domain, node.overload, *node.input, *node.output)
        yield from (attribute.name for attribute in node.attribute)
