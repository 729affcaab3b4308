"""Integer ONNX of whatever a verb was given: a QDQ model is lowered, an integer one is taken as it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from onnx import ModelProto

from aqd_deploy.integer.kinds import kind_of


def integer_model(
    model: ModelProto,
    *,
    numerics: str = "exact",
    shape: Sequence[int] | None = None,
    on_lowering: Callable[[], None] = lambda: None,
) -> tuple[ModelProto, ModelProto | None]:
    """`model` itself where it is integer ONNX, else what `lower` makes of it, and the tail that it cut off;
    `on_lowering` is called before.

    `numerics` and `shape` are `lower`'s and change nothing of an integer model. Raises as `lower`.
    """
    if kind_of(model) == "integer":
        return model, None
    # The passes take a while to import.
    from aqd_deploy.passes.pipeline import lower

    on_lowering()
    result = lower(model, numerics=numerics, shape=shape)
    return result.model, result.tail
