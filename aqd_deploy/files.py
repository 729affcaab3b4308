"""Output files, and all that is temporary: an output appears whole, what a killed command leaves is swept.

Whatever is not finished lies in an *owned folder* beside the output (whose folder is made where it is not
there yet), or in the system's folder for temporary files: `.aqd-deploy-<kernel>-<random>`, with a file `lock`
in it. The owner holds a lock on that file, which the kernel releases when the owner ends, however it ends. A
finished output is renamed out of the folder. Making an owned folder first removes those beside it whose owner
is gone (`sweep`). What fails on the way is told with the name that people know: of the output, or of the
folder.

A lock and not a process id, because an id is reused and means another process in another container. The lock
is decisive for owners under the same kernel (which the name tells) and on a disk of this machine. A shared
folder may hide the locks of other hosts: there only what is older than a week is taken for abandoned.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import os
import platform
import re
import shutil
import stat
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from aqd_deploy.errors import AqdError, StorageError

_PREFIX = ".aqd-deploy-"
_OWNED = re.compile(re.escape(_PREFIX) + r"(?P<kernel>[0-9a-f]{12})-[a-z0-9_]{8}")
# Within an owned folder: the lock, what is being made, and a folder that is being replaced.
_LOCK, _FILES, _ASIDE = "lock", "files", "aside"
_ABANDONED_SECONDS = 7 * 24 * 3600
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# What a disk answers to a write, and what of that it answers to nothing else.
_WRITING = (*NO_ROOM, errno.EROFS, errno.EIO)
_ONLY_WRITING = (*NO_ROOM, errno.EROFS)


def temporary_root() -> str:
    """The folder that Python would choose for temporary files (TMPDIR, ..., /tmp).

    Python tries it by writing a file, which a process that is killed just then leaves. Raises StorageError
    where there is none.
    """
    first = next((named for key in ("TMPDIR", "TEMP", "TMP") if (named := os.environ.get(key))), "/tmp")
    if tempfile.tempdir is None and os.path.isdir(first) and os.access(first, os.W_OK | os.X_OK):
        return os.path.abspath(first)
    try:
        return tempfile.gettempdir()
    except FileNotFoundError as error:
        raise _no_temporary_files(error) from error


def check_output(output: Path, *inputs: Path, error: type[AqdError] = AqdError) -> None:
    """Fail before the work, not after it: the output must be no folder and no input, and `check_folder`
    must have nothing against its folder. Raises `error`.
    """
    check_folder(output.parent, error)
    if output.is_dir():
        raise error("the output is a folder", received=str(output), valid="the name of a file")
    if any(output.exists() and path.exists() and output.samefile(path) for path in inputs):
        raise error("the output is also an input", received=str(output), valid="another name")


def check_folder(folder: Path, error: type[AqdError] = AqdError) -> None:
    """Raise `error` where `folder`, for an output, is not there and cannot be made, or cannot be written."""
    nearest = next(
        place for place in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(place)
    )
    if not nearest.is_dir():
        raise error("the folder of the output cannot be made", received=str(folder),
                    valid=f"another name: {nearest} is not a folder")  # fmt: skip
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise error(f"cannot write into {nearest}", received=str(folder), valid="a writable folder")


@contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """A block that writes the file `path` and no other: an OSError that names none names it."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or os.fspath(path)
        raise


def failure(
    what: str, error: OSError, kind: type[AqdError] = StorageError, next_command: str | None = None
) -> AqdError:
    """`error` as one of `kind`: what failed, where, and why. Where the disk is full, what to do about that
    comes before `next_command`.
    """
    where = "" if error.filename is None else shown_path(error.filename)
    where = f"{where}: " if where and not what.endswith(where) else ""
    advice = ["free some space there and repeat the command"] if error.errno in NO_ROOM else []
    advice += [next_command] if next_command is not None else []
    return kind(
        what, received=where + (error.strerror or str(error)), next_command=" or ".join(advice) or None
    )


def told_failure(text: str, place: str | os.PathLike[str]) -> OSError | None:
    """The failed write in `place` that another program tells of in `text`; None where it tells something
    else.
    """
    number = next((each for each in _ONLY_WRITING if os.strerror(each) in text), None)
    return None if number is None else OSError(number, os.strerror(number), os.fspath(place))


def shown_path(path: str | bytes | int) -> str:
    """What a person knows of a path: of what lies in an owned folder, the folder that this is in."""
    parts = Path(os.fsdecode(path) if not isinstance(path, int) else str(path)).parts
    owned = next((index for index, part in enumerate(parts) if _OWNED.fullmatch(part)), len(parts))
    return str(Path(*parts[:owned]))


def _no_temporary_files(error: OSError) -> AqdError:
    advice = "the same command with TMPDIR=FOLDER, another folder for temporary files"
    return failure("cannot write temporary files", error, StorageError, advice)


class TemporaryFolder:
    """An empty folder, `path`, in an owned folder in `parent` (default: the system's for temporary files).

    It goes when it is closed, with the object, or with the process; where that is killed, the next one that
    is made in `parent` removes it. `parent` is made where it is not there, and goes again if nothing stays in
    it.

    What cannot be made in it, and what fails in a block of `writing`, raises an OSError that names `output`
    (default: `parent`), which people know; for the system's folder StorageError.
    """

    def __init__(
        self, parent: str | os.PathLike[str] | None = None, output: str | os.PathLike[str] | None = None
    ) -> None:
        self._known = None if parent is None else os.fspath(output or parent)
        # Absolute, because the process may change its folder meanwhile.
        parent = Path(temporary_root() if parent is None else parent).absolute()
        sweep(parent)
        try:
            made: list[Path] = []
            lock: list[int] = []
            while True:
                made += _make_folders(parent)
                self.owned = parent / f"{_PREFIX}{_kernel()}-{os.urandom(4).hex()}"
                # Before there is anything to remove: a signal may come at any moment.
                self._close = weakref.finalize(self, _give_up, self.owned, lock, made, os.getpid())
                if _own(self.owned, lock):
                    break
                self._close.detach()
            self.path = self.owned / _FILES
            self.path.mkdir()
        except OSError as error:
            self._name(error, parent)
            raise

    @contextmanager
    def writing(self) -> Iterator[None]:
        """A block that writes into the folder and nowhere else: of a full disk Python does not say to which
        file.
        """
        try:
            yield
        except OSError as error:
            self._name(error, self.owned, error.errno in _WRITING)
            raise

    def _name(self, error: OSError, place: Path, nameless: bool = False) -> None:
        """Let `error` name what people know where it is about a file in `place`, or about none and `nameless`
        ones are meant. Raises StorageError where that is the system's folder.
        """
        if nameless if error.filename is None else _is_within(error.filename, place):
            error.filename, error.filename2 = self._known or str(place), None
            if self._known is None:
                raise _no_temporary_files(error) from error

    def close(self) -> None:
        """Remove the folder with all that is in it."""
        self._close()

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, _: object, error: BaseException | None, *__: object) -> None:
        try:
            if isinstance(error, OSError):
                self._name(error, self.owned)
        finally:
            self.close()


@contextmanager
def replacing(output: Path) -> Iterator[Path]:
    """A path to write a file to: renamed to `output` on success, removed on failure. The old file or the new
    one is there at any time, whole. Raises OSError, which names `output`.
    """
    owner = TemporaryFolder(output.parent, output)
    with owner as folder, owner.writing():
        temporary = folder / output.name
        yield temporary
        _sync(temporary)
        temporary.replace(output)


def write_text(output: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with replacing(output) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def replacing_folder(output: Path) -> Iterator[Path]:
    """An empty folder to fill: on success it takes the place of `output`, a folder if there, else it goes.

    The kernel exchanges the two at once where it and the file system can; elsewhere there is a moment without
    either, and whoever is killed in it leaves the old one to be put back by the next `sweep`. Raises OSError
    where `output` may not be renamed; it is then as it was.
    """
    temporary = TemporaryFolder(output.parent, output)
    with temporary as folder, temporary.writing():
        new = folder / output.name
        new.mkdir()
        yield new
        _sync_all(new)
        if not output.exists():
            new.rename(output)
        elif not _exchange(new, output):
            aside = temporary.owned / _ASIDE
            aside.mkdir()
            output.rename(aside / output.name)
            # Where this fails, the old one is put back as after a kill.
            new.rename(output)


def made_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """`folder`, named after all that its content depends on: filled by `make`, unless it is there.

    Two processes may make it at once: one of the two stays. Raises OSError, and what `make` raises.
    """
    sweep(folder.parent)
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    owner = TemporaryFolder(folder.parent)
    with owner as temporary, owner.writing():
        new = temporary / folder.name
        new.mkdir()
        make(new)
        _sync_all(new)
        try:
            new.rename(folder)
        except OSError:
            # Another process was faster.
            if not folder.is_dir():
                raise
    return folder


def sweep(parent: Path) -> None:
    """Remove the owned folders in `parent` whose owner is gone. What cannot be removed stays for the next."""
    with suppress(OSError), os.scandir(parent) as entries:
        found = [
            (entry.path, match["kernel"]) for entry in entries if (match := _OWNED.fullmatch(entry.name))
        ]
        for path, kernel in found:
            with suppress(OSError):
                _sweep_one(Path(path), kernel)


def _sweep_one(owned: Path, kernel: str) -> None:
    status = owned.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        return
    try:
        lock = os.open(owned / _LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        # Its owner was killed before it made the lock or after it removed all else; one that is just about to
        # make the lock takes another folder.
        owned.rmdir()
        return
    try:
        old = time.time() - os.fstat(lock).st_mtime > _ABANDONED_SECONDS
        # Major number 0: not a disk of this machine (NFS, a folder of the host in a container or a VM).
        decisive = kernel == _kernel() or os.major(status.st_dev) != 0
        if _take(lock, otherwise=old) and (decisive or old):
            _remove(owned)
    finally:
        os.close(lock)


def _own(owned: Path, held: list[int]) -> bool:
    """Make an owned folder, the descriptor of its lock in `held`; False where another process came first."""
    try:
        owned.mkdir(mode=0o700)
    except FileExistsError:
        return False
    except FileNotFoundError:
        # Either another process removed the empty folder, or no folder can be made in it (as in /proc).
        if owned.parent.is_dir():
            raise
        return False
    try:
        lock = os.open(owned / _LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except (FileExistsError, FileNotFoundError):
        return False
    held.append(lock)
    if _take(lock, otherwise=True) and (owned / _LOCK).exists():
        return True
    os.close(held.pop())
    return False


def _take(lock: int, *, otherwise: bool) -> bool:
    """Whether the lock is ours now; `otherwise` where the file system has no locks."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return otherwise
    return True


def _make_folders(folder: Path) -> list[Path]:
    """Make `folder` and what is missing above it; what was made, the innermost first."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        for each in reversed(missing):
            each.mkdir(exist_ok=True)
    except OSError:
        _remove_empty(missing)
        raise
    return missing


def _remove_empty(folders: list[Path]) -> None:
    with suppress(OSError):
        for folder in folders:
            if folder.exists():
                folder.rmdir()


def _is_within(path: str | bytes | int, folder: Path) -> bool:
    return not isinstance(path, int) and Path(os.fsdecode(path)).absolute().is_relative_to(folder)


def _give_up(owned: Path, held: list[int], made: list[Path], owner: int) -> None:
    if os.getpid() != owner:
        # A forked child has the object, but not the folder.
        return
    try:
        with suppress(OSError):
            _remove(owned)
    except BaseException:
        # What a signal raised here; a second one leaves the rest to the next sweep.
        with suppress(OSError):
            _remove(owned)
        raise
    finally:
        for lock in held:
            os.close(lock)
        _remove_empty(made)


def _remove(owned: Path) -> None:
    """Remove an owned folder, its lock last: what cannot be removed stays swept for. Raises OSError."""
    _put_back(owned)
    for name in (_FILES, _ASIDE):
        if (owned / name).exists():
            shutil.rmtree(owned / name)
    (owned / _LOCK).unlink(missing_ok=True)
    owned.rmdir()


def _put_back(owned: Path) -> None:
    """Return a folder that was moved aside and whose place nothing has taken."""
    if (owned / _ASIDE).exists():
        for old in (owned / _ASIDE).iterdir():
            if not os.path.lexists(owned.parent / old.name):
                old.rename(owned.parent / old.name)


def _exchange(first: Path, second: Path) -> bool:
    """Exchange two paths at once; False where the system cannot. Raises OSError."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:
        return False
    if rename(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL):
        return False
    raise OSError(number, os.strerror(number), str(second))


def _kernel() -> str:
    """12 hexadecimal digits for the running kernel, the same in all its containers."""
    try:
        name = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
    except OSError:
        name = platform.node()
    return hashlib.sha256(name.encode()).hexdigest()[:12]


def _sync_all(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            _sync(path)


def _sync(path: Path) -> None:
    """Wait until a file is on the disk: a rename may get there before the content."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
