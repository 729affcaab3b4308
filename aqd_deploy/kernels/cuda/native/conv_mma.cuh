// Convolution by matrix products: mma.sync m16n8k32 and a pipeline of asynchronous copies, for sm_80 and later.
//
// With PACK = 2 products are of 4 bits, m16n8k64: activations of 4 bits lie as bytes, and two fragments of them become one.
// ODD: weights are 2·w + 1 with w the int8 that are stored: twice the product and the sum of the window (`Window`).
#pragma once
#include "copier.cuh"
#ifndef AQD_BREAK
#define AQD_BREAK 0  // tests break the kernel: 1 no barrier in the pipeline, 2 a wrong fragment, 3 a group too few waited for, 7 a wrong half of a byte, 8 no fence between blocks
#endif
// The accumulators and fragments of one thread.
template <class T, Walk WALK, bool SIGNED, bool ODD> struct Products {
  typedef Sizes<T, WALK> S;
  enum { PER = T::BKB / 32 / T::SPLIT, KK = S::KX * PER };
  int acc[T::MT][T::NT][4], a[2][T::MT][4], b[2][T::NT / 2][4];
  Window<SIGNED, ODD, T::PACK> window[T::MT];
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
#pragma unroll
        for (int j = 0; j < T::NT; j++) acc[i][j][k] = 0;
      }
  }
  AQD_MEMBER void load(const unsigned char *stage, const unsigned char *zeros, int kk, int to) {
    const int x = kk / PER, k = T::SPLIT == 1 ? kk % PER : kk + part * PER, moved = la + x;
#pragma unroll
    for (int i = 0; i < T::MT; i++) {
      const bool edge = WALK == HALO && (x == 0 ? left >> i & 1 : x == 2 ? right >> i & 1 : 0);
      auto rows = [&](int chunk) { return edge ? zeros : stage + aqd_place<T::BK>(moved, chunk) + i * 16 * T::BK; };
      if (T::PACK == 1) aqd_load_matrices(a[to][i], rows(2 * k + ka));
      else {
        int low[4], high[4];
        aqd_load_matrices(low, rows(4 * k + ka));
        aqd_load_matrices(high, rows(4 * k + 2 * (AQD_BREAK != 7) + ka));
#pragma unroll
        for (int q = 0; q < 4; q++) a[to][i][q] = aqd_join_halves<SIGNED>(low[q], high[q]);
      }
    }
    const unsigned char *columns = stage + S::SIZE_A + x * T::BN * T::BKB + aqd_place<T::BKB>(lb, 2 * k + kb);
#pragma unroll
    for (int j = 0; j < T::NT / 2; j++) aqd_load_matrices(b[to][j], columns + j * 16 * T::BKB);
  }
  AQD_MEMBER void multiply(int from) {
#pragma unroll
    for (int i = 0; i < T::MT; i++) {
      window[i].add(a[from][i]);
#pragma unroll
      for (int j = 0; j < T::NT; j++) {
        const int *columns = b[from][(j / 2 + (AQD_BREAK == 2)) % (T::NT / 2)] + j % 2 * 2;
        if (T::PACK == 1) aqd_multiply_matrices<SIGNED>(acc[i][j], a[from][i], columns);
        else aqd_multiply_halves<SIGNED>(acc[i][j], a[from][i], columns);
      }
    }
  }
  AQD_MEMBER void end() {
#pragma unroll
    for (int i = 0; i < T::MT; i++) window[i].finish(acc[i]);
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
  if (AQD_BREAK != 8) __threadfence();
  aqd_meet_first<T::GROUP>();
  if (threadIdx.x == 0) *shared = atomicAdd(arrived, 1) == splits - 1;
  aqd_meet_first<T::GROUP>();
  if (!*shared) return false;
  if (threadIdx.x == 0) atomicExch(arrived, 0);  // no fence is behind the others' additions to it
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
  constexpr bool EARLY = E::ASKS && T::MT * T::NT <= 16 && T::SPLIT == 1;
  const int m0 = row_tile * T::BM + row0 + lane / 4, group = col_tile * T::BN + col0;
  Asking<T::MT, T::NT, E, EARLY> asking;
  Products<T, WALK, SIGNED, ODD> products;
  products.begin(l, row_tile, row0, col0, lane, part);
  if (WALK == HALO) for (int i = tid; i < 4; i += T::THREADS) ((int *)zeros)[i] = 0;
#pragma unroll
  for (int s = 0; s < T::STAGES - 1; s++) {
    if (s < steps) copier.copy(p, l, s, shared + s * S::STAGE);
    aqd_copies_commit();
  }
  asking.template begin<T::CH>(p, l, which, m0, group, lane % 4);
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
  aqd_finish_tile<T::MT, T::NT, T::CH, E>(p, l, which, products.acc, m0, group, lane % 4, asking);
}
