"""The data of a program: where arrays lie, and that the linked functions find them."""

import ctypes

import numpy as np
import pytest

from aqd_deploy.compiler.program_data import ProgramData
from aqd_deploy.compiler.toolchain import native_toolchain
from aqd_deploy.kernels.contract.function import DATA_SYMBOL, HUGE_PAGES_SYMBOL

# The program's functions are hidden: only something in the same library reaches them.
DOOR = f"""
#include <stdint.h>
#ifdef __cplusplus
extern "C" {{
#endif
const void* {DATA_SYMBOL}(int64_t at);
int32_t {HUGE_PAGES_SYMBOL}(void* data, int64_t bytes);
const void* find(int64_t at) {{ return {DATA_SYMBOL}(at); }}
int32_t reserve(void* data, int64_t bytes) {{ return {HUGE_PAGES_SYMBOL}(data, bytes); }}
#ifdef __cplusplus
}}
#endif
"""


@pytest.mark.parametrize("name", ["plain", 'a "b" c\\d %s {x}'])
def test_the_library_holds_the_arrays(name, tmp_path):
    folder = tmp_path / name
    folder.mkdir()
    data = ProgramData()
    arrays = [
        np.arange(100, dtype=np.uint8),
        np.array([-(2**62), 5], np.int64),
        np.zeros(0, np.uint64),
        np.arange(33, dtype=np.uint32),
    ]
    places = [data.add(array) for array in arrays]
    assert data.add(arrays[1].copy()) == places[1]
    assert all(place % 64 == 0 for place in places)
    door = tmp_path / "door.c"
    door.write_text(DOOR)
    native_toolchain().link(tmp_path / "data.so", [data.write_source(folder), door])
    library = ctypes.CDLL(str(tmp_path / "data.so"))
    library.find.restype = ctypes.c_void_p
    library.find.argtypes = [ctypes.c_int64]
    assert library.find(0) % 64 == 0
    for place, array in zip(places, arrays, strict=True):
        assert ctypes.string_at(library.find(place), array.nbytes) == array.tobytes()


@pytest.mark.parametrize("size", [1, 5000, 9_000_001])
def test_memory_stays_what_it_is(size, tmp_path):
    """Wherever it begins and ends, nothing outside it is touched and nothing in it is lost."""
    data = ProgramData()
    data.add(np.zeros(1, np.uint8))
    door = tmp_path / "door.c"
    door.write_text(DOOR)
    native_toolchain().link(tmp_path / "data.so", [data.write_source(tmp_path), door])
    library = ctypes.CDLL(str(tmp_path / "data.so"))
    library.reserve.argtypes = [ctypes.c_void_p, ctypes.c_int64]
    memory = np.random.default_rng(size).integers(0, 256, size + 100, np.uint8)
    before = memory.copy()
    library.reserve(memory.ctypes.data + 33, size)
    np.testing.assert_array_equal(memory, before)
