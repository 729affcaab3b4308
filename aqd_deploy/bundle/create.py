"""A program file → a bundle: a folder that runs on a bare device.

`program.so` (beside it its tail, if it has one), the runner `aqd-run`, for a CPU TVM's runtime in `lib/`,
`manifest.json` (what it is, what it needs, size and SHA-256 of every file), `manifest.sha256` and
`README.txt`.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aqd_deploy.bundle.elf import required_versions
from aqd_deploy.bundle.readme import readme_text
from aqd_deploy.bundle.runner import build_runner
from aqd_deploy.bundle.runtime_libraries import runtime_libraries
from aqd_deploy.errors import BundleError, TargetError
from aqd_deploy.files import check_folder, failure, replacing_folder
from aqd_deploy.inputs import MIB, FileKind
from aqd_deploy.integer.tail import tail_path
from aqd_deploy.runtime.bundle_files import PROGRAM, RUNNER
from aqd_deploy.runtime.container import read_container
from aqd_deploy.runtime.launches import SECTION, is_launched
from aqd_deploy.runtime.manifest import check_packaged
from aqd_deploy.schema import SchemaError, list_of, table, text, whole
from aqd_deploy.targets import Target, get

FORMAT_VERSION = 1
KIND = "aqd-deploy bundle"
# As in native/sha256.h.
CHUNK = 1 << 14
TAIL = tail_path(Path(PROGRAM)).name
MANIFEST, MANIFEST_HASH, README = "manifest.json", "manifest.sha256", "README.txt"
_MANIFEST_FILE = FileKind("manifest of a bundle", "a folder written by package", 16 * MIB, BundleError)
_SCHEMA = table(
    {"files": list_of(table({"path": text, "bytes": whole(), "sha256": text})), "weight_bytes": whole()}
)


@dataclass(frozen=True)
class Bundle:
    """A bundle on the disk: its folder and its manifest."""

    path: Path
    manifest: dict[str, Any]

    @property
    def files(self) -> dict[str, int]:
        """Bytes of every file by its path in the bundle, the manifest and its hash included."""
        listed = {entry["path"]: entry["bytes"] for entry in self.manifest["files"]}
        return listed | {name: (self.path / name).stat().st_size for name in (MANIFEST, MANIFEST_HASH)}

    @property
    def total_bytes(self) -> int:
        """Bytes of all files."""
        return sum(self.files.values())

    @property
    def bytes_beside_weights(self) -> int:
        """Bytes of all files but for the weights in the program."""
        return self.total_bytes - self.manifest["weight_bytes"]


def create_bundle(
    program: Path,
    out: Path,
    *,
    runtime: Path | None = None,
    tail: bytes | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Bundle:
    """Package the program file `program` into the folder `out`, for the target it was compiled for.

    `runtime` is a folder with TVM's runtime libraries for that target; by default they are found
    (`runtime_libraries`). `tail` is the program's (`integer.tail`): it lies in the folder for the host that
    reads the outputs, the device does not run it. `out` is written whole or not at all; an older bundle there
    is replaced. `progress` is told what has to be made or fetched first, and how long that takes.

    Raises ProgramError where `program` is not a whole program, BundleError where `out` is something else
    than a bundle or cannot be written and where there are no runtime libraries, MissingExtraError where there
    is no C++ compiler for the target.
    """
    container = read_container(program)
    check_packaged(container.manifest, str(program))
    _check_output(out)
    target = _target(container.manifest["program"]["target"])
    libraries = [] if is_launched(container.manifest) else runtime_libraries(target, runtime, progress)
    copies = {RUNNER: build_runner(target, progress)} | {f"lib/{path.name}": path for path in libraries}
    try:
        with replacing_folder(out) as folder:
            written = {PROGRAM: container.data} | ({} if tail is None else {TAIL: tail})
            _fill(folder, container.manifest, written, copies, [f"lib/{path.name}" for path in libraries])
    except OSError as error:
        raise failure(f"cannot write {out}", error, BundleError) from error
    return read_bundle(out)


def read_bundle(folder: Path) -> Bundle:
    """The bundle in `folder`, every file compared with its recorded size and SHA-256.

    Raises BundleError where it is not a bundle, is of another version, or a file differs.
    """
    manifest = _read_manifest(folder)
    if manifest.get("format") != FORMAT_VERSION:
        raise BundleError(
            f"{folder} is a bundle of another version",
            received=f"format {manifest.get('format')}",
            valid=f"format {FORMAT_VERSION}",
        )
    try:
        _SCHEMA(manifest, "")
    except SchemaError as error:
        raise error.of(f"the manifest of the bundle {folder}", BundleError) from error
    for entry in manifest["files"]:
        path = folder / entry["path"]
        if not _is_inside(path, folder) or _describe(path, entry["path"]) != entry:
            raise BundleError(
                f"{path} is missing, damaged or of another bundle",
                next_command="aqd-deploy package PROGRAM.so -o BUNDLE",
            )
    return Bundle(folder, manifest)


def _read_manifest(folder: Path) -> dict[str, Any]:
    data = _MANIFEST_FILE.read(folder / MANIFEST)
    recorded = _MANIFEST_FILE.read(folder / MANIFEST_HASH)
    if recorded == _hash_line(data):
        manifest = _MANIFEST_FILE.parse_json(data, str(folder / MANIFEST))
        if isinstance(manifest, dict) and manifest.get("kind") == KIND:
            return manifest
    raise BundleError(f"{folder} is not a bundle, or its manifest is damaged")


def _is_inside(path: Path, folder: Path) -> bool:
    """Whether `path` is a file of the bundle rather than a name that leads out of it."""
    try:
        return path.is_file() and path.resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError):
        return False


def _check_output(out: Path) -> None:
    """Before the work: `out` is free, an empty folder, or a bundle, in a folder that can be written."""
    check_folder(out.parent, BundleError)
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise BundleError(
            "the output is not a folder", received=out, valid="a new folder, or a bundle to replace"
        )
    if out.is_dir() and any(out.iterdir()) and not _is_bundle(out):
        raise BundleError(
            "the output is a folder with something else in it",
            received=out,
            valid="a new folder, or a bundle to replace",
        )


def _is_bundle(folder: Path) -> bool:
    try:
        manifest = _MANIFEST_FILE.read_json(folder / MANIFEST)
    except BundleError:
        return False
    return isinstance(manifest, dict) and manifest.get("kind") == KIND


def _target(entry: dict[str, Any]) -> Target:
    """The profile that the program was compiled for; where it is not known here, what the manifest says."""
    try:
        profile = get(entry["profile"])
    except TargetError:
        profile = None
    if profile is not None and profile.triple == entry["triple"]:
        return profile
    return Target(
        name=entry["name"],
        description="the target of a program",
        architecture=entry["architecture"],
        triple=entry["triple"],
        cpu=entry["cpu"],
        features=tuple(entry["features"]),
        attributes=tuple(entry["attributes"]),
        profile=entry["profile"],
    )


def _fill(
    folder: Path, program: dict[str, Any], written: dict[str, bytes], copies: dict[str, Path],
    libraries: list[str],
) -> None:  # fmt: skip
    """The bytes `written` by name, as they were verified, `copies` of other files, and what describes all of
    them; `program` is the program's manifest.
    """
    folder.chmod(0o755)
    for name, data in written.items():
        (folder / name).write_bytes(data)
    for name, source in copies.items():
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(source, folder / name)
    names = [*written, *copies]
    for name in names:
        (folder / name).chmod(0o755 if name == RUNNER else 0o644)
    needs = required_versions(folder / name for name in (PROGRAM, *copies))
    manifest = _manifest(program, needs, libraries)
    (folder / README).write_text(readme_text(manifest), encoding="utf-8")
    manifest["files"] = [_describe(folder / name, name) for name in (*names, README)]
    data = (json.dumps(manifest, indent=2, ensure_ascii=False) + "\n").encode()
    (folder / MANIFEST).write_bytes(data)
    (folder / MANIFEST_HASH).write_bytes(_hash_line(data))


def _manifest(model: dict[str, Any], needs: dict[str, str], libraries: list[str]) -> dict[str, Any]:
    program = model["program"]
    return {
        "kind": KIND,
        "format": FORMAT_VERSION,
        "name": model.get("name", ""),
        "aqd_deploy_version": program["aqd_deploy_version"],
        "tvm_version": program["tvm_version"],
        "target": program["target"],
        "needs": needs,
        "threads": program["threads"],
        "inputs": program["inputs"],
        "outputs": program["outputs"],
        "reals": {key: model[key] for key in ("inputs", "outputs", "shapes") if key in model},
        "integer_model_sha256": program["sha256"]["integer_model"],
        "weight_bytes": sum(entry["bytes"] for entry in program["weights"]["by_bits"].values()),
        "libraries": libraries,
        **({SECTION: program[SECTION]} if is_launched(model) else {}),
    }


def _describe(path: Path, name: str) -> dict[str, Any]:
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    return {"path": name, "bytes": len(data), "sha256": digest, "tree": _tree_hash(data)}


def _tree_hash(data: bytes) -> str:
    """SHA-256 of the SHA-256 of every `CHUNK` bytes: what the runner checks, several chunks at a time."""
    chunks = (data[at : at + CHUNK] for at in range(0, len(data), CHUNK))
    return hashlib.sha256(b"".join(hashlib.sha256(chunk).digest() for chunk in chunks)).hexdigest()


def _hash_line(data: bytes) -> bytes:
    """The line that `sha256sum -c` reads."""
    return f"{hashlib.sha256(data).hexdigest()}  {MANIFEST}\n".encode()
