"""Where quantizers are missing before `lower` takes a file: everywhere in a float network, here and there in
one that was quantized in part.

AQD's way. Codes stand in front of convolutions, and sums of what convolutions make stay int32 streams. What
moves past a quantizer (`passes/commute_quantizers.py`) has none of its own, nor has a function of each
element whose result is quantized (`passes/tabulate.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto

from onnx import ModelProto, NodeProto, TensorProto

from aqd_deploy.passes.canonical.draft import Draft, attribute, is_standard
from aqd_deploy.passes.canonical.input_shapes import inputs_of
from aqd_deploy.passes.functions import FUNCTIONS
from aqd_deploy.passes.operators import label_of
from aqd_deploy.quantization.network import Layer, layer_of


class Role(Enum):
    """What a site is for: the weights of layers, the input of layers, a float input of the network, or an
    operand that other operations need as codes (averages, products).
    """

    WEIGHT = auto()
    LAYER_INPUT = auto()
    IMAGE = auto()
    OPERAND = auto()


@dataclass(frozen=True)
class Reader:
    """An input of a node, which is known by its first output."""

    node: str
    index: int


@dataclass(frozen=True)
class Site:
    """A tensor that needs a quantizer for `readers`. `layers` are the names of the layers among them; `axis`
    is that of the output channels of a weight, None where it may only have one scale. `of_function`: it is a
    function of each element, by thresholds, and no stream.
    """

    tensor: str
    role: Role
    readers: tuple[Reader, ...]
    layers: tuple[str, ...]
    axis: int | None = None
    of_function: bool = False

    @property
    def is_weight(self) -> bool:
        """Whether it is a constant's."""
        return self.role is Role.WEIGHT


@dataclass(frozen=True)
class Placement:
    """The sites of a network in topological order; the layers that are quantized, among them those that no
    other is in front of or behind; what the last of all layers make, those left out included; and a sentence
    for what stays float because of a node without an integer form.
    """

    sites: tuple[Site, ...]
    layers: tuple[Layer, ...]
    first: frozenset[str]
    last: frozenset[str]
    ends: tuple[str, ...]
    left_float: tuple[str, ...]


class _Kind(Enum):
    """What stands for a real tensor in the integer program: codes; integers of an int32 stream; or nothing
    yet, a function of each element, which only a quantizer makes codes of.
    """

    CODES = auto()
    STREAM = auto()
    FUNCTION = auto()


_COPIES = ("Concat", "DepthToSpace", "Gather", "Slice")
_LAYOUT = ("Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
_BOUNDS = ("Clip", "Relu")
_SUMS = ("Add", "Sub")
_FACTORS = ("Mul", "Div")
_AVERAGES = ("AveragePool", "GlobalAveragePool")
_STREAM_FUNCTIONS = ("LeakyRelu",)
"""Those of a stream are streams again."""


def missing(model: ModelProto, is_excluded: Callable[[str], bool] = lambda layer: False) -> Placement:
    """Where quantizers are missing in a file that `network.canonical_file` has rewritten. Layers for whose
    names `is_excluded` holds stay as they are.
    """
    search = _Search(model, is_excluded)
    for node in search.draft.nodes:
        search.visit(node)
    return search.placement()


@dataclass
class _Value:
    """A computed tensor: its kind, and the tensor that it is a function of each element of (itself where it
    is none). `behind` are the layers that it was made by, the nearest ones; `site` is the one whose codes it
    holds, None for others.
    """

    kind: _Kind
    root: str
    behind: frozenset[str] = frozenset()
    site: tuple[str, Role] | None = None


@dataclass
class _Wanted:
    """The readers of a site while it is found."""

    readers: list[Reader] = field(default_factory=list)
    layers: list[str] = field(default_factory=list)
    axis: int | None = None


class _Search:
    """One pass over a graph, front to back; what no layer is behind is left out at the end."""

    def __init__(self, model: ModelProto, is_excluded: Callable[[str], bool]) -> None:
        self.draft = Draft(model)
        self.is_excluded = is_excluded
        self.constant = self.draft.constants()
        self.values: dict[str, _Value] = {}
        self.found: dict[tuple[str, Role], _Wanted] = {}
        self.layers: list[Layer] = []
        self.outputs: dict[str, str] = {}
        self.first: set[str] = set()
        self.inner: set[str] = set()
        self.islands: dict[str, list[str]] = {}
        self.lost: dict[str, NodeProto] = {}
        for value in inputs_of(model):
            real = value.type.tensor_type.elem_type == TensorProto.FLOAT
            key = (value.name, Role.IMAGE) if real else None
            self.values[value.name] = _Value(_Kind.CODES, value.name, site=key)
            if key is not None:
                self.found[key] = _Wanted()
        self.images = {name for name, _ in self.found}

    def visit(self, node: NodeProto) -> None:
        """Notes what the outputs of a node are, and what it needs for that."""
        inputs = [name for name in node.input if name and name not in self.constant]
        if not inputs:
            return
        for name in inputs:
            if name in self.images and not is_standard(node, "QuantizeLinear"):
                self._note(node, name, Role.IMAGE)
        lost = next((self.lost[name] for name in inputs if name in self.lost), None)
        layer = layer_of(node, self._is_constant, self._rank)
        if lost is None and layer is not None:
            self._layer(node, layer)
            return
        made = None if lost is not None else self._made(node, inputs)
        if made is None:
            island = node if lost is None else lost
            if layer is not None:
                self.islands.setdefault(island.output[0], []).append(layer.name)
            for name in filter(None, node.output):
                self.lost[name] = island
            return
        for name in filter(None, node.output):
            root = made.root or name
            self.values[name] = _Value(made.kind, root, self._behind(inputs), made.site)

    def _behind(self, inputs: list[str]) -> frozenset[str]:
        return frozenset().union(*(self.values[name].behind for name in inputs))

    def _layer(self, node: NodeProto, layer: Layer) -> None:
        behind, site = self.values[layer.input].behind, self.values[layer.input].site
        self.values[layer.output] = _Value(_Kind.STREAM, layer.output, frozenset((layer.name,)))
        self.inner |= behind
        self.outputs[layer.name] = layer.output
        if self.is_excluded(layer.name):
            return
        self.layers.append(layer)
        if not behind:
            self.first.add(layer.name)
        self._codes(node, layer.input, Role.LAYER_INPUT, layer)
        if site is not None:
            self.found[site].layers.append(layer.name)
        if layer.weight in self.draft.initializers:
            self._note(node, layer.weight, Role.WEIGHT, layer)

    def _made(self, node: NodeProto, inputs: list[str]) -> _Value | None:
        """What a node makes, with the root "" for a tensor that is no function of another; None for a node
        without an integer form.
        """
        values = [self.values[name] for name in inputs]
        first = values[0]
        if is_standard(node, "QuantizeLinear", "DequantizeLinear"):
            return _Value(_Kind.CODES, "")
        if is_standard(node, *_LAYOUT):
            return _Value(first.kind, "", site=first.site)
        if is_standard(node, *_COPIES):
            return self._copy(values)
        if is_standard(node, "MaxPool", "Pad"):
            return self._window(node, inputs[0])
        if is_standard(node, "Resize"):
            return self._resize(node, inputs[0])
        if is_standard(node, *_AVERAGES):
            self._codes(node, inputs[0], Role.OPERAND)
            return _Value(_Kind.STREAM, "")
        if is_standard(node, *_BOUNDS):
            return _Value(first.kind, first.root, site=first.site)
        if is_standard(node, "BatchNormalization"):
            self._real(node, inputs[0])
            return _Value(_Kind.STREAM, "")
        if is_standard(node, *_SUMS, *_FACTORS):
            return self._binary(node, inputs)
        if is_standard(node, "PRelu"):
            return self._prelu(node, inputs)
        if is_standard(node, *_STREAM_FUNCTIONS):
            return self._leaky(self._element(node, inputs[0]))
        if is_standard(node, *FUNCTIONS):
            return _Value(_Kind.FUNCTION, self._element(node, inputs[0]).root)
        return None

    @staticmethod
    def _copy(values: list[_Value]) -> _Value:
        """Parts of several scales are no codes of one."""
        if len(values) == 1:
            return _Value(values[0].kind, "", site=values[0].site)
        functions = any(value.kind is _Kind.FUNCTION for value in values)
        return _Value(_Kind.FUNCTION if functions else _Kind.STREAM, "")

    def _window(self, node: NodeProto, name: str) -> _Value:
        """Padding needs a code for what it fills with; a max-pool of a stream is a square one."""
        value = self.values[name]
        if value.kind is _Kind.CODES or (is_standard(node, "MaxPool") and _is_square(node)):
            return _Value(value.kind, "", site=value.site)
        self._codes(node, name, Role.LAYER_INPUT)
        return _Value(_Kind.CODES, "", site=(name, Role.LAYER_INPUT))

    def _resize(self, node: NodeProto, name: str) -> _Value:
        value = self.values[name]
        if attribute(node, "mode", "nearest") == "nearest":
            return _Value(value.kind, "", site=value.site)
        self._codes(node, name, Role.OPERAND)
        return _Value(_Kind.STREAM, "")

    def _prelu(self, node: NodeProto, inputs: list[str]) -> _Value | None:
        slope = self.draft.array(node.input[1])
        if slope is None or len(inputs) > 1:
            return None
        return self._leaky(self._element(node, inputs[0])) if slope.size == 1 else None

    def _element(self, node: NodeProto, name: str) -> _Value:
        """The value that a function of each element is stacked on. Where copies stand behind a function, only
        codes go on.
        """
        value = self.values[name]
        if value.kind is _Kind.FUNCTION and value.root == name:
            self._codes(node, name, Role.OPERAND)
            return _Value(_Kind.CODES, name)
        return value

    @staticmethod
    def _leaky(value: _Value) -> _Value:
        """Of a stream a stream, which is fine enough to be bent; of codes what only a quantizer ends."""
        return _Value(_Kind.STREAM if value.kind is _Kind.STREAM else _Kind.FUNCTION, value.root)

    @staticmethod
    def _bent(value: _Value) -> _Value:
        """A function that a stream can take, of such a value."""
        return _Value(_Kind.FUNCTION if value.kind is _Kind.FUNCTION else _Kind.STREAM, value.root)

    def _binary(self, node: NodeProto, inputs: list[str]) -> _Value | None:
        values = [self.values[name] for name in inputs]
        kinds = {value.kind for value in values}
        if len(inputs) == 1:
            return self._with_constant(node, inputs[0])
        same = len({value.root for value in values}) == 1 and self._of_one_size(node)
        if same and (_Kind.FUNCTION in kinds or is_standard(node, *_FACTORS)):
            return _Value(_Kind.FUNCTION, values[0].root)
        if is_standard(node, "Div"):
            return None
        for name in dict.fromkeys(inputs):
            if is_standard(node, "Mul"):
                self._codes(node, name, Role.OPERAND)
            else:
                self._real(node, name)
        return _Value(_Kind.STREAM, "")

    def _with_constant(self, node: NodeProto, name: str) -> _Value | None:
        """A sum or a product with a constant: of one number it is a function of each element; of one a
        channel a stream, which functions become.
        """
        others = [each for each in node.input if each in self.constant]
        array = self.draft.array(others[0])
        uniform = array is not None and array.size == 1
        if is_standard(node, "Div") and node.input[0] in self.constant:
            return _Value(_Kind.FUNCTION, self._element(node, name).root) if uniform else None
        if not uniform:
            if array is None or array.ndim < 3 or array.size != array.shape[-3]:
                self._real(node, name)
            return _Value(_Kind.STREAM, "")
        return self._bent(self._element(node, name))

    def _of_one_size(self, node: NodeProto) -> bool:
        shapes = self.draft.shapes
        return len({shapes.get(name) for name in (*node.input, node.output[0])}) == 1

    def _real(self, node: NodeProto, name: str) -> None:
        """`node` reads `name` as integers of any kind."""
        if self.values[name].kind is _Kind.FUNCTION:
            self._codes(node, name, Role.OPERAND)

    def _codes(self, node: NodeProto, name: str, role: Role, layer: Layer | None = None) -> None:
        """`node` reads `name` as codes."""
        if self.values[name].kind is not _Kind.CODES:
            self._note(node, name, role, layer)

    def _note(self, node: NodeProto, name: str, role: Role, layer: Layer | None = None) -> None:
        wanted = self.found.setdefault((name, role), _Wanted())
        wanted.readers += [Reader(node.output[0], i) for i, each in enumerate(node.input) if each == name]
        if layer is not None:
            wanted.layers.append(layer.name)
            wanted.axis = layer.axis if layer.op_type != "ConvTranspose" or layer.group == 1 else None

    def placement(self) -> Placement:
        """What was found. A site that no layer is behind belongs to the float tail, and goes."""
        needed = self._in_front_of_layers()
        sites = []
        for (name, role), wanted in self.found.items():
            readers = tuple(each for each in wanted.readers if each.node in needed or role is Role.IMAGE)
            if readers:
                function = name in self.values and self.values[name].kind is _Kind.FUNCTION
                sites.append(Site(name, role, readers, tuple(wanted.layers), wanted.axis, function))
        labels = {node.output[0]: node for node in self.draft.nodes}
        left = tuple(
            f"layers stay float from {names[0]} on, {len(names)} in all: they lie behind the "
            f"{labels[node].op_type} {label_of(labels[node])}, which has no integer form"
            for node, names in self.islands.items()
        )
        ends = {name: output for name, output in self.outputs.items() if name not in self.inner}
        last = frozenset(layer.name for layer in self.layers if layer.name in ends)
        return Placement(
            tuple(sites), tuple(self.layers), frozenset(self.first), last, tuple(ends.values()), left
        )

    def _in_front_of_layers(self) -> set[str]:
        """First outputs of the nodes that a quantized layer needs, itself included."""
        wanted = {layer.output for layer in self.layers}
        needed: set[str] = set()
        for node in reversed(self.draft.nodes):
            if wanted.intersection(node.output):
                needed.add(node.output[0])
                wanted.update(node.input)
        return needed

    def _is_constant(self, name: str) -> bool:
        return name in self.constant

    def _rank(self, name: str) -> int:
        return len(self.draft.shapes.get(name, ()))


def _is_square(node: NodeProto) -> bool:
    """One kernel side, one stride and one pad, which ONNX's defaults are."""
    sizes = [attribute(node, name) or [0] for name in ("kernel_shape", "strides", "pads")]
    explicit = attribute(node, "auto_pad", "NOTSET") in ("NOTSET", "", "VALID")
    return explicit and not attribute(node, "ceil_mode", 0) and all(len(set(each)) == 1 for each in sizes)
