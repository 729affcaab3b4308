// Weights from what a program stores to what convolutions read, once when it is loaded.
#pragma once
#include "movement.cuh"

// Codes of `bits` bits, in the order [out][tap][in], are the weights offset + step·code. `chunk`: channels of a chunk of
// the depth; `ch` and `group` order the columns (`conv.cuh`); `tile` and `bk` are those of TILES. `form`: what is written
// of a weight.
struct UnpackArgs {
  const uint8_t *codes;
  int8_t *out;
  int count, bits, offset, step, out_channels, in_channels, taps, depth, chunk, ch, group, form, tile, bk;
};
enum WeightForm { AS_STORED, DOUBLED, HALVED };  // w, 2·w + 1, (w - 1) / 2
AQD_DEVICE int aqd_weight(const UnpackArgs &p, int out, int tap, int in) {
  if (out >= p.out_channels || in >= p.in_channels) return 0;
  const long long bit = ((long long)(out * p.taps + tap) * p.in_channels + in) * p.bits;
  const uint8_t *byte = p.codes + bit / 8;
  const int two = byte[0] | (bit % 8 + p.bits > 8 ? byte[1] << 8 : 0);
  const int value = p.offset + p.step * (two >> bit % 8 & ((1 << p.bits) - 1));
  return p.form == DOUBLED ? 2 * value + 1 : p.form == HALVED ? (value - 1) / 2 : value;
}
// MATRIX: [column][depth]. HALVES: the same, two weights a byte (`Tile`). DIRECT: [tap][in][depth], where the depth is the output channels' pitch.
// TILES: [tile of columns][step of bk][column][bk], the 16 bytes of a row placed as in shared memory.
enum Order { MATRIX, HALVES, DIRECT, TILES };
template <Order ORDER> AQD_DEVICE void unpack(const UnpackArgs &p) {
  const int index = aqd_index();
  if (index >= p.count) return;
  if (ORDER == DIRECT) {
    const int rest = index / p.depth;
    p.out[index] = (int8_t)aqd_weight(p, index % p.depth, rest / p.in_channels, rest % p.in_channels);
    return;
  }
  const int bytes = ORDER == HALVES ? p.depth / 2 : p.depth;
  int column = index / bytes, at = index % bytes;
  if (ORDER == HALVES) at = at / 32 * 64 + at % 32;
  if (ORDER == TILES) {
    const int row = index / p.bk % p.tile, tiles = index / p.bk / p.tile, byte = index % p.bk;
    const int chunk = byte / 16 ^ (p.bk == 128 ? row & 7 : row >> 1 & 3);
    column = tiles / (p.depth / p.bk) * p.tile + row;
    at = tiles % (p.depth / p.bk) * p.bk + chunk * 16 + byte % 16;
  }
  const int inside = column % p.group, e = inside / 8 * 2 + inside % 2, t = inside % 8 / 2;
  const int out = column - inside + e / p.ch * 4 * p.ch + t * p.ch + e % p.ch;
  auto weight = [&](int k) { return aqd_weight(p, out, k / p.chunk % p.taps, k / p.chunk / p.taps * p.chunk + k % p.chunk); };
  p.out[index] = (int8_t)(ORDER == HALVES ? (weight(at) & 15) | weight(at + 32) << 4 : weight(at));
}

// Rice codes (`storage.rice_codes`): a thread has a chunk of 4096.
struct RiceArgs {
  const uint32_t *words;
  const int *starts;
  uint8_t *codes;
  int count, centre, shift, unused;
};
AQD_DEVICE void expand_rice(const RiceArgs &p) {
  const int first = aqd_index() * 4096, last = aqd_least(first + 4096, p.count);
  if (first >= p.count) return;
  uint32_t position = p.starts[aqd_index()];
  for (int i = first; i < last; i++) {
    const uint64_t two = p.words[position / 32] | (uint64_t)p.words[position / 32 + 1] << 32;
    const uint32_t window = (uint32_t)(two >> position % 32);
    int ones = 0;
    while (window >> ones & 1) ones++;
    const int folded = ones << p.shift | (int)(window >> (ones + 1) & ((1u << p.shift) - 1));
    p.codes[i] = (uint8_t)(p.centre + (folded >> 1 ^ -(folded & 1)));
    position += ones + 1 + p.shift;
  }
}
