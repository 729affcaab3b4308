"""What is wanted of a quantization, as a document: TOML or JSON, with a version."""

from __future__ import annotations

import fnmatch
import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from aqd_deploy.errors import RecipeError, line_of
from aqd_deploy.inputs import MIB, FileKind
from aqd_deploy.schema import SchemaError, list_of, nothing_or, number, table, table_of, text, whole

VERSION = 1
LEAST_BITS, MOST_BITS = 2, 8
_NEXT = "aqd-deploy quantize FLOAT.onnx --calibration DIR -o OUT --save-recipe RECIPE.toml, which writes one"
RECIPE_FILE = FileKind("recipe", "a .toml or .json file (docs/how-to/quantize.md)", MIB, RecipeError, _NEXT)


@dataclass(frozen=True)
class Override:
    """Other bits for the layers whose names the pattern (of a shell: `head.*`) fits; None leaves them."""

    pattern: str
    weight_bits: int | None = None
    activation_bits: int | None = None


@dataclass(frozen=True)
class Steps:
    """What is done beside the method. `adaptive_rounding`: iterations a layer, 0 without it."""

    fold_batch_norms: bool = True
    equalise: bool = False
    adaptive_rounding: int = 0
    bias_correction: bool = False


@dataclass(frozen=True)
class Recipe:
    """Bits, method and steps of a quantization. `first_bits` and `last_bits` are for weights and activations
    of the layers that no other is in front of, and behind; `parameters` are the method's; `excluded` are
    patterns of layers that stay float. With `symmetric`, activations of both signs have signed codes and no
    zero point.
    """

    method: str = "minmax"
    weight_bits: int = 8
    activation_bits: int = 8
    first_bits: int = 8
    last_bits: int = 8
    per_channel: bool = True
    symmetric: bool = False
    parameters: Mapping[str, float] = field(default_factory=dict)
    overrides: tuple[Override, ...] = ()
    excluded: tuple[str, ...] = ()
    steps: Steps = Steps()

    def __post_init__(self) -> None:
        check_document(self.document(), "the recipe")

    def document(self) -> dict[str, Any]:
        """What `from_document` makes this recipe of; JSON-able."""
        plain = asdict(self)
        overrides = [{key: v for key, v in each.items() if v is not None} for each in plain["overrides"]]
        return {
            "version": VERSION, **plain, "parameters": dict(self.parameters), "overrides": overrides,
            "excluded": list(self.excluded),
        }  # fmt: skip

    def with_bits(self, layer_bits: Mapping[str, int]) -> Recipe:
        """The same with these bits for weights and activations of the layers, by name."""
        more = tuple(Override(_literal(name), bits, bits) for name, bits in layer_bits.items())
        return replace(self, overrides=(*self.overrides, *more))

    def check_patterns(self, layers: Iterable[str]) -> None:
        """RecipeError for a pattern that no layer's name fits."""
        names = list(layers)
        for pattern in (*(each.pattern for each in self.overrides), *self.excluded):
            if not any(fnmatch.fnmatchcase(name, pattern) for name in names):
                shown = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
                raise RecipeError(
                    "the recipe has a pattern that no layer's name fits", received=repr(pattern), valid=shown,
                    next_command="aqd-deploy quantize FILE --calibration DIR -o OUT --json, which lists them",
                )  # fmt: skip

    def is_excluded(self, layer: str) -> bool:
        """Whether a layer stays float."""
        return any(fnmatch.fnmatchcase(layer, pattern) for pattern in self.excluded)

    def bits_of(self, layer: str, *, first: bool, last: bool) -> tuple[int, int]:
        """Bits of the weights and of the input of a layer; the last override that fits it decides."""
        weights, activations = self.weight_bits, self.activation_bits
        for applies, bits in ((first, self.first_bits), (last, self.last_bits)):
            if applies:
                weights = activations = bits
        for each in self.overrides:
            if fnmatch.fnmatchcase(layer, each.pattern):
                weights = each.weight_bits or weights
                activations = each.activation_bits or activations
        return weights, activations


def _literal(name: str) -> str:
    """A pattern that only this name fits."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


_BITS = whole(LEAST_BITS, MOST_BITS)


def _flag(value: Any, place: str) -> None:
    if not isinstance(value, bool):
        raise SchemaError(place, value, "true or false")


_CHECKS = {
    "method": text,
    "weight_bits": _BITS,
    "activation_bits": _BITS,
    "first_bits": _BITS,
    "last_bits": _BITS,
    "per_channel": _flag,
    "symmetric": _flag,
    "parameters": table_of(number()),
    "overrides": list_of(
        table({"pattern": text}, {"weight_bits": nothing_or(_BITS), "activation_bits": nothing_or(_BITS)})
    ),
    "excluded": list_of(text),
    "steps": table(
        {},
        {
            "fold_batch_norms": _flag,
            "equalise": _flag,
            "adaptive_rounding": whole(0, 1_000_000),
            "bias_correction": _flag,
        },
    ),
}


def check_document(document: Any, owner: str) -> None:
    """RecipeError for a document of another version, with a key that isn't known, or a value that isn't
    valid; `owner` is what the sentence calls it.
    """
    try:
        table({"version": whole()}, _CHECKS)(document, "")
    except SchemaError as error:
        raise error.of(owner, RecipeError, _NEXT) from None
    if document["version"] != VERSION:
        raise RecipeError(
            f"{owner} is of another version", received=document["version"], valid=str(VERSION),
            next_command=_NEXT,
        )  # fmt: skip
    _check_known(document, ("version", *_CHECKS), owner)
    _check_known(document.get("steps", {}), [each.name for each in fields(Steps)], f"{owner} at steps")
    for entry in document.get("overrides", []):
        _check_known(entry, [each.name for each in fields(Override)], f"{owner} at overrides")


def _check_known(entry: Mapping[str, Any], known: Iterable[str], owner: str) -> None:
    strange = [key for key in entry if key not in known]
    if strange:
        raise RecipeError(f"{owner} has a key that isn't known", received=strange[0], valid=", ".join(known),
                          next_command=_NEXT)  # fmt: skip


def from_document(document: Any, owner: str = "the recipe") -> Recipe:
    """The recipe of a document; what it does not say has its default. Raises what `check_document` does."""
    check_document(document, owner)
    values = {key: value for key, value in document.items() if key != "version"}
    values["overrides"] = tuple(Override(**each) for each in values.get("overrides", []))
    values["excluded"] = tuple(values.get("excluded", []))
    values["steps"] = Steps(**values.get("steps", {}))
    return Recipe(**values)


def read_recipe(path: Path) -> Recipe:
    """The recipe in a .json or .toml file. Raises RecipeError."""
    data = RECIPE_FILE.read(path)
    if path.suffix == ".json":
        return from_document(RECIPE_FILE.parse_json(data, str(path)), str(path))
    try:
        document = tomllib.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"{path} is not a TOML file: {line_of(error)}", valid=RECIPE_FILE.valid,
                          next_command=_NEXT) from error  # fmt: skip
    return from_document(document, str(path))


def recipe_text(recipe: Recipe, suffix: str) -> str:
    """The recipe as a document in JSON where `suffix` is ".json", else in TOML."""
    document = recipe.document()
    if suffix == ".json":
        return json.dumps(document, indent=2) + "\n"
    plain = {key: value for key, value in document.items() if not isinstance(value, dict)}
    overrides = plain.pop("overrides")
    lines = [_assignment(key, value) for key, value in plain.items()]
    for name in ("parameters", "steps"):
        lines += ["", f"[{name}]", *(_assignment(key, value) for key, value in document[name].items())]
    for each in overrides:
        lines += ["", "[[overrides]]", *(_assignment(key, value) for key, value in each.items())]
    return "\n".join(lines) + "\n"


def _assignment(key: str, value: Any) -> str:
    """A line of TOML, whose words for texts, numbers, lists and booleans are JSON's, but for one letter."""
    return f"{key} = {json.dumps(value, ensure_ascii=False)}".replace("\x7f", r"\u007f")
