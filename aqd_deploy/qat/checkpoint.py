"""Checkpoints: what a detector is and its weights in one file, read without running any code from it.

A *full* checkpoint holds the training weights. A *compact* one holds what the deployed network needs: of a
quantized layer its integers, packed at their bit width, and ν; of a float layer its weights in half
precision.
"""

from __future__ import annotations

import io
import os
import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from aqd_deploy.errors import CheckpointError
from aqd_deploy.files import replacing
from aqd_deploy.inputs import GIB, MIB, FileKind, size_text
from aqd_deploy.qat.config import ModelConfig
from aqd_deploy.qat.layers import QuantConv2d
from aqd_deploy.qat.models import Detector, build_model

CHECKPOINT_FILE = FileKind("checkpoint", "a .pt file of tensors, numbers and texts", 8 * GIB, CheckpointError)
FORMAT, VERSION = "aqd-checkpoint", 1
PACKED = "packed:"
GROUP_NORM = re.compile(r"(^|[._])(gn\d*|group_?norm\d*)([._]|$)", re.IGNORECASE)
GROUP_NORM_REASON = (
    "the checkpoint uses GroupNorm, which recomputes its statistics on every image and so cannot become "
    "integer arithmetic"
)


def write_archive(path: Path, content: dict[str, Any]) -> None:
    """torch.save to a temporary name, then renamed: a killed run leaves the old file or the new one."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with replacing(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def read_archive(path: Path) -> dict[str, Any]:
    """The dictionary of a torch file; CheckpointError where it is missing, damaged, none, or has code."""
    with CHECKPOINT_FILE.open(path) as file:
        _check_sizes(file, path)
        try:
            with warnings.catch_warnings():  # about pickle protocols; what matters is said below
                warnings.simplefilter("ignore", UserWarning)
                content = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # on arbitrary bytes the unpickler fails in any way there is
            raise _unreadable(path, file, error) from error
    if not isinstance(content, dict):
        raise CheckpointError("a checkpoint is a dictionary", received=f"{path}: {type(content).__name__}")
    return content


def _check_sizes(file: IO[bytes], path: Path) -> None:
    """Raise CheckpointError where the members of a zip file say that they inflate to more than a checkpoint
    can have: torch reads a member whole.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            size = sum(member.file_size for member in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        size = 0
    file.seek(0)
    if size > max(4 * os.fstat(file.fileno()).st_size, 64 * MIB):
        raise CheckpointError(
            "the checkpoint says that it holds far more than it does", received=f"{path}: {size_text(size)}"
        )


def _unreadable(path: Path, file: IO[bytes], error: Exception) -> CheckpointError:
    """Why torch could not read a file."""
    file.seek(0)
    archive = zipfile.is_zipfile(file)
    file.seek(0)
    start = file.read(2)
    if isinstance(error, pickle.UnpicklingError) and (archive or start[:1] == b"\x80"):
        return CheckpointError(
            f"{path} holds pickled code or objects, which are not loaded because they could run anything",
            valid="a file of tensors, numbers and strings only",
            next_command="save the state_dict: torch.save(model.state_dict(), ...)",
        )
    if archive or start in (b"PK", b""):
        return CheckpointError(
            "the checkpoint is truncated or damaged", received=f"{path} ({path.stat().st_size} bytes)"
        )
    return CheckpointError("this is not a torch checkpoint", received=str(path))


def save_checkpoint(
    path: str | os.PathLike[str], model: Detector, *, compact: bool = False, record: str = ""
) -> None:
    """Writes `model` to `path`; `record` is a free text that travels along (how it was trained, its AP).

    A compact file of a quantized model is checked before it is written: the network read back has the same
    integers and steps. That of a float model *defines* the network, its weights rounded to half precision.
    """
    config = model.config
    if compact:
        # The integers are what is left of a standardised weight: there is nothing more to standardise.
        config = config.replace(weight_standardization=False)
        state = _pack(model)
    else:
        state = {name: value.contiguous() for name, value in model.state_dict().items()}
    content = {
        "format": FORMAT,
        "version": VERSION,
        "encoding": "compact" if compact else "full",
        "config": config.to_json(),
        "record": record,
        "state": state,
    }
    if compact:
        _check_identical(model, _restore(content, Path(path)))
    write_archive(Path(path), content)


def load_checkpoint(path: str | os.PathLike[str]) -> Detector:
    """The detector of a checkpoint, in eval mode. CheckpointError says why a file is refused."""
    content = read_archive(Path(path))
    return _restore(content, Path(path))


def checkpoint_record(path: str | os.PathLike[str]) -> str:
    """The text saved along with a checkpoint."""
    return str(read_archive(Path(path)).get("record", ""))


def _restore(content: dict[str, Any], path: Path) -> Detector:
    _refuse_group_norm(content)
    if content.get("format") != FORMAT or not isinstance(content.get("state"), dict):
        raise CheckpointError(
            "this torch file is not a checkpoint of aqd-deploy",
            received=f"{path} with {', '.join(map(str, list(content)[:4]))}",
            valid="a file written by aqd_deploy.qat.checkpoint.save_checkpoint",
        )
    if content.get("version") != VERSION:
        raise CheckpointError(
            "the checkpoint has another version", received=content.get("version"), valid=str(VERSION)
        )
    strange = [
        str(name)
        for name, value in content["state"].items()
        if not isinstance(name, str) or not isinstance(value, Tensor)
    ]
    if strange:
        raise CheckpointError("a checkpoint's state holds tensors only", received=", ".join(strange[:4]))
    config = ModelConfig.from_json(content.get("config", ""))
    # A description of a network that is larger than what the file holds must not be built.
    plan = _without_memory(config)
    state = content["state"]
    _check_plain(state, path)
    if content.get("encoding") == "compact":
        state = _unpack(state, plan)
    _refuse_group_norm(state, plan)
    _check_shapes(state, plan.state_dict(), path)
    model = build_model(config)
    model.load_state_dict(state)
    return model.eval()


def _without_memory(config: ModelConfig) -> Detector:
    """The network of `config` with names and shapes only."""
    with torch.device("meta"), _NoInitialValues():
        return build_model(config)


class _NoInitialValues(TorchFunctionMode):
    """Leaves out random initial values, which a tensor without memory cannot take (and whose meta form makes
    torch import its compiler, for seconds).
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (Tensor.normal_, Tensor.uniform_) or getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def _check_plain(state: dict[str, Tensor], path: Path) -> None:
    """Raise CheckpointError for tensors that are not dense, of real numbers and finite."""
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


def _check_shapes(state: dict[str, Tensor], wanted: dict[str, Tensor], path: Path) -> None:
    """Raise CheckpointError unless `state` has the tensors of the network that the file describes."""
    problems = [f"{name} is missing" for name in wanted if name not in state]
    problems += [f"{name} is unknown" for name in state if name not in wanted]
    problems += [
        f"{name} is {list(value.shape)}, not {list(wanted[name].shape)}"
        for name, value in state.items()
        if name in wanted and value.shape != wanted[name].shape
    ]
    if problems:
        raise CheckpointError(
            f"the weights in {path} are not those of its own description",
            received="; ".join(problems[:3])[:300],
        )


def _refuse_group_norm(state: dict[str, Any], model: Detector | None = None) -> None:
    """GroupNorm shows by its name, or as a norm with weight and bias but without running statistics."""
    names = [str(name) for name in state]
    for key in ("model", "state_dict", "state"):
        if isinstance(state.get(key), dict):
            names += [str(name) for name in state[key]]
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


def _pack(model: Detector) -> dict[str, Tensor]:
    convs = _quantized_convs(model)
    state: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        if name in convs:
            quantizer = convs[name].weight_quantizer
            assert quantizer is not None
            eta = (quantizer.integer(value).to(torch.int32) + quantizer.levels) // 2
            state[PACKED + name] = pack_bits(eta.flatten(), quantizer.bits)
        elif value.dim() > 1:
            state[name] = value.contiguous().to(torch.float16)
        else:
            state[name] = value.clone()
    return state


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
        step = nu.abs().to(torch.float32) / quantizer.levels
        restored[plain] = (2 * eta - quantizer.levels).to(torch.float32) * step
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
        q, step = conv.integer_weight()
        other_q, other_step = others[name].integer_weight()
        if not (torch.equal(q, other_q) and torch.equal(step, other_step)):
            raise CheckpointError("packing changed a layer's integers; use a full checkpoint", received=name)
