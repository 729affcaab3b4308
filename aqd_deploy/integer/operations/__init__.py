"""The operations of the integer dialect, one entry each.

An entry (`entry.Operation`) says everything about its operation: what a node may look like, the type and the
proven interval of what it returns, its meaning, and for one that ONNX does not have its body in standard
ONNX. Reader, writer, inspection, range analysis and the compiler ask the entry. To add an operation: a class
in a file of this folder, a line in `OPERATIONS`, and how programs run it in `compiler/lowerings.py`.
"""

from __future__ import annotations

from onnx import FunctionProto, NodeProto

from aqd_deploy.errors import UnsupportedModelError
from aqd_deploy.integer.domain import DOMAIN, canonical_domain
from aqd_deploy.integer.operations.convolution import ConvInteger, ConvOdd, ConvOffset
from aqd_deploy.integer.operations.entry import Function, Operation
from aqd_deploy.integer.operations.movement import Concat, Identity, PadImage, PadSignedImage, Resize
from aqd_deploy.integer.operations.pieces import Pieces
from aqd_deploy.integer.operations.pools import MaxPool, StreamMaxPool, StreamSumPool, SumPool
from aqd_deploy.integer.operations.products import Multiply, StreamMultiply
from aqd_deploy.integer.operations.quantizers import Requantize, RequantizeMax, Threshold
from aqd_deploy.integer.operations.resizing import ResizeLinear
from aqd_deploy.integer.operations.scaling import MultiplyShift, SkipAdd
from aqd_deploy.integer.operations.selection import DepthToSpace, Gather, Rearrange, Slice
from aqd_deploy.integer.operations.streams import Add, Cast, Max, Min
from aqd_deploy.integer.operations.tables import Lookup, Steps

OPERATIONS: tuple[Operation, ...] = (
    ConvInteger(),
    ConvOdd(),
    ConvOffset(),
    Add(),
    Max(),
    Min(),
    MultiplyShift(),
    SkipAdd(),
    Requantize(),
    RequantizeMax(),
    Threshold(),
    Steps(),
    Pieces(),
    Lookup(),
    Multiply(),
    StreamMultiply(),
    Cast(),
    MaxPool(),
    StreamMaxPool(),
    SumPool(),
    StreamSumPool(),
    Resize(),
    ResizeLinear(),
    Concat(),
    Slice(),
    Gather(),
    DepthToSpace("CRD"),
    DepthToSpace("DCR"),
    Rearrange(),
    Identity(),
    PadImage(),
    PadSignedImage(),
)


def find_operation(domain: str, op_type: str) -> Operation | None:
    """The entry of an operator, None for one that the dialect does not have."""
    domain = canonical_domain(domain)
    return next((entry for entry in OPERATIONS if entry.domain == domain and entry.matches(op_type)), None)


def operation_of(node: NodeProto) -> Operation:
    """The entry of a node. Raises UnsupportedModelError for an operation that the dialect does not have."""
    entry = None if node.overload else find_operation(node.domain, node.op_type)
    if entry is None:
        overload = f":{node.overload}" if node.overload else ""
        raise UnsupportedModelError(
            f"node {node.name or ', '.join(node.output)} is not of the integer dialect",
            received=f"{node.domain or 'ai.onnx'}.{node.op_type}{overload}",
            valid=", ".join(sorted(entry.name for entry in OPERATIONS)),
            next_command="aqd-deploy lower MODEL.qdq.onnx -o MODEL.int.onnx",
        )
    return entry


def find_function(name: str) -> Function | None:
    """The entry of a function of the dialect's domain, None for one that the dialect does not have."""
    entry = find_operation(DOMAIN, name)
    return entry if isinstance(entry, Function) else None


def function(name: str) -> FunctionProto:
    """The model-local function of a dialect operation. Raises UnsupportedModelError for a name that the
    dialect does not have.
    """
    entry = find_function(name)
    if entry is None:
        raise UnsupportedModelError(
            f"the integer dialect has no function {name}",
            valid=", ".join(sorted(entry.name for entry in OPERATIONS if isinstance(entry, Function))),
        )
    return entry.function(name)
