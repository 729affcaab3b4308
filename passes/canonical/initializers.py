"""Initializers that are listed as inputs."""

from __future__ import annotations

from aqd_deploy.passes.canonical.draft import Draft

FREE_INITIALIZERS = 4
"""The first IR version in which an initializer needs no input."""


def drop_inputs_with_values(draft: Draft) -> None:
    """Files of IR version 3 list every initializer as an input.

        inputs image, w; initializer w        input image; initializer w

    1. An input of an initializer's name goes: the program has its value.
    """
    graph = draft.model.graph
    kept = [value for value in graph.input if value.name not in draft.initializers]
    if len(kept) < len(graph.input):
        draft.changed.append(f"{len(graph.input) - len(kept)} inputs are initializers")
        del graph.input[:]
        graph.input.extend(kept)
        draft.model.ir_version = max(draft.model.ir_version, FREE_INITIALIZERS)
