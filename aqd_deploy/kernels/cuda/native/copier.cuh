// How the steps of a convolution come to shared memory.
//
// WALK says how a step finds its input:
//  - CHUNK: a step is one tap of a chunk of BK channels; the pitch is a multiple of BK, and there are at most 32 taps.
//  - MIXED: each 16 bytes of a step have a tap of their own: any channels, any kernel. A chunk is the whole pitch.
//  - HALO: 3x3, stride and dilation 1, pads 1, chunks of BK; a step is a kernel row of a chunk. Its three taps read one
//    run of BM + 2 pixels, shifted, and rows of zeros where that would wrap around an edge.
#pragma once
#include "conv.cuh"
enum Walk { CHUNK, MIXED, HALO };

template <class T, Walk WALK> struct Sizes {
  enum { KX = WALK == HALO ? 3 : 1, PATCH = WALK == HALO ? T::BM + 2 : (int)T::BM };
  enum { SIZE_A = (PATCH * T::BK + 1023) / 1024 * 1024, STAGE = SIZE_A + KX * T::BN * T::BKB };
};

// The copies of one thread: the same 16 bytes of every STEP-th row, and of every STEP_B-th column.
template <class T, Walk WALK, class Args> struct Copier {
  typedef Sizes<T, WALK> S;
  enum { STEP = T::COPIERS / T::CHUNKS, ROWS_A = (S::PATCH + STEP - 1) / STEP };
  enum { CHUNKS_B = T::BKB / 16, STEP_B = T::COPIERS / CHUNKS_B, ROWS_B = (T::BN + STEP_B - 1) / STEP_B };
  int at[ROWS_A], y[ROWS_A], x[ROWS_A];  // MIXED: of the first tap; otherwise y has a bit a tap
  int chunk, first, chunk_b, first_b, tap_y, tap_x, inside, depth;
  const int8_t *w;

  AQD_MEMBER void begin(const Args &p, const Level &l, int row_tile, int col_tile, int step, int tid) {
    chunk = tid % T::CHUNKS;
    first = tid / T::CHUNKS;
    chunk_b = tid % CHUNKS_B;
    first_b = tid / CHUNKS_B;
#pragma unroll
    for (int i = 0; i < ROWS_A; i++) {
      const int r = first + i * STEP, m = row_tile * T::BM + r - (WALK == HALO);
      const bool there = m >= 0 && m < l.rows && r < S::PATCH;
      const Pixel o = aqd_pixel(l, there ? m : 0);
      y[i] = o.y * p.stride_y - p.top;
      x[i] = o.x * p.stride_x - p.left;
      at[i] = WALK == HALO ? (l.in_start + m - l.w) * p.pitch : (l.in_start + (o.n * l.h + y[i]) * l.w + x[i]) * p.pitch;
      if (WALK == MIXED) { if (!there) y[i] = -0x10000000; }
      else y[i] = there ? mask(p, l, y[i], x[i]) : 0;
      if (WALK != MIXED) at[i] += chunk * 16;
    }
    depth = p.steps * T::BKB;
    w = p.w + (long long)(col_tile * T::BN + first_b) * depth + chunk_b * 16 + step * S::KX * T::BKB;
    tap_y = tap_x = 0;
    inside = WALK == MIXED ? chunk * 16 : 0;
    if (WALK == MIXED) settle(p, step * T::BK);
    else {
      const int taps = WALK == HALO ? 3 : p.kernel_h * p.kernel_w, tap = step % taps;
      inside = step / taps * T::BK;
      tap_y = WALK == HALO ? tap : tap / p.kernel_w;
      tap_x = WALK == HALO ? 0 : tap % p.kernel_w;
    }
  }
  // Which taps of a pixel lie inside the map, a bit each; with a halo which kernel rows do.
  static AQD_MEMBER int mask(const Args &p, const Level &l, int y, int x) {
    if (WALK == HALO) return (y >= 0) | 2 | (y + 2 < l.h) << 2;
    int found = 0, bit = 0;
    for (int i = 0; i < p.kernel_h; i++)
      for (int j = 0; j < p.kernel_w; j++, bit++) {
        const int yy = y + i * p.dilation_y, xx = x + j * p.dilation_x;
        found |= (yy >= 0 && yy < l.h && xx >= 0 && xx < l.w) << bit;
      }
    return found;
  }
  AQD_MEMBER void settle(const Args &p, int more) {  // `more` bytes further in the depth
    inside += more;
    while (inside >= p.pitch) {
      inside -= p.pitch;
      if (++tap_x == p.kernel_w) { tap_x = 0; tap_y++; }
    }
  }
  AQD_MEMBER void copy(const Args &p, const Level &l, int step, unsigned char *s) {
    const int offset = WALK == HALO ? inside + tap_y * l.w * p.pitch
                                    : inside + (tap_y * p.dilation_y * l.w + tap_x * p.dilation_x) * p.pitch;
    const int bit = WALK == HALO ? tap_y : tap_y * p.kernel_w + tap_x;
#pragma unroll
    for (int i = 0; i < ROWS_A; i++) {
      const int r = first + i * STEP;
      if (S::PATCH % STEP && i == ROWS_A - 1 && r >= S::PATCH) break;
      int bytes;
      if (WALK == MIXED) {
        const int yy = y[i] + tap_y * p.dilation_y, xx = x[i] + tap_x * p.dilation_x;
        const bool there = tap_y < p.kernel_h && yy >= 0 && yy < l.h && xx >= 0 && xx < l.w;
        bytes = there ? aqd_least(16, p.group_in - inside) : 0;  // what lies behind the channels may be anything
      } else bytes = y[i] >> bit & 1 ? 16 : 0;
      aqd_copy_async(s + aqd_place<T::BK>(r, chunk), p.x + (bytes ? at[i] + offset : 0), bytes);
    }
    if (!T::COLUMNS_APART) {
#pragma unroll
      for (int k = 0; k < S::KX; k++)
#pragma unroll
        for (int i = 0; i < ROWS_B; i++) {
          const int r = first_b + i * STEP_B;
          if (T::BN % STEP_B && i == ROWS_B - 1 && r >= T::BN) break;
          aqd_copy_async(s + S::SIZE_A + k * T::BN * T::BKB + aqd_place<T::BKB>(r, chunk_b),
                         w + (long long)i * STEP_B * depth + (step * S::KX + k) * T::BKB, 16);
        }
    }
    if (WALK == MIXED) settle(p, T::BK);
    else if (WALK == HALO) { if (++tap_y == 3) { tap_y = 0; inside += T::BK; } }
    else if (++tap_x == p.kernel_w) { tap_x = 0; if (++tap_y == p.kernel_h) { tap_y = 0; inside += T::BK; } }
  }
};
