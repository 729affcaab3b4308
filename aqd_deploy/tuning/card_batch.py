"""A batch: whole programs of one network for a card, in which every convolution has another of its kernels.

A card has some dozens of kernels for a convolution at most, not thousands. So candidates are not built one by
one: program k has the k-th kernel of every
convolution, the first one those of the least estimate, and is compiled as any program is. Compiling needs no
card, measuring (`card_measure.py`) no compiler: the batch is a file that goes from one machine to the other.

It is a zip file: `batch.json`, an input with what the integer network makes of it, and the programs.
"""

from __future__ import annotations

import json
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from aqd_deploy.arrays import ZIP_ERRORS, write_arrays
from aqd_deploy.compiler.build import compile_model
from aqd_deploy.compiler.launches import build_launches
from aqd_deploy.compiler.nvcc import CudaCompiler
from aqd_deploy.compiler.planning import plan_for_card
from aqd_deploy.errors import BudgetError, RecordsError, line_of
from aqd_deploy.files import TemporaryFolder, replacing
from aqd_deploy.inputs import GIB, MIB, FileKind, parse_json
from aqd_deploy.integer.reference import ReferenceRunner
from aqd_deploy.kernels.backends import card_backend_of
from aqd_deploy.kernels.contract.choice import Choice
from aqd_deploy.records.file import Header, Records
from aqd_deploy.records.lookup import Tuned
from aqd_deploy.records.task import CardTask
from aqd_deploy.runtime.tensors import TensorInfo, random_inputs
from aqd_deploy.schema import SchemaError, anything, list_of, nothing_or, table, table_of, text, whole
from aqd_deploy.targets import Target
from aqd_deploy.targets.cpu import available_threads

BATCH_FORMAT = 1
MOST_PROGRAMS = 24
"""So many kernels of a convolution are tried: behind them are those of the worst estimates."""
_MAKE = "aqd-deploy tune MODEL.onnx --target NAME --batch FILE"
BATCH_FILE = FileKind("batch", "a file that tune --batch wrote", 64 * GIB, RecordsError, next_command=_MAKE)
_CONTENT, _INPUTS, _OUTPUTS = "batch.json", "inputs.npz", "outputs.npz"
_LARGEST_CONTENT = 64 * MIB
_TASK = table({
    "key": text, "shape": text, "convolution": text, "macs": whole(), "definition": table_of(anything),
    "space": whole(1), "choices": list_of(nothing_or(table_of(anything)), 1),
    "layers": list_of(whole(), 1), "names": list_of(text, 1),
})  # fmt: skip
_BATCH = table({"header": table_of(anything), "images": whole(1), "tasks": list_of(_TASK, 1)})


@dataclass
class CardUse:
    """A task in a network for a card: the convolutions that it stands for, as indices of layers and by name,
    and its choices, the default first. In a batch, `choices`[k] is what program k has, None where the task
    has nothing left to try; `space` is how many there are in all. `macs` as in `records.task.AnyTask`.
    """

    key: str
    shape: str
    convolution: str
    macs: int
    definition: dict[str, Any]
    space: int
    choices: list[Choice | None]
    layers: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, task: CardTask, able: Sequence[Choice]) -> CardUse:
        """That of a task, in no layer yet."""
        return cls(task.key, task.shape_key, str(task), task.macs, task.to_json(), len(able), [*able])

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> CardUse:
        """The inverse of `to_json`. Raises KeyError, TypeError or ValueError for anything else."""
        choices = [None if each is None else Choice.from_json(each) for each in value["choices"]]
        return cls(**{**{each.name: value[each.name] for each in fields(cls)}, "choices": choices})

    def to_json(self) -> dict[str, Any]:
        """JSON, by the names of the fields."""
        choices = [None if each is None else each.to_json() for each in self.choices]
        return {**{each.name: getattr(self, each.name) for each in fields(self)}, "choices": choices}

    @property
    def default(self) -> Choice:
        """The choice that the estimate makes."""
        first = self.choices[0]
        assert first is not None, "checked where a batch is read"
        return first


@dataclass(frozen=True)
class Batch:
    """What a batch says of itself: for what its numbers will hold, images of a run, tasks."""

    header: Header
    images: int
    uses: list[CardUse]

    @property
    def programs(self) -> int:
        """How many there are."""
        return len(self.uses[0].choices)


def card_uses(model: onnx.ModelProto, device: Target, images: int) -> list[CardUse]:
    """The tasks of a network on a card, the one with the most arithmetic first. Raises what `build_launches`
    raises.
    """
    found: dict[str, CardUse] = {}

    def note(task: CardTask, able: Callable[[], list[Choice]]) -> tuple[Choice | None, str]:
        if task.key not in found:
            found[task.key] = CardUse.of(task, able())
        asked.append(found[task.key])
        return None, ""

    asked: list[CardUse] = []
    built = build_launches(plan_for_card(model), card_backend_of(device), images, note)
    convolutions = (pair for pair in enumerate(built.layers) if pair[1].choice is not None)
    for use, (index, layer) in zip(asked, convolutions, strict=True):
        use.layers.append(index)
        use.names.append(layer.name)
    return sorted(found.values(), key=lambda use: -use.macs * len(use.layers))


def left_to_try(uses: Sequence[CardUse], records: Records) -> list[CardUse]:
    """The tasks with the choices that no record is of, behind the default, which others are compared with."""
    known = {(record.task, record.choice) for record in records.candidates}
    return [
        replace(
            use, choices=[use.default, *(each for each in use.choices[1:] if (use.key, each) not in known)]
        )
        for use in uses
    ]


def write_batch(
    model: onnx.ModelProto,
    uses: Sequence[CardUse],
    output: Path,
    *,
    device: Target,
    compiler: CudaCompiler,
    images: int = 1,
    deadline: float,
    on_program: Callable[[int, int], None] = lambda done, total: None,
) -> Batch:
    """Compile integer ONNX once for each rank of `uses`' choices, until `deadline` (`time.monotonic()`), and
    write the batch `output` whole or not at all.

    Raises what `compile_model` raises, and BudgetError where not one candidate was compiled in time.
    """
    total = min(max(len(use.choices) for use in uses), MOST_PROGRAMS)
    with replacing(output) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        with TemporaryFolder() as folder, ThreadPoolExecutor(available_threads()) as pool:

            def compiled(number: int) -> Path | None:
                if number and time.monotonic() >= deadline:
                    return None
                path = folder / _program(number)
                compile_model(
                    model, path, target=device, tuned=_having(uses, number), toolchain=compiler, images=images
                )  # fmt: skip
                return path

            count = 0
            for path in pool.map(compiled, range(total)):
                if path is None:
                    break
                archive.write(path, path.name)
                path.unlink()
                count += 1
                on_program(count, total)
            if count < min(2, total):
                raise BudgetError(
                    "the budget is too small to compile one candidate",
                    valid="at least two minutes; ten for a detector",
                    next_command="aqd-deploy tune MODEL.onnx --target NAME --batch FILE --budget 10m",
                )
            for name, arrays in _example(model, images).items():
                write_arrays(folder / name, arrays)
                archive.write(folder / name, name)
        tried = [replace(use, choices=[*use.choices, *[None] * count][:count]) for use in uses]
        batch = Batch(Header.here(device), images, tried)
        archive.writestr(_CONTENT, json.dumps(_document(batch)))
    return batch


def _having(uses: Sequence[CardUse], number: int) -> Tuned:
    """Records by which a program has the choice `number` of each task, the default where there is none."""
    ranked = ([*use.choices, *[None] * number][number] or use.default for use in uses)
    return Tuned.of({use.key: choice for use, choice in zip(uses, ranked, strict=True)})


def _document(batch: Batch) -> dict[str, Any]:
    return {
        "aqd_card_batch": BATCH_FORMAT, "header": batch.header.to_json(), "images": batch.images,
        "tasks": [use.to_json() for use in batch.uses],
    }  # fmt: skip


def _program(number: int) -> str:
    return f"{number}.so"


def _example(model: onnx.ModelProto, images: int) -> dict[str, dict[str, np.ndarray]]:
    """Random images of the network's inputs, and what it makes of them one by one."""
    reference = ReferenceRunner(model)
    infos = [TensorInfo(name, shape, dtype) for name, (shape, dtype) in reference.inputs.items()]
    singles = [random_inputs(infos, seed) for seed in range(images)]
    results = [reference.run(each) for each in singles]
    return {
        name: {key: np.concatenate([each[key] for each in arrays]) for key in arrays[0]}
        for name, arrays in ((_INPUTS, singles), (_OUTPUTS, results))
    }


class OpenBatch:
    """A batch whose programs and arrays can be taken out. Raises RecordsError for a file that is none, or is
    of another format; nothing of it is trusted but what is checked.
    """

    def __init__(self, archive: zipfile.ZipFile, path: Path) -> None:
        self._archive, self._path = archive, path
        self.batch = self._read()
        wanted = {_CONTENT, _INPUTS, _OUTPUTS, *map(_program, range(self.batch.programs))}
        # What is stored as it is can't inflate to more than the file has.
        stored = {each.filename for each in archive.infolist() if each.compress_type == zipfile.ZIP_STORED}
        missing = sorted(wanted - stored)
        if missing:
            raise RecordsError("the batch is not whole", received=f"{path} without {missing[0]}",
                               valid=BATCH_FILE.valid, next_command=_MAKE)  # fmt: skip

    def _read(self) -> Batch:
        try:
            with self._archive.open(_CONTENT) as file:
                content = parse_json(file.read(_LARGEST_CONTENT))
            if not isinstance(content, dict) or content.get("aqd_card_batch") != BATCH_FORMAT:
                raise ValueError(f"its format is not {BATCH_FORMAT}")
            _BATCH(content, "")
            uses = [CardUse.from_json(each) for each in content["tasks"]]
            if len({len(use.choices) for use in uses}) != 1 or None in [use.choices[0] for use in uses]:
                raise ValueError("its tasks are not of the same programs")
            return Batch(Header.from_json(content["header"]), content["images"], uses)
        except (KeyError, TypeError, ValueError, SchemaError, *ZIP_ERRORS) as error:
            raise _no_batch(self._path, error) from error

    def program(self, number: int, folder: Path) -> Path:
        """Program `number`, written to `folder`."""
        return self._take(_program(number), folder)

    def example(self, folder: Path) -> tuple[Path, Path]:
        """The files of inputs and of outputs, written to `folder`."""
        return self._take(_INPUTS, folder), self._take(_OUTPUTS, folder)

    def _take(self, name: str, folder: Path) -> Path:
        try:
            return Path(self._archive.extract(name, folder))
        except ZIP_ERRORS as error:
            raise _no_batch(self._path, error) from error


@contextmanager
def open_batch(path: Path) -> Iterator[OpenBatch]:
    """The batch at `path`. Raises RecordsError as `OpenBatch`, and where the file cannot be read."""
    with BATCH_FILE.open(path) as file:
        try:
            archive = zipfile.ZipFile(file)
        except ZIP_ERRORS as error:
            raise _no_batch(path, error) from error
        with archive:
            yield OpenBatch(archive, path)


def _no_batch(path: Path, error: Exception) -> RecordsError:
    return RecordsError(
        f"this is no batch of candidates ({line_of(error)})", received=str(path), valid=BATCH_FILE.valid,
        next_command=_MAKE,
    )  # fmt: skip
