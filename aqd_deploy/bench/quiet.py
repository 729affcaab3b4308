"""Foreign libraries print on the process's stdout, which is for data."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from aqd_deploy.files import temporary_root


@contextmanager
def native_output_hidden() -> Iterator[Callable[[], str]]:
    """Send what is written to the descriptors of stdout and stderr to a file while the block runs.

    Yields a function that returns what has been written so far.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    with tempfile.TemporaryFile(dir=temporary_root()) as file:
        saved = os.dup(1), os.dup(2)
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)

        def written() -> str:
            size = os.fstat(file.fileno()).st_size
            return os.pread(file.fileno(), size, 0).decode(errors="replace")

        try:
            yield written
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, copy in zip((1, 2), saved, strict=True):
                os.dup2(copy, number)
                os.close(copy)
