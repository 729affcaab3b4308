"""C++ of asynchronous matrix products (wgmma): one function a width; PTX wants every register by its name."""

from __future__ import annotations

WIDTHS = (64, 128, 256)


def source() -> str:
    """`aqd_wgmma<SIGNED>(c, a, b)`: c += a·b, 64 rows by a width of columns by 32 bytes. `a` lies in
    registers as for mma.sync, 16 rows a warp; `b` is the descriptor of the columns in shared memory.
    """
    return "".join(_function(width) for width in WIDTHS)


def _function(width: int) -> str:
    tiles = width // 8
    sums = ", ".join(f"%{i}" for i in range(4 * tiles))
    outputs = ", ".join(f'"+r"(c[{i}][{k}])' for i in range(tiles) for k in range(4))
    inputs = ", ".join([*(f'"r"(a[{i}])' for i in range(4)), '"l"(b)'])
    first = 4 * tiles
    rows = ", ".join(f"%{first + i}" for i in range(4))

    def product(kind: str) -> str:
        name = f"wgmma.mma_async.sync.aligned.m64n{width}k32.s32.{kind}.s8"
        return f'asm volatile("{name} {{{sums}}}, {{{rows}}}, %{first + 4}, 1;" : {outputs} : {inputs});'

    arguments = f"int (&c)[{tiles}][4], const int *a, uint64_t b"
    return (
        f"template <bool SIGNED> AQD_DEVICE void aqd_wgmma({arguments}) {{\n"
        f"  if (SIGNED) {product('s8')}\n  else {product('u8')}\n}}\n"
    )
