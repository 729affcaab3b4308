"""The pixels of a convolution as one long run, so that sixteen neighbours of it are the rows of a tile.

The input lies in a frame: padded rows of all maps one behind the other. Rows share their padding, the right
one of a row is the left one of the next. Then output pixels, numbered with what lies between the rows
(`FramedMap.pitch`), have their samples at equal distances, and a tile may begin at any of them; what belongs
to no output pixel is computed and never stored. With a vertical stride of s, the rows of a kernel row lie in
planes of their own: row r is row r // s of plane r % s.

Where kernel rows are short, several lie in one row of the frame, which holds windows (`amx.fold`).

A convolution without padding, of 1x1 and stride 1, reads its input as it lies.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from aqd_deploy.kernels.contract.spec import ConvSpec, Map
from aqd_deploy.kernels.cpu.amx.fold import columns_of, folded, folded_rows
from aqd_deploy.kernels.cpu.amx.tiles import ROW_BYTES


@dataclass(frozen=True)
class FramedMap:
    """A map in the frame. `base`: its first pixel in each plane; `width`: pixels from row to row of a plane;
    `rows` of each plane, the first is `first_row` of all; `pitch`: numbers from output row to output row;
    `count` of numbers; `first_tile` and `tiles`: the tiles that hold them.

    A row is `left` pixels of padding, `inside` ones of the input and `right` of padding, of which the next
    row writes the last over where they are its left ones.
    """

    map: Map
    level: int
    base: int
    width: int
    rows: int
    first_row: int
    pitch: int
    count: int
    first_tile: int
    tiles: int
    left: int = 0
    inside: int = 0
    right: int = 0


@dataclass(frozen=True)
class Frame:
    """The maps of `spec` cut into tiles of `pixels`. `fold`: kernel rows that lie in one; where more than 1,
    `spec` is what `amx.fold` makes of the convolution.
    """

    spec: ConvSpec
    pixels: int
    fold: int = 1

    @classmethod
    def of(cls, spec: ConvSpec, pixels: int) -> Frame:
        """The frame of a convolution, folded where that saves steps."""
        fold = folded_rows(spec)
        return cls(folded(spec, fold), pixels, fold)

    @property
    def copies(self) -> bool:
        """Whether there is a frame apart from the input."""
        spec = self.spec
        pixels = spec.height * spec.width
        plain = self.fold == 1 and spec.kernel == (1, 1) and spec.strides == (1, 1) and not any(spec.pads)
        return not (plain and spec.in_channels % ROW_BYTES == 0 and pixels >= self.pixels)

    @cached_property
    def maps(self) -> tuple[FramedMap, ...]:
        found: list[FramedMap] = []
        base = first_row = first_tile = 0
        for level, m in enumerate(self.spec.maps):
            framed = self._framed(m, level, base, first_row, first_tile)
            found.append(framed)
            base += framed.rows * framed.width
            first_row += framed.rows
            first_tile += framed.tiles
        return tuple(found)

    def _framed(self, m: Map, level: int, base: int, first_row: int, first_tile: int) -> FramedMap:
        spec = self.spec
        if not self.copies:
            count = m.out_height * m.out_width
            tiles = -(-count // self.pixels)
            return FramedMap(
                m,
                level,
                m.in_start,
                m.out_width,
                m.out_height,
                first_row,
                m.out_width,
                count,
                first_tile,
                tiles,
            )
        down, across = spec.strides
        rows = (m.out_height - 1) * down + (spec.kernel[0] - 1) * spec.dilations[0] + 1
        left, inside, right = columns_of(spec, m)
        pitch = max(-(-(inside + max(left, right)) // across), m.out_width)
        width = pitch * across
        count = (m.out_height - 1) * pitch + m.out_width
        return FramedMap(
            m,
            level,
            base,
            width,
            -(-rows // down),
            first_row,
            pitch,
            count,
            first_tile,
            -(-count // self.pixels),
            left,
            inside,
            right,
        )

    @property
    def tiles(self) -> int:
        """Tiles of all maps."""
        return self.maps[-1].first_tile + self.maps[-1].tiles

    def last_number(self, framed: FramedMap) -> int:
        """The last number that a tile of a map may begin at: those of an input that is read as it lies are
        shifted back inside it.
        """
        if self.copies:
            return (framed.tiles - 1) * self.pixels
        return self.spec.height * self.spec.width - self.pixels - framed.base

    @property
    def planes(self) -> tuple[int, ...]:
        """The planes that the kernel reads."""
        spec = self.spec
        return tuple(sorted({ky * spec.dilations[0] % spec.strides[0] for ky in range(spec.kernel[0])}))

    @property
    def reach(self) -> int:
        """Rows of a plane from that of an output row's first samples to that of its last."""
        return (self.spec.kernel[0] - 1) * self.spec.dilations[0] // self.spec.strides[0]

    @property
    def behind(self) -> int:
        """Pixels that a tile reads from its last one on, that one among them."""
        spec = self.spec
        return (spec.kernel[1] - 1) * spec.dilations[1] + 1 + ROW_BYTES // spec.in_channels

    def part(self, index: int, parts: int) -> tuple[int, int]:
        """Tiles of one of `parts` parts: the first, and the one behind the last."""
        return index * self.tiles // parts, (index + 1) * self.tiles // parts

    def first_row(self, tile: int) -> tuple[FramedMap, int]:
        """The map of a tile, and the row of its planes that the tile's first pixel has samples in."""
        found = self._of_tile(tile)
        return found, (tile - found.first_tile) * self.pixels * self.spec.strides[1] // found.width

    def last_row(self, tile: int) -> tuple[FramedMap, int]:
        """The same of the tile's last pixel, its last samples."""
        found = self._of_tile(tile)
        last = min((tile + 1 - found.first_tile) * self.pixels, found.count) - 1
        row = last * self.spec.strides[1] // found.width + self.reach
        return found, min(row, found.rows - 1)

    def _of_tile(self, tile: int) -> FramedMap:
        return next(m for m in reversed(self.maps) if m.first_tile <= tile)

    def plane_pixels(self, parts: int) -> int:
        """Pixels of a plane that the largest of `parts` parts fills or reads, with what tiles read behind."""
        spec = self.spec
        most = 0
        for index in range(parts):
            lo, hi = self.part(index, parts)
            if lo == hi:
                continue
            first, row = self.first_row(lo)
            origin = first.base + row * first.width
            last, row = self.last_row(hi - 1)
            written = last.base + (row + 1) * last.width + last.left + last.right
            end = (hi - last.first_tile) * self.pixels
            read = last.base + end * spec.strides[1] + self.reach * last.width + self.behind
            most = max(most, written - origin, read - origin)
        return most

    def origin(self, index: int, parts: int) -> int:
        """The pixel of a plane at which a part's first row begins."""
        lo, hi = self.part(index, parts)
        if lo == hi:
            return 0
        first, row = self.first_row(lo)
        return first.base + row * first.width

    def rows_of(self, index: int, parts: int) -> list[tuple[int, int]]:
        """Of each map the rows of its planes that a part needs: the first, and the one behind the last."""
        lo, hi = self.part(index, parts)
        if lo == hi:
            return [(0, 0) for _ in self.maps]
        first, first_row = self.first_row(lo)
        last, last_row = self.last_row(hi - 1)
        found = []
        for m in self.maps:
            begin = first_row if m is first else 0
            end = last_row + 1 if m is last else m.rows
            inside = first.level <= m.level <= last.level
            found.append((begin, end) if inside else (0, 0))
        return found
