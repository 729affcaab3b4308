"""Typed errors of the library.

Every error carries what a person needs to go on: what failed, the value received, the valid choices and the
next command. The CLI prints them as sentences in one place (`aqd_deploy.cli.main`) and exits with 1.
"""

from __future__ import annotations

from typing import Any


class AqdError(Exception):
    """Base of all errors that a user can cause.

    `what` says what failed; `received`, `valid` and `next_command` are optional and printed in this order.
    """

    def __init__(
        self, what: str, *, received: object = None, valid: str | None = None, next_command: str | None = None
    ) -> None:
        self.what = what
        self.received = received
        self.valid = valid
        self.next_command = next_command
        super().__init__(self.sentence())

    def about(self, copy: object, original: object) -> AqdError:
        """The same error where `copy`, which it may name, was made of `original`, which the user knows."""

        def told(text: object) -> Any:
            return text if text is None else str(text).replace(str(copy), str(original))

        return type(self)(
            told(self.what), received=told(self.received), valid=told(self.valid),
            next_command=told(self.next_command),
        )  # fmt: skip

    def sentence(self) -> str:
        """One paragraph: what, received, valid, next command."""
        parts = [self.what]
        if self.received is not None:
            parts.append(f"got {self.received}")
        if self.valid is not None:
            parts.append(f"valid: {self.valid}")
        if self.next_command is not None:
            parts.append(f"try: {self.next_command}")
        return "; ".join(parts)


def line_of(error: BaseException, index: int = 0) -> str:
    """One line of what `error` says (0: the first, -1: the last); its type's name where that is nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[index][:300] if lines else type(error).__name__


class ModelFileError(AqdError):
    """An ONNX file that cannot be read: truncated, not ONNX, too large, missing external data."""


class UnsupportedModelError(AqdError):
    """A readable model with something the integer dialect cannot express (GroupNorm, unknown op)."""


class ScaleError(AqdError):
    """A quantization scale that is not a positive finite number."""


class RangeError(AqdError):
    """An integer tensor whose proven range does not fit its arithmetic: names node, channel and bound."""


class RecipeError(AqdError):
    """A recipe that cannot be followed: another version, an unknown key, a pattern that fits nothing."""


class CalibrationError(AqdError):
    """Calibration images that cannot be used, or that a network makes no numbers of."""


class ShapeError(AqdError):
    """A dynamic or impossible tensor shape."""


class TargetError(AqdError):
    """An unknown target, or one this machine cannot run."""


class ProgramError(AqdError):
    """A compiled program that is damaged, of another version, or for another CPU."""


class BundleError(AqdError):
    """A bundle that is damaged or cannot be made: no runtime for its target, something else in its folder."""


class DeviceError(AqdError):
    """A device that cannot be reached, that refuses us or the program, or that was lost on the way."""


class ImageError(AqdError):
    """An image file that cannot be used."""


class CheckpointError(AqdError):
    """Weights that cannot be used: in a training checkpoint, or of a network in memory."""


class TrainingError(AqdError):
    """A training step that cannot be taken: its settings, its batch, or a loss or gradient of it."""


class StorageError(AqdError):
    """A folder that cannot be written, or is full: an output's, that for temporary files, the cache."""


class ToolchainError(AqdError):
    """A compiler that failed: the message has what it said."""


class RecordsError(AqdError):
    """Tuning records that are not there, or that another process is writing."""


class BudgetError(AqdError):
    """A tuning budget that is too small for one measurement."""


class TuningError(AqdError):
    """Tuning that cannot go on: the machine fails, or a board, and not the candidates."""


class MissingExtraError(AqdError):
    """An optional dependency is needed; the message names the extra that installs it."""


class PeerError(AqdError):
    """Another runtime could not convert, load or run the network."""


class GateError(AqdError):
    """A command ran, but a gate (`--gate`, `--max-ms`, `--max-ratio`, `--max-deviation`) failed: exit
    code 3.
    """
