"""The YAML configuration of a training by Detectron2, AdelaiDet or the authors of AQD: what their checkpoints
do not say of a network.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aqd_deploy.errors import CheckpointError, MissingExtraError, line_of
from aqd_deploy.inputs import MIB, FileKind
from aqd_deploy.schema import (
    Check,
    SchemaError,
    anything,
    list_of,
    nothing_or,
    number,
    one_of,
    one_or_list,
    text,
)

RECIPE_FILE = FileKind("training configuration", "a YAML file of the training", MIB, CheckpointError)
DEEPEST_BASE = 8
_SIDES = nothing_or(list_of(one_or_list(number(above=0, high=1e6)), 1))
_KEYS: dict[str, Check] = {
    "MODEL.PIXEL_MEAN": list_of(number(0, 255), 3, 3),
    "MODEL.PIXEL_STD": list_of(number(above=0), 3, 3),
    "MODEL.RESNETS.STRIDE_IN_1X1": one_of(False, True),
    "MODEL.FPN.FUSE_TYPE": one_of("sum"),
    "MODEL.ANCHOR_GENERATOR.SIZES": _SIDES,
    "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": _SIDES,
    "MODEL.ANCHOR_GENERATOR.OFFSET": number(0, 1),
    "MODEL.QUANTIZATION.wt_adaptive": one_of("var-mean", "none"),
    "MODEL.QUANTIZATION.stable": number(0),
    "MODEL.QUANTIZATION.fm_half_range": one_of(True),
    "MODEL.QUANTIZATION.wt_half_range": one_of(False),
    "INPUT.FORMAT": one_of("BGR", "RGB"),
}
"""What is read, and what it may be: the networks of other values are not ours."""


@dataclass(frozen=True)
class Recipe:
    """The values of `_KEYS` that a configuration and its bases give, by their dotted names."""

    path: Path
    values: dict[str, Any] = field(default_factory=dict)

    def get(self, name: str) -> Any:
        """The value of one of `_KEYS`, None where it is not given."""
        assert name in _KEYS
        return self.values.get(name)


def read_recipe(path: Path) -> Recipe:
    """The configuration in a file, with what it inherits by `_BASE_`.

    Raises CheckpointError where a file is missing, is no such YAML, or has a value that no network of ours
    has; MissingExtraError where PyYAML is not installed.
    """
    values: dict[str, Any] = {}
    current: Path | None = path
    for _ in range(DEEPEST_BASE):
        if current is None:
            return Recipe(path, values)
        document = _document(current)
        values = {**_known(document, current), **values}
        base = document.get("_BASE_")
        try:
            nothing_or(text)(base, "_BASE_")
        except SchemaError as error:
            raise error.of(str(current), CheckpointError) from error
        current = None if base is None else current.parent / base
    raise CheckpointError(
        "the training configuration inherits without an end", received=str(path),
        valid=f"up to {DEEPEST_BASE} files",
    )  # fmt: skip


def _document(path: Path) -> dict[str, Any]:
    try:
        import yaml
    except ImportError as error:
        raise MissingExtraError(
            "reading a training configuration needs PyYAML", next_command="pip install 'aqd-deploy[torch]'"
        ) from error

    class Loader(yaml.SafeLoader):
        """Leaves out what a tag of Python would have run: `!!python/object/apply:eval` in Detectron2's."""

    Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)
    content = RECIPE_FILE.read(path)
    try:
        document = yaml.load(content, Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"the training configuration is not YAML: {line_of(error)}", received=str(path)
        ) from error
    if not isinstance(document, dict):
        raise CheckpointError(
            "the training configuration is not a table", received=f"{path}: {type(document).__name__}"
        )
    return document


def _known(document: dict[str, Any], path: Path) -> dict[str, Any]:
    """Those of `_KEYS` that a document has."""
    known = {}
    for name, check in _KEYS.items():
        value: Any = document
        for part in name.split("."):
            value = value.get(part, anything) if isinstance(value, dict) else anything
        if value is anything:
            continue
        try:
            check(value, name)
        except SchemaError as error:
            raise error.of(str(path), CheckpointError) from error
        known[name] = value
    return known
