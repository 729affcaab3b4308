"""The one list of rewrites, in the order in which they find what they look for."""

from __future__ import annotations

from collections.abc import Callable

from aqd_deploy.passes.canonical.averages import pool_whole_maps
from aqd_deploy.passes.canonical.constant_layout import lay_constants_out
from aqd_deploy.passes.canonical.constant_outputs import leave_constant_outputs_out
from aqd_deploy.passes.canonical.constants import fold_constants
from aqd_deploy.passes.canonical.draft import Draft
from aqd_deploy.passes.canonical.dynamic import undo_dynamic_quantization
from aqd_deploy.passes.canonical.float_input import take_input_quantizers_off
from aqd_deploy.passes.canonical.functions import inline_functions
from aqd_deploy.passes.canonical.halved import halve_by_averages
from aqd_deploy.passes.canonical.identities import drop_identities
from aqd_deploy.passes.canonical.initializers import drop_inputs_with_values
from aqd_deploy.passes.canonical.kept_names import rename_inside
from aqd_deploy.passes.canonical.layout import use_feature_maps
from aqd_deploy.passes.canonical.microsoft import use_onnx_domain
from aqd_deploy.passes.canonical.moved_image import quantize_before_moves
from aqd_deploy.passes.canonical.opsets import raise_opset
from aqd_deploy.passes.canonical.qlinear import take_qlinear_apart
from aqd_deploy.passes.canonical.qonnx import take_qonnx_apart
from aqd_deploy.passes.canonical.real_types import use_float32
from aqd_deploy.passes.canonical.space_to_depth import space_to_depth_by_slices
from aqd_deploy.passes.canonical.split import split_by_slices
from aqd_deploy.passes.canonical.tail import cut_tail
from aqd_deploy.passes.canonical.unusable_quantizers import refuse_quantizers

REWRITES: tuple[Callable[[Draft], None], ...] = (
    inline_functions,  # first: what is in a function is seen by nobody else
    drop_inputs_with_values,  # before anything asks what the inputs are
    raise_opset,  # before anything asks for an operand that was an attribute
    rename_inside,  # before other names are made of these
    use_onnx_domain,  # onnx infers shapes of its own operators alone
    take_qlinear_apart,  # for the same reason; codes and reals are told apart from here on
    take_qonnx_apart,  # for the same reasons
    fold_constants,  # before scales, shapes and axes are read
    leave_constant_outputs_out,  # when what is constant is known
    use_float32,  # when constants are initializers
    undo_dynamic_quantization,  # likewise; of a file that `lower` is given it is refused
    drop_identities,  # before anything looks for what stands right in front of a node
    lay_constants_out,  # before products look for weights
    pool_whole_maps,  # before vectors: a mean without dimensions makes one
    halve_by_averages,  # when sizes and types are known
    split_by_slices,  # anywhere: shapes are known
    space_to_depth_by_slices,  # likewise
    refuse_quantizers,  # before the tail takes them along
    cut_tail,  # before vectors: what the tail reads keeps its shape
    use_feature_maps,  # when the body has no node left that is not lowered
    quantize_before_moves,  # before the quantizer of the input is looked for
    take_input_quantizers_off,  # when every other quantizer of the input has gone
)

_ONLY_OF_FLOAT = (undo_dynamic_quantization,)
_ONLY_OF_QUANTIZED = (
    refuse_quantizers, cut_tail, use_feature_maps, quantize_before_moves, take_input_quantizers_off,
)  # fmt: skip
OF_QUANTIZED_FILES = tuple(each for each in REWRITES if each not in _ONLY_OF_FLOAT)
"""What a file goes through that `lower` is given."""
OF_FLOAT_FILES = tuple(each for each in REWRITES if each not in _ONLY_OF_QUANTIZED)
"""Those that do not ask where quantizers stand: what a float network goes through before it is quantized."""
