"""Checkpoints: what a detector is and its weights in one file, read without running any code from it.

A *full* checkpoint holds the training weights. A *compact* one holds what the deployed network needs: of a
quantized layer its integers, packed at their bit width, and ν; of a float layer its weights in half
precision.
"""

from __future__ import annotations

import copy
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from aqd_deploy.errors import CheckpointError
from aqd_deploy.qat.archive import read_archive, write_archive
from aqd_deploy.qat.config import ModelConfig
from aqd_deploy.qat.layers import QuantConv2d
from aqd_deploy.qat.models import Detector, build_model, unwrapped
from aqd_deploy.qat.soundness import check_network
from aqd_deploy.qat.wrapped import PACKED, STATE, described, plain_names

FORMAT, VERSION = "aqd-checkpoint", 1
GROUP_NORM = re.compile(r"(^|[._])(gn\d*|group_?norm\d*)([._]|$)", re.IGNORECASE)
GROUP_NORM_REASON = (
    "the checkpoint uses GroupNorm, which recomputes its statistics on every image and so cannot become "
    "integer arithmetic"
)


def save_checkpoint(
    path: str | os.PathLike[str], model: nn.Module, *, compact: bool = False, record: str = ""
) -> None:
    """Writes `model` to `path`; `record` is a free text that travels along (how it was trained, its AP).

    `model` is a Detector on any device, or one that torch.compile or DistributedDataParallel wraps. A compact
    file of a quantized model is checked before it is written: the network read back has the same integers and
    steps. That of a float model *defines* the network, its weights rounded to half precision.

    Raises CheckpointError where the network is not the one of its description, holds NaN or infinity, or does
    not fit half precision, where `record` is not a text or `path` not a file; ScaleError for a step that is
    not positive. Nothing is written then.
    """
    if not isinstance(record, str):
        raise CheckpointError(
            "the record of a checkpoint is a text", received=type(record).__name__,
            next_command="json.dumps(record)",
        )  # fmt: skip
    if Path(path).is_dir():
        raise CheckpointError(
            "a checkpoint is a file",
            received=f"the folder {path}",
            valid=f"for example {Path(path) / 'm.pt'}",
        )
    model = _on_cpu(unwrapped(model))
    check_network(model, "the network")
    config = model.config
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    _check_shapes(state, without_memory(config).state_dict(), "the network")
    if compact:
        # The integers are what is left of a standardised weight: there is nothing more to standardise.
        config = config.replace(weight_standardization=False)
        state = _pack(model, state)
    content = {
        "format": FORMAT,
        "version": VERSION,
        "encoding": "compact" if compact else "full",
        "config": config.to_json(),
        "record": record,
        "state": state,
    }
    if compact:
        _check_identical(model, restored_detector(content, Path(path)))
    write_archive(Path(path), content)


def _on_cpu(model: Detector) -> Detector:
    """The network where a file is read: a card may divide otherwise, and its integers and steps are then not
    those that the file is checked for.
    """
    if next(model.parameters()).device.type == "cpu":
        return model
    return copy.deepcopy(model).cpu()


def load_checkpoint(path: str | os.PathLike[str]) -> Detector:
    """The detector of a checkpoint, or of a run's `last.pt`, in eval mode; wrappers of its weights and of
    their names are taken off.

    CheckpointError says why a file is refused, ScaleError which step is not positive.
    """
    content = read_archive(Path(path))
    return restored_detector(content, Path(path))


def checkpoint_record(path: str | os.PathLike[str]) -> str:
    """The text saved along with a checkpoint."""
    return str(described(read_archive(Path(path)), str(path)).get("record", ""))


def restored_detector(content: dict[str, Any], path: Path) -> Detector:
    """See `load_checkpoint`, of what `read_archive` gives; `path` is for its messages."""
    _refuse_group_norm(content)
    content = described(content, str(path))
    if content.get("format", FORMAT) != FORMAT or not isinstance(content[STATE], dict):
        raise CheckpointError(
            "this torch file is not a checkpoint of aqd-deploy",
            received=f"{path} with {', '.join(map(str, list(content)[:4]))}",
            valid="a file written by aqd_deploy.qat.checkpoint.save_checkpoint",
        )
    if content.get("version", VERSION) != VERSION:
        raise CheckpointError(
            "the checkpoint has another version", received=content.get("version"), valid=str(VERSION)
        )
    config = ModelConfig.from_json(content["config"])
    # A description of a network that is larger than what the file holds must not be built.
    plan = without_memory(config)
    wanted = plan.state_dict()
    state = plain_names(content[STATE], next(iter(wanted)), str(path))
    check_plain(state, path)
    if content.get("encoding") == "compact":
        state = _unpack(state, plan)
    _refuse_group_norm(state, plan)
    _check_shapes(state, wanted, str(path))
    model = build_model(config)
    model.load_state_dict(state)
    check_network(model, str(path))
    return model.eval()


def without_memory(config: ModelConfig) -> Detector:
    """The network of `config` with names and shapes only."""
    with torch.device("meta"), _NoInitialValues():
        return build_model(config)


class _NoInitialValues(TorchFunctionMode):
    """Leaves out random initial values, which a tensor without memory cannot take (and which, on the device
    `meta`, make torch import its compiler, for seconds).
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (Tensor.normal_, Tensor.uniform_) or getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def check_plain(state: dict[Any, Any], path: Path) -> None:
    """Raise CheckpointError for what is no tensor, and for tensors that are not dense, of real numbers and
    finite.
    """
    strange = [
        str(name)
        for name, value in state.items()
        if not isinstance(name, str) or not isinstance(value, Tensor)
    ]
    if strange:
        raise CheckpointError("a checkpoint's state holds tensors only", received=", ".join(strange[:4]))
    floats = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    for name, value in state.items():
        problem = ""
        if value.layout != torch.strided or value.is_quantized or value.device.type != "cpu":
            problem = "not a plain tensor"
        elif value.numel() * value.element_size() > value.untyped_storage().nbytes():
            problem = f"{value.numel()} numbers of which the file has fewer"
        elif value.is_complex():
            problem = "complex numbers"
        elif value.is_floating_point() and value.dtype not in floats:
            problem = f"{value.dtype} numbers"
        elif value.is_floating_point() and not bool(torch.isfinite(value).all()):
            problem = "NaN or infinity"
        if problem:
            raise CheckpointError(
                f"the tensor {name} of the checkpoint cannot be used",
                received=f"{path}: {problem}",
                valid="finite numbers",
            )


def _check_shapes(state: dict[str, Tensor], wanted: dict[str, Tensor], owner: str) -> None:
    """Raise CheckpointError unless `state` has the tensors of the network that its description means."""
    problems = [f"{name} is missing" for name in wanted if name not in state]
    problems += [f"{name} is unknown" for name in state if name not in wanted]
    problems += [
        f"{name} is {list(value.shape)}, not {list(wanted[name].shape)}"
        for name, value in state.items()
        if name in wanted and value.shape != wanted[name].shape
    ]
    if problems:
        raise CheckpointError(
            f"the weights in {owner} are not those of its own description",
            received="; ".join(problems[:3])[:300],
        )


def _refuse_group_norm(state: dict[str, Any], model: Detector | None = None) -> None:
    """GroupNorm shows by its name, or as a norm with weight and bias but without running statistics."""
    names = [str(name) for name in state]
    for inner in state.values():
        if isinstance(inner, dict):
            names += [str(name) for name in inner]
    found = next((name for name in names if GROUP_NORM.search(name)), None)
    if found is None and model is not None:
        statistics = [name for name in model.state_dict() if name.endswith("running_mean")]
        present = set(names)
        found = next(
            (
                name.removesuffix("running_mean") + "weight"
                for name in statistics
                if name not in present and name.removesuffix("running_mean") + "weight" in present
            ),
            None,
        )
    if found is not None:
        raise CheckpointError(
            GROUP_NORM_REASON,
            received=found,
            valid="batch norm, one a pyramid level in shared heads (MultiLevelBatchNorm)",
            next_command="retrain the head with multi-level batch norm",
        )


def _quantized_convs(model: Detector) -> dict[str, QuantConv2d]:
    return {
        f"{name}.weight": module
        for name, module in model.named_modules()
        if isinstance(module, QuantConv2d) and module.weight_quantizer is not None
    }


def _pack(model: Detector, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """`state`, which are the tensors of `model` on the CPU, packed."""
    convs = _quantized_convs(model)
    packed: dict[str, Tensor] = {}
    for name, value in state.items():
        if name in convs:
            quantizer = convs[name].weight_quantizer
            assert quantizer is not None
            q = convs[name].integer_weight()[0].cpu()
            packed[PACKED + name] = pack_bits(
                (q.to(torch.int32).flatten() + quantizer.top_code) // 2, quantizer.bits
            )
        elif value.dim() > 1:
            packed[name] = _halved(name, value)
        else:
            packed[name] = value.clone()
    return packed


def _halved(name: str, value: Tensor) -> Tensor:
    """`value` in half precision; CheckpointError where its largest number overflows or loses its digits."""
    limits = torch.finfo(torch.float16)
    largest = float(value.abs().max())
    if largest and not limits.tiny <= largest <= limits.max:
        raise CheckpointError(
            f"the weights {name} do not fit half precision",
            received=f"numbers up to {largest:g}",
            valid=f"{limits.tiny:g} to {limits.max:g}",
            next_command="save_checkpoint without compact",
        )
    return value.to(torch.float16)


def _unpack(state: dict[str, Tensor], model: Detector) -> dict[str, Tensor]:
    convs = _quantized_convs(model)
    restored: dict[str, Tensor] = {}
    for name, value in state.items():
        plain = name.removeprefix(PACKED)
        if name == plain:
            restored[name] = value.to(torch.float32) if value.dtype == torch.float16 else value
            continue
        nu = state.get(plain.removesuffix("weight") + "weight_quantizer.nu")
        if plain not in convs or nu is None or nu.numel() != 1:
            raise CheckpointError("packed weights of a layer that is not quantized", received=plain)
        quantizer = convs[plain].weight_quantizer
        assert quantizer is not None
        shape = convs[plain].weight.shape
        eta = unpack_bits(value, quantizer.bits, shape.numel()).reshape(shape)
        step = nu.abs().to(torch.float32) / quantizer.top_code
        restored[plain] = (2 * eta - quantizer.top_code).to(torch.float32) * step
    return restored


def pack_bits(values: Tensor, bits: int) -> Tensor:
    """Integers of [0, 2^bits) (1-D) as a uint8 stream, most significant bit first, padded with 0."""
    array = values.numpy().astype(np.uint8)
    planes = (array[:, None] >> np.arange(bits - 1, -1, -1, dtype=np.uint8)) & 1
    return torch.from_numpy(np.packbits(planes.reshape(-1).astype(np.uint8)))


def unpack_bits(packed: Tensor, bits: int, count: int) -> Tensor:
    """The `count` integers of `pack_bits`, int32; CheckpointError where the stream is too short."""
    if packed.dtype != torch.uint8 or packed.numel() != (count * bits + 7) // 8:
        raise CheckpointError(
            "packed weights have the wrong length",
            received=f"{packed.numel()} values of {packed.dtype}",
            valid=f"{(count * bits + 7) // 8} bytes",
        )
    planes = np.unpackbits(packed.numpy())[: count * bits].reshape(count, bits).astype(np.int32)
    return torch.from_numpy(planes @ (1 << np.arange(bits - 1, -1, -1, dtype=np.int32)))


def _check_identical(model: Detector, restored: Detector) -> None:
    """Every integer and every step of the packed network equals that of `model`."""
    others = _quantized_convs(restored)
    for name, conv in _quantized_convs(model).items():
        q, step = (tensor.cpu() for tensor in conv.integer_weight())
        other_q, other_step = others[name].integer_weight()
        if not (torch.equal(q, other_q) and torch.equal(step, other_step)):
            raise CheckpointError("packing changed a layer's integers; use a full checkpoint", received=name)
