"""The stages of a network that are evaluated: which stage a file is, and how it is opened."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnx import ModelProto

from aqd_deploy.detection.settings import DetectorSettings
from aqd_deploy.devices import LOCAL
from aqd_deploy.errors import AqdError, ModelFileError
from aqd_deploy.integer.files import load_onnx
from aqd_deploy.integer.kinds import kind_of
from aqd_deploy.reporting.document import VARIANTS
from aqd_deploy.runtime.bundle_files import program_file
from aqd_deploy.workflow.runners import Runner, open_runner

PROGRAM = "program"
QUANTIZED = ("fake_quantized", "integer_reference", PROGRAM)
"""The stages that are made of each other, and so have one name in their manifests."""
_BY_KIND = {
    "float": "float",
    "float16": "float",
    "qdq": "fake_quantized",
    "qoperator": "onnxruntime_int8",
    "integer": "integer_reference",
}


@dataclass(frozen=True)
class Stage:
    """A file that is evaluated as the stage `name` (of VARIANTS); a program on `device`.

    `description` is the file that describes images and boxes of a network whose manifest does not.
    """

    name: str
    path: Path
    device: str = LOCAL
    description: Path | None = None
    threads: int | None = None

    @contextmanager
    def opened(self) -> Iterator[Runner]:
        """The network, whose manifest tells of its images and boxes, and is held to it. Raises ModelFileError
        where it does not, and what `open_runner` raises.
        """
        with open_runner(self.path, self.threads, self.device) as runner:
            described = runner.manifest.get("detector") is not None
            if not described and self.description is not None:
                runner = runner.described(self.description)
            elif not described:
                raise ModelFileError(
                    "the manifest has no detector: this network gives no boxes", received=str(self.path),
                    next_command="the same command with --detector F.toml, which has one",
                )  # fmt: skip
            runner.check_detector()
            yield runner


@dataclass(frozen=True)
class StageFacts:
    """What is known of a stage without running it: its manifest, its file, and what decides its boxes."""

    manifest: dict[str, Any]
    settings: DetectorSettings
    file: dict[str, Any]
    key: dict[str, Any]

    @classmethod
    def of(cls, stage: Stage) -> StageFacts:
        """Raises what `Stage.opened` raises."""
        with stage.opened() as runner:
            manifest = runner.manifest
        data = program_file(stage.path).read_bytes()
        file = {"file": stage.path.name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        key = {
            "sha256": file["sha256"], "device": stage.device, "preprocessing": manifest["preprocessing"],
            "detector": manifest["detector"],
        }  # fmt: skip
        return cls(manifest, DetectorSettings.from_manifest(manifest), file, key)


def named_file(text: str) -> tuple[str | None, Path]:
    """The stage and the file of `STAGE=FILE`, or of `FILE` alone."""
    name, equals, rest = text.partition("=")
    return (name, Path(rest)) if equals and name in VARIANTS else (None, Path(text))


def stage_of(path: Path) -> str:
    """The stage that a file is, by its kind: a program or a bundle, or an ONNX file.

    Raises ModelFileError for an ONNX file of a kind that onnxruntime does not run, and what `load_onnx`
    raises.
    """
    if path.suffix != ".onnx":
        return PROGRAM
    model = load_onnx(path)
    kind = "float" if _only_pixels_are_codes(model) else kind_of(model)
    if kind not in _BY_KIND:
        raise ModelFileError(
            f"onnxruntime does not run files of the kind {kind}", received=str(path),
            valid=", ".join(_BY_KIND), next_command="aqd-deploy lower FILE -o OUT.int.onnx",
        )  # fmt: skip
    return _BY_KIND[kind]


def _only_pixels_are_codes(model: ModelProto) -> bool:
    """Whether nothing in the graph is quantized but its input: pixels, which are integers anyway."""
    operators = [node for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    inputs = {each.name for each in model.graph.input}
    return kind_of(model) == "qdq" and all(
        node.op_type == "DequantizeLinear" and node.input[0] in inputs for node in operators
    )


def check_stages(stages: Sequence[Stage]) -> None:
    """Raise AqdError where two files are one stage."""
    names = [stage.name for stage in stages]
    for stage in stages:
        if names.count(stage.name) > 1:
            both = ", ".join(str(each.path) for each in stages if each.name == stage.name)
            raise AqdError(
                f"two files are the stage {stage.name}", received=both,
                valid=f"STAGE=FILE for one of them; STAGE is {', '.join(VARIANTS)}",
            )  # fmt: skip


def check_one_network(stages: Sequence[Stage], facts: Sequence[StageFacts]) -> dict[str, Any]:
    """What tells the network of all stages from another one: its kind of detector, its classes and, where a
    quantized stage is among them, its name. Raises AqdError where two stages are not of one network.
    """
    found: dict[str, Any] = {}
    for stage, each in zip(stages, facts, strict=True):
        told = {"kind": each.manifest["detector"]["kind"], "classes": sorted(each.settings.classes)}
        name = each.manifest.get("name")
        told |= {"name": name} if stage.name in QUANTIZED and name else {}
        check_same_network(found, told, f"{stage.path} is of another network than {stages[0].path}")
        found |= told
    return found


def check_same_network(first: dict[str, Any], second: dict[str, Any], what: str) -> None:
    """Raise AqdError, which says `what`, where both tell something that differs."""
    for key in first.keys() & second.keys():
        if first[key] != second[key]:
            raise AqdError(what, received=f"{key} {_short(second[key])}", valid=f"{key} {_short(first[key])}")


def _short(value: Any) -> str:
    if not isinstance(value, list):
        return str(value)
    return f"{len(value)}: {', '.join(map(str, value[:4]))}" + (" ..." if len(value) > 4 else "")
