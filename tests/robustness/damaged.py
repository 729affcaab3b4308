"""One case of the damaged-file test, and a batch of them in a process of its own.

    python tests/robustness/damaged.py --seed 12 --first 0 --count 500 [--keep DIR] [--limit SECONDS]

runs the cases [first, first + count) of a seed and prints one JSON line before each ("begun") and one behind
each that went wrong ("finding"). A case is a pure function of seed and number, so one number is enough to
have it again. `--keep` copies the folders of cases that went wrong.

What must hold of a case: the command ends within the limit with 0, or with 1 (3 for a gate) and one sentence
that begins with "error: ", foresees the failure (no "unexpected", no traceback) and does not blame the
machine ("out of memory": every file here is small); and nothing is left behind but, on success, what was
asked for.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import io
import json
import os
import random
import resource
import shutil
import socket
import sys
import tempfile
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

import mutations
from subject import Subject
from subjects import make_subjects

MEMORY = 3 << 29
"""Bytes that a case may take beside what the process has when all is imported."""


def main() -> None:
    """The batch that the command line asks for."""
    parser = argparse.ArgumentParser()
    for name in ("seed", "first", "count"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--limit", type=int, default=60)
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="aqd-damaged-") as name:
        root = Path(name)
        subjects = _prepared(root)
        for number in range(options.first, options.first + options.count):
            _tell(begun=number)
            folder = root / f"case{number}"
            folder.mkdir()
            faulthandler.dump_traceback_later(options.limit, exit=True)
            problem, case = run_case(options.seed, number, subjects, folder)
            faulthandler.cancel_dump_traceback_later()
            if problem:
                _tell(finding=number, case=case, problem=problem)
                if options.keep:
                    # Pipes and sockets cannot be copied; the rest is.
                    with contextlib.suppress(shutil.Error):
                        shutil.copytree(folder, options.keep / f"{options.seed}-{number}", symlinks=True)
            shutil.rmtree(folder)


def _tell(**message: object) -> None:
    print(json.dumps(message), file=sys.__stdout__, flush=True)


def _prepared(root: Path) -> list[Subject]:
    """The subjects, everything imported, and from here on a limit on memory."""
    import torch

    torch.set_num_threads(1)
    os.environ["AQD_DEPLOY_TARGETS"] = ""
    os.environ["XDG_CONFIG_HOME"] = str(root / "configuration")
    subjects = make_subjects(root)
    _stop_before_machine_code()
    for kind in dict.fromkeys(subject.kind for subject in subjects):
        subject = next(subject for subject in subjects if subject.kind == kind)
        for reader in subject.readers:
            # A name of its own: profiles are read once a folder.
            folder = Path(tempfile.mkdtemp(prefix="sound", dir=root))
            _write(folder, subject, subject.content)
            code, text = _call(reader, folder)
            assert code == 0 or "accepted" in text, (kind, reader, text)
            shutil.rmtree(folder)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    return subjects


def _stop_before_machine_code() -> None:
    """`compile` ends where the plan and its kernels are made: machine code of thousands of models takes
    hours.
    """
    from aqd_deploy.compiler import lower
    from aqd_deploy.errors import AqdError

    def accepted(*_: object) -> None:
        raise AqdError("accepted")

    lower.lower_relax = accepted


def run_case(seed: int, number: int, subjects: list[Subject], folder: Path) -> tuple[str, str]:
    """What is wrong with case `number` ("" where nothing is), and what the case is."""
    rng = random.Random(f"{seed}:{number}")
    subject = rng.choices(subjects, [each.weight for each in subjects])[0]
    reader = rng.choice(subject.readers)
    how = _write_damaged(folder, subject, rng)
    named = reader if isinstance(reader, tuple) else (reader.__name__,)
    case = f"{subject.kind}, {how}: {' '.join(named)}"
    before = _listing(folder)
    code, text = _call(reader, folder)
    return _problem(code, text, before, _listing(folder)), case


def _write_damaged(folder: Path, subject: Subject, rng: random.Random) -> str:
    draw = rng.random()
    if draw < 0.02:
        _write(folder, subject, None)
        return _instead_of_a_file(folder / subject.name, rng)
    if draw < 0.55:
        _write(folder, subject, subject.damage(subject.content, rng))
        return "its form kept"
    _write(folder, subject, mutations.damage_bytes(subject.content, rng))
    return "bytes"


def _write(folder: Path, subject: Subject, content: bytes | None) -> None:
    (folder / "tmp").mkdir()
    for name, data in {**subject.beside, subject.name: content}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if data is not None:
            (folder / name).write_bytes(data)


def _instead_of_a_file(path: Path, rng: random.Random) -> str:
    kind = rng.choice(("folder", "fifo", "socket", "device", "loop", "dangling", "empty"))
    match kind:
        case "folder":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case "socket":
            with socket.socket(socket.AF_UNIX) as server, contextlib.chdir(path.parent):
                server.bind(path.name)
        case "empty":
            path.write_bytes(b"")
        case _:
            path.symlink_to({"device": "/dev/zero", "loop": path.name, "dangling": "nothing"}[kind])
    return kind


def _listing(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def _call(reader: object, folder: Path) -> tuple[int, str]:
    """Exit code and stderr of a reader in `folder`."""
    from aqd_deploy.cli.main import invoke, sentence_of

    os.environ["AQD_DEPLOY_TARGETS"] = str(folder / "targets")
    tempfile.tempdir = str(folder / "tmp")
    told = io.StringIO()
    # As strict as a terminal: half a surrogate cannot be printed.
    printed = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(told):
        try:
            if isinstance(reader, tuple):
                code = invoke([_path(part, folder) for part in reader])
            else:
                reader(folder)
                code = 0
        except Exception as error:
            if isinstance(reader, tuple):
                traceback.print_exc()
            print(f"error: {sentence_of(error)}", file=told)
            code = 1
    tempfile.tempdir = None
    return code, told.getvalue()


def _path(part: str, folder: Path) -> str:
    return str(folder / part[1:-1]) if part.startswith("{") else part


def _problem(code: int, text: str, before: set[str], after: set[str]) -> str:
    if code not in (0, 1, 3):
        return f"exit code {code}: {text[-300:]}"
    if "Traceback" in text or "unexpected" in text or "out of memory" in text:
        return text[-400:]
    lines = text.strip().splitlines()
    if code and (
        not lines
        or not lines[-1].startswith("error: ")
        or sum(line.startswith("error: ") for line in lines) != 1
    ):
        return f"no single sentence: {text[-300:]}"
    left = {
        name
        for name in after - before
        if not (code == 0 and name.startswith("out")) and "__pycache__" not in name
    }
    # A folder of records gets a lock file when it is opened for writing, which --dry-run does not do.
    return f"left behind: {sorted(left)}" if left else ""


if __name__ == "__main__":
    main()
