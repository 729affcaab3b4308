// Convolution by matrix products: mma.sync m16n8k32 and a pipeline of asynchronous copies, for sm_80 and later.
//
// WALK says how a step finds its input:
//  - CHUNK: a step is one tap of a chunk of BK channels; the pitch is a multiple of BK, and there are at most 32 taps.
//  - MIXED: each 16 bytes of a step have a tap of their own: any channels, any kernel. A chunk is the whole pitch.
//  - HALO: 3x3, stride and dilation 1, pads 1, chunks of BK; a step is a kernel row of a chunk. Its three taps read one
//    run of BM + 2 pixels, shifted, and rows of zeros where that would wrap around an edge.
// ODD: weights are 2·w + 1 with w the int8 that are stored: twice the product and the sum of the window, which a product
// with ones gives to the thread that needs it.
#pragma once
#include "conv.cuh"
#ifndef AQD_BREAK
#define AQD_BREAK 0  // tests break the kernel: 1 no barrier in the pipeline, 2 a wrong fragment, 3 a group too few waited for
#endif
enum Walk { CHUNK, MIXED, HALO };

template <class T, Walk WALK> struct Sizes {
  enum { KX = WALK == HALO ? 3 : 1, PATCH = WALK == HALO ? T::BM + 2 : (int)T::BM };
  enum { SIZE_A = (PATCH * T::BK + 1023) / 1024 * 1024, STAGE = SIZE_A + KX * T::BN * T::BK };
};

// The copies of one thread: the same 16 bytes of every STEP-th row, and of the columns.
template <class T, Walk WALK, class Args> struct Copier {
  typedef Sizes<T, WALK> S;
  enum { STEP = T::THREADS / T::CHUNKS, ROWS_A = (S::PATCH + STEP - 1) / STEP, ROWS_B = (T::BN + STEP - 1) / STEP };
  int at[ROWS_A], y[ROWS_A], x[ROWS_A];  // MIXED: of the first tap; otherwise y has a bit a tap
  int chunk, first, tap_y, tap_x, inside, depth;
  const int8_t *w;

  AQD_MEMBER void begin(const Args &p, const Level &l, int row_tile, int col_tile, int step, int tid) {
    chunk = tid % T::CHUNKS;
    first = tid / T::CHUNKS;
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
    depth = p.steps * T::BK;
    w = p.w + (long long)(col_tile * T::BN + first) * depth + chunk * 16 + step * S::KX * T::BK;
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
#pragma unroll
    for (int k = 0; k < S::KX; k++)
#pragma unroll
      for (int i = 0; i < ROWS_B; i++) {
        const int r = first + i * STEP;
        if (T::BN % STEP && i == ROWS_B - 1 && r >= T::BN) break;
        aqd_copy_async(s + S::SIZE_A + k * T::BN * T::BK + aqd_place<T::BK>(r, chunk),
                       w + (long long)i * STEP * depth + (step * S::KX + k) * T::BK, 16);
      }
    if (WALK == MIXED) settle(p, T::BK);
    else if (WALK == HALO) { if (++tap_y == 3) { tap_y = 0; inside += T::BK; } }
    else if (++tap_x == p.kernel_w) { tap_x = 0; if (++tap_y == p.kernel_h) { tap_y = 0; inside += T::BK; } }
  }
};

// The accumulators and fragments of one thread.
template <class T, Walk WALK, bool SIGNED, bool ODD> struct Products {
  typedef Sizes<T, WALK> S;
  enum { PER = T::BK / 32 / T::SPLIT, KK = S::KX * PER };
  int acc[T::MT][T::NT][4], window[ODD ? T::MT : 1][4], a[2][T::MT][4], b[2][T::NT / 2][4];
  int la, ka, lb, kb, part, left, right;  // the row and half that this lane names: of A (rows 0-15), of B (columns 0-7 twice)

  AQD_MEMBER void begin(const Level &l, int row_tile, int row0, int col0, int lane, int part_) {
    la = row0 + lane % 16; ka = lane / 16;
    lb = col0 + lane % 8 + lane / 16 * 8; kb = lane / 8 % 2;
    part = part_;
    left = right = 0;
    if (WALK == HALO)
#pragma unroll
      for (int i = 0; i < T::MT; i++) {
        const int x = (row_tile * T::BM + la + i * 16) % l.w;
        left |= (x == 0) << i;
        right |= (x == l.w - 1) << i;
      }
#pragma unroll
    for (int i = 0; i < T::MT; i++)
#pragma unroll
      for (int k = 0; k < 4; k++) {
        if (ODD) window[ODD ? i : 0][k] = 0;
#pragma unroll
        for (int j = 0; j < T::NT; j++) acc[i][j][k] = 0;
      }
  }
  AQD_MEMBER void load(const unsigned char *stage, const unsigned char *zeros, int kk, int to) {
    const int x = kk / PER, k = T::SPLIT == 1 ? kk % PER : kk + part * PER, moved = la + x;
#pragma unroll
    for (int i = 0; i < T::MT; i++) {
      const bool edge = WALK == HALO && (x == 0 ? left >> i & 1 : x == 2 ? right >> i & 1 : 0);
      aqd_load_matrices(a[to][i], edge ? zeros : stage + aqd_place<T::BK>(moved, 2 * k + ka) + i * 16 * T::BK);
    }
    const unsigned char *columns = stage + S::SIZE_A + x * T::BN * T::BK + aqd_place<T::BK>(lb, 2 * k + kb);
#pragma unroll
    for (int j = 0; j < T::NT / 2; j++) aqd_load_matrices(b[to][j], columns + j * 16 * T::BK);
  }
  AQD_MEMBER void multiply(int from) {
    const int ones[2] = {0x01010101, 0x01010101};
#pragma unroll
    for (int i = 0; i < T::MT; i++) {
      if (ODD) aqd_multiply_matrices<SIGNED>(window[ODD ? i : 0], a[from][i], ones);
#pragma unroll
      for (int j = 0; j < T::NT; j++)
        aqd_multiply_matrices<SIGNED>(acc[i][j], a[from][i], b[from][(j / 2 + (AQD_BREAK == 2)) % (T::NT / 2)] + j % 2 * 2);
    }
  }
  AQD_MEMBER void end() {
    if (ODD)
#pragma unroll
      for (int i = 0; i < T::MT; i++)
#pragma unroll
        for (int j = 0; j < T::NT; j++)
#pragma unroll
          for (int k = 0; k < 4; k++) acc[i][j][k] = 2 * acc[i][j][k] + window[ODD ? i : 0][k];
  }
};

// The sums of the parts of a block meet in shared memory, in part 0.
template <class T> AQD_DEVICE void aqd_join_parts(int (&acc)[T::MT][T::NT][4], unsigned char *shared, int part, int member) {
  int4 *sums = (int4 *)shared;
#pragma unroll
  for (int s = 1; s < T::SPLIT; s++) {
    __syncthreads();
    if (part == s)
#pragma unroll
      for (int i = 0; i < T::MT; i++)
#pragma unroll
        for (int j = 0; j < T::NT; j++)
          sums[(i * T::NT + j) * T::GROUP + member] = int4{acc[i][j][0], acc[i][j][1], acc[i][j][2], acc[i][j][3]};
    __syncthreads();
    if (part == 0)
#pragma unroll
      for (int i = 0; i < T::MT; i++)
#pragma unroll
        for (int j = 0; j < T::NT; j++) {
          const int4 v = sums[(i * T::NT + j) * T::GROUP + member];
          acc[i][j][0] += v.x; acc[i][j][1] += v.y; acc[i][j][2] += v.z; acc[i][j][3] += v.w;
        }
  }
}
// The sums of the blocks that share a tile meet in memory. The last to arrive has them all, and leaves zeros.
template <class T> AQD_DEVICE bool aqd_join_blocks(int (&acc)[T::MT][T::NT][4], int *sums, int *arrived, int splits, int *shared) {
#pragma unroll
  for (int i = 0; i < T::MT * T::NT * 4; i++)
    atomicAdd(sums + i * T::GROUP + threadIdx.x, acc[i / (T::NT * 4)][i / 4 % T::NT][i % 4]);
  __threadfence();
  aqd_meet_first<T::GROUP>();
  if (threadIdx.x == 0) *shared = atomicAdd(arrived, 1) == splits - 1;
  aqd_meet_first<T::GROUP>();
  if (!*shared) return false;
  if (threadIdx.x == 0) *arrived = 0;
  __threadfence();
#pragma unroll
  for (int i = 0; i < T::MT * T::NT * 4; i++) {
    acc[i / (T::NT * 4)][i / 4 % T::NT][i % 4] = aqd_load_fresh(sums + i * T::GROUP + threadIdx.x);
    sums[i * T::GROUP + threadIdx.x] = 0;
  }
  return true;
}

template <class T, Walk WALK, bool SIGNED, bool ODD, class E> AQD_DEVICE void conv_mma(const ConvArgs<E::TENSORS> &p) {
  typedef Sizes<T, WALK> S;
  AQD_SHARED(shared);
  unsigned char *zeros = shared + T::STAGES * S::STAGE;
  const int tid = threadIdx.x, lane = tid % 32, warp = tid % T::GROUP / 32, part = tid / T::GROUP;
  const int split = blockIdx.x % p.splits, tile = blockIdx.x / p.splits, col_tile = tile % p.blocks;
  int row_tile = tile / p.blocks, which = 0;
  while (row_tile >= p.level[which].tiles) which++;
  const Level l = p.level[which];
  if (which) row_tile -= p.level[which - 1].tiles;
  const int all = p.steps / S::KX, begin = all * split / p.splits, steps = all * (split + 1) / p.splits - begin;

  Copier<T, WALK, ConvArgs<E::TENSORS>> copier;
  copier.begin(p, l, row_tile, col_tile, begin, tid);
  const int row0 = warp / (T::BN / T::WN) * T::WM, col0 = warp % (T::BN / T::WN) * T::WN;
  Products<T, WALK, SIGNED, ODD> products;
  products.begin(l, row_tile, row0, col0, lane, part);
  if (WALK == HALO) for (int i = tid; i < 4; i += T::THREADS) ((int *)zeros)[i] = 0;
#pragma unroll
  for (int s = 0; s < T::STAGES - 1; s++) {
    if (s < steps) copier.copy(p, l, s, shared + s * S::STAGE);
    aqd_copies_commit();
  }
  int slot = 0, fill = T::STAGES - 1;
  auto meet = [&] {
    aqd_copies_wait<T::STAGES - 2 + (AQD_BREAK == 3)>();
    if (AQD_BREAK != 1) __syncthreads();
  };
  auto refill = [&](int step) {
    if (step + T::STAGES - 1 < steps) copier.copy(p, l, step + T::STAGES - 1, shared + fill * S::STAGE);
    aqd_copies_commit();
    fill = fill + 1 == T::STAGES ? 0 : fill + 1;
  };
  constexpr int KK = Products<T, WALK, SIGNED, ODD>::KK;
  static_assert(KK == 1 || KK % 2 == 0, "fragments alternate between two sets of registers");
  if constexpr (KK == 1) {
    for (int step = 0; step < steps; step++) {
      meet();
      refill(step);
      products.load(shared + slot * S::STAGE, zeros, 0, 0);
      products.multiply(0);
      slot = slot + 1 == T::STAGES ? 0 : slot + 1;
    }
  } else {
    meet();
    products.load(shared, zeros, 0, 0);
    for (int step = 0; step < steps; step++)
#pragma unroll
      for (int kk = 0; kk < KK; kk++) {  // fragments of the next part are loaded while this one is multiplied
        if (kk == KK - 1) {
          slot = slot + 1 == T::STAGES ? 0 : slot + 1;
          meet();
        }
        products.load(shared + slot * S::STAGE, zeros, (kk + 1) % KK, (kk + 1) % 2);
        if (kk == 0) refill(step);
        products.multiply(kk % 2);
      }
  }
  products.end();
  if (T::SPLIT > 1) {
    aqd_copies_wait<0>();
    aqd_join_parts<T>(products.acc, shared, part, tid % T::GROUP);
    if (part) return;
  }
  if (p.splits > 1) {
    aqd_copies_wait<0>();
    aqd_meet_first<T::GROUP>();
    const long long sums = (long long)tile * T::BM * T::BN;
    if (!aqd_join_blocks<T>(products.acc, p.sums + sums, p.arrived + tile, p.splits, (int *)shared)) return;
  }
  aqd_finish_tile<T::MT, T::NT, T::CH, E>(p, l, which, products.acc, row_tile * T::BM + row0 + lane / 4, col_tile * T::BN + col0,
                                          lane % 4);
}
