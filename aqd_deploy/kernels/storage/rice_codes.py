"""Rice codes of uint8 values, for weights that crowd around one value: fewer bits than they are wide.

A code c becomes its distance z from the centre, folded: 2(c − centre) from there on, 2(centre − c) − 1 below.
z is written as z >> k ones, a zero, and the k lower bits of z, from the lowest bit of the first word on.
Chunks of codes begin at known bits, so that they can be read side by side.
(R. F. Rice, "Some Practical Universal Noiseless Coding Techniques", JPL 79-22, 1979.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CHUNK = 4096
# z < 512: at most 15 ones, a zero and 5 bits, or fewer ones and more bits: within any 32 bits from a byte on.
SHIFTS = (5, 6, 7)


@dataclass(frozen=True, eq=False)
class RiceCodes:
    """`words` uint32 [n], with a spare one behind the last code; `starts` int32 [⌈count / 4096⌉], bits."""

    words: np.ndarray
    starts: np.ndarray
    count: int
    centre: int
    shift: int

    @property
    def nbytes(self) -> int:
        """Bytes of both arrays."""
        return self.words.nbytes + self.starts.nbytes


def encode(codes: np.ndarray) -> RiceCodes:
    """Store uint8 `codes` [n] about their median, with the shift that takes the fewest bits."""
    centre = int(np.median(codes))
    distance = codes.astype(np.int64) - centre
    folded = np.where(distance < 0, -2 * distance - 1, 2 * distance)
    shift = min(SHIFTS, key=lambda k: int((folded >> k).sum()) + k * len(codes))
    ones = folded >> shift
    ends = np.cumsum(ones + 1 + shift)
    first = np.concatenate([[0], ends[:-1]])
    # Ones from `first` to `first + ones`: the running sum of their edges.
    edges = np.zeros(int(ends[-1]) + 1, np.int8)
    edges[first] += 1
    edges[first + ones] -= 1
    bits = np.cumsum(edges, dtype=np.int8)[:-1].astype(np.uint8)
    for j in range(shift):
        bits[first + ones + 1 + j] = folded >> j & 1
    stream = np.packbits(bits, bitorder="little")
    words = np.pad(stream, (0, -stream.size % 4 + 4)).view("<u4")
    return RiceCodes(words, first[::CHUNK].astype(np.int32), len(codes), centre, shift)


def decode(stored: RiceCodes) -> np.ndarray:
    """The codes that `encode` stored: one of every chunk at a time."""
    position = stored.starts.astype(np.int64)
    found = np.zeros((CHUNK, len(position)), np.uint8)
    words = np.append(stored.words, [0, 0]).astype(np.uint64)
    for i in range(CHUNK):
        active = np.arange(len(position)) * CHUNK + i < stored.count
        at = np.where(active, position // 32, 0)
        window = (words[at] | words[at + 1] << np.uint64(32)) >> (position % 32).astype(np.uint64)
        window &= np.uint64(0xFFFFFFFF)
        ones = np.bitwise_count(window ^ (window + np.uint64(1))).astype(np.int64) - 1
        low = (window >> (ones + 1).astype(np.uint64)).astype(np.int64) & ((1 << stored.shift) - 1)
        folded = ones << stored.shift | low
        found[i] = np.where(active, stored.centre + (folded >> 1 ^ -(folded & 1)), 0)
        position += np.where(active, ones + 1 + stored.shift, 0)
    return found.T.reshape(-1)[: stored.count]
