"""Checkpoints as training programs leave them: the description and the one state of weights in a file.

A file is usable where it has a description of its network (`config`) and one dictionary of tensors, whatever
that is called: `save_checkpoint` writes `state`, the trainer's progress `model`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from aqd_deploy.errors import CheckpointError
from aqd_deploy.qat.archive import SAVE

STATE = "state"
PACKED = "packed:"
ANCHOR = "backbone.stem.conv.weight"
"""A weight that every network has: its name tells weights from other tables of tensors."""
DEEPEST = 4
COUNTERS = frozenset(("total_ops", "total_params", "n_averaged"))
"""Last parts of names that profilers and weight averaging add to a state; no network has them."""


def described(content: dict[str, Any], owner: str) -> dict[str, Any]:
    """The dictionary with a description in `content`: itself, or the one that it wraps; its weights are under
    `STATE`.

    Raises CheckpointError, naming what wraps them, where weights have no description or there are several.
    """
    wrapped = tables_in(content, _is_described)
    if len(wrapped) > 1:
        raise several_networks(owner, list(wrapped))
    if not wrapped:
        raise _undescribed(content, owner)
    (content,) = wrapped.values()
    inner = {key: value for key, value in content.items() if key != "config"}
    states = tables_in(inner, _is_network)
    if STATE in content and not any(key.split(".")[0] == STATE for key in states):
        states = {STATE: content[STATE], **states}
    states = states or tables_in(inner, _is_state)
    if len(states) > 1:
        raise several_networks(owner, list(states))
    if not states:
        raise _undescribed(content, owner)
    (state,) = states.values()
    return {**content, STATE: state}


def plain_names(state: dict[str, Any], anchor: str, owner: str) -> dict[str, Any]:
    """`state` without counters, and without the prefix that its names have in front of the network's own
    (`module.`, `_orig_mod.`, ...): `anchor` is one of the network's.

    Raises CheckpointError where the names have several prefixes: those of several networks.
    """
    state = {name: value for name, value in state.items() if str(name).rpartition(".")[2] not in COUNTERS}
    found = [str(name).removeprefix(PACKED) for name in state]
    prefixes = sorted({name.removesuffix(anchor) for name in found if name.endswith(anchor)})
    if "" in prefixes or not prefixes:
        return state
    if len(prefixes) > 1:
        raise several_networks(owner, prefixes)
    return {_without(prefixes[0], name): value for name, value in state.items()}


def _without(prefix: str, name: Any) -> Any:
    """A name without the prefix; what is not a name, or has no prefix, as it is."""
    if not isinstance(name, str):
        return name
    packed = PACKED if name.startswith(PACKED) else ""
    return packed + name.removeprefix(packed).removeprefix(prefix)


def tables_in(
    content: dict[Any, Any], is_wanted: Callable[[dict[Any, Any]], bool]
) -> dict[str, dict[Any, Any]]:
    """The outermost dictionaries that `is_wanted`: `content` itself ("") or in it, by the keys that lead to
    them (`ema.module`). What belongs to an optimizer has the names of weights and is passed over.
    """
    found: dict[str, dict[Any, Any]] = {}
    passed: set[int] = set()  # a file's dictionaries may hold themselves

    def look(value: Any, place: str, depth: int) -> None:
        if not isinstance(value, dict) or id(value) in passed:
            return
        if is_wanted(value):
            found[place] = value
            return
        passed.add(id(value))
        if depth < DEEPEST:
            for key, each in value.items():
                if "optim" not in str(key).lower():
                    look(each, f"{place}.{key}" if place else str(key), depth + 1)

    look(content, "", 0)
    return found


def _is_described(content: dict[Any, Any]) -> bool:
    return isinstance(content.get("config"), str)


def _is_network(value: dict[Any, Any]) -> bool:
    return any(str(name).endswith(ANCHOR) for name in value)


def _is_state(value: dict[Any, Any]) -> bool:
    return any(isinstance(each, Tensor) for each in value.values())


def several_networks(owner: str, keys: list[str]) -> CheckpointError:
    """The error for a file with the weights of several networks, under `keys`."""
    return CheckpointError(
        f"{owner} holds the weights of several networks", received=", ".join(keys[:4]), valid="one network",
        next_command=SAVE,
    )  # fmt: skip


def _undescribed(content: dict[str, Any], owner: str) -> CheckpointError:
    """Names the wrapper of the weights, or shows the first keys of a file."""
    states = tables_in(content, _is_network) or tables_in(content, _is_state)
    wrappers = [key for key in states if key]
    where = f"weights under {', '.join(wrappers[:4])}" if wrappers else ", ".join(map(str, list(content)[:4]))
    bare = "weights without a description of their network" if states else "no weights"
    return CheckpointError(
        f"this torch file is not a checkpoint of aqd-deploy: it has {bare}",
        received=f"{owner} with {where}",
        valid="a file written by aqd_deploy.qat.checkpoint.save_checkpoint, or a RetinaNet or FCOS of "
        "Detectron2, AdelaiDet, torchvision or AQD's authors",
        next_command=SAVE,
    )
