"""The constant bytes of a program: a section of its library, which the system maps and no one copies.

As constants of the virtual machine they would be copied three times before the first kernel reads them.
"""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path

import numpy as np

from aqd_deploy.kernels.contract.function import DATA_SYMBOL, HUGE_PAGES_SYMBOL

_ALIGNMENT = 64
# Both symbols are hidden: the libraries of two programs in one process have one each.
_SOURCE = """\
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

#define AQD_HIDDEN __attribute__((visibility("hidden")))

__asm__(
    ".section .rodata.aqd, \\"a\\", %progbits\\n"
    ".balign {alignment}\\n"
    ".hidden aqd_bytes\\n"
    ".globl aqd_bytes\\n"
    "aqd_bytes:\\n"
    ".incbin \\"{path}\\"\\n"
    ".previous\\n");

#ifdef __cplusplus
extern "C" {{
#endif

extern const unsigned char aqd_bytes[] AQD_HIDDEN;

AQD_HIDDEN const void* {data}(int64_t at) {{ return aqd_bytes + at; }}

/* Memory that has not been touched yet comes in large pages from now on, where the system has them. */
AQD_HIDDEN int32_t {huge_pages}(void* data, int64_t bytes) {{
  const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
  const uintptr_t begin = ((uintptr_t)data + page - 1) / page * page;
  const uintptr_t end = ((uintptr_t)data + (uintptr_t)bytes) / page * page;
  return end > begin ? madvise((void*)begin, end - begin, MADV_HUGEPAGE) : 0;
}}

#ifdef __cplusplus
}}
#endif
"""


class ProgramData:
    """Arrays one behind the other, each at a multiple of 64 bytes; equal ones are there once."""

    def __init__(self) -> None:
        self.bytes = 0
        self._places: dict[Hashable, int] = {}
        self._arrays: list[np.ndarray] = []

    def add(self, array: np.ndarray) -> int:
        """The byte at which `array` begins."""
        content = array.tobytes()
        if content not in self._places:
            padded = np.frombuffer(
                content.ljust(-(-len(content) // _ALIGNMENT) * _ALIGNMENT, b"\0"), np.uint8
            )
            self._places[content] = self.bytes
            self._arrays.append(padded)
            self.bytes += padded.size
        return self._places[content]

    def content(self) -> bytes:
        """All bytes, in order."""
        return b"".join(array.tobytes() for array in self._arrays)

    def write_source(self, folder: Path) -> Path:
        """The C source, written to `folder`, of the section and of the functions that give access to it."""
        binary, source = folder / "program_data.bin", folder / "program_data.c"
        binary.write_bytes(self.content())
        path = str(binary.resolve()).replace("\\", "\\\\\\\\").replace('"', '\\\\\\"')
        names = {"data": DATA_SYMBOL, "huge_pages": HUGE_PAGES_SYMBOL}
        source.write_text(_SOURCE.format(alignment=_ALIGNMENT, path=path, **names), encoding="utf-8")
        return source
