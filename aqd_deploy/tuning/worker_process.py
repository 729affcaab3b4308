"""The main module of TVM's worker processes: it binds them to their parent before it imports TVM.

python -m aqd_deploy.tuning.worker_process PARENT READ_DESCRIPTOR WRITE_DESCRIPTOR
"""

from __future__ import annotations

import sys
from contextlib import suppress

from aqd_deploy.processes import end_with_parent


def main() -> None:
    """Answer calls until the pipe ends."""
    end_with_parent(int(sys.argv.pop(1)))
    from tvm.exec import popen_worker

    with suppress(OSError):
        popen_worker.main()


if __name__ == "__main__":
    main()
