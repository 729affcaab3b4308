// Convolution by matrix products of whole warpgroups (wgmma), for sm_90a: 128 threads copy, WG groups of 128 multiply
// 64·MW rows each by BN columns. WALK and ODD as in `copier.cuh` and `conv_mma.cuh`.
//
// Rows come by asynchronous copies and go through registers, as for mma.sync. The columns of a step lie in one piece,
// placed when the weights are unpacked, and come by one bulk copy. A stage is full when both have arrived, and empty
// when every warp has read it. Blocks take every gridDim-th tile.
#pragma once
#include "copier.cuh"
#include "warpgroup.cuh"
#ifndef AQD_BREAK
#define AQD_BREAK 0  // tests break the kernel: 4 no wait for an empty stage, 5 a wrong part of the columns, 6 no wait for a full stage
#endif

template <int WG_, int MW_, int BN_, int BK_, int STAGES_, int CH_> struct WarpgroupTile {
  enum { WG = WG_, MW = MW_, BM = 64 * MW * WG, BN = BN_, BK = BK_, STAGES = STAGES_, CH = CH_, NT = BN / 8, CHUNKS = BK / 16, BKB = BK };
  enum { THREADS = (WG + 1) * 128, COPIERS = 128, COLUMNS_APART = 1 };
};
struct TilePlace { int col_tile, row_tile, which; };
template <class Args> AQD_DEVICE TilePlace aqd_tile_place(const Args &p, int tile) {
  TilePlace r = {tile % p.blocks, tile / p.blocks, 0};
  while (r.row_tile >= p.level[r.which].tiles) r.which++;
  if (r.which) r.row_tile -= p.level[r.which - 1].tiles;
  return r;
}

template <class T, Walk WALK, class Args>
AQD_DEVICE void aqd_wg_copy(const Args &p, int tiles, unsigned char *shared, uint64_t *full, uint64_t *empty) {
  typedef Sizes<T, WALK> S;
  const int tid = threadIdx.x, steps = p.steps / S::KX, bytes = S::KX * T::BN * T::BK;
  int slot = 0, parity = 1;
  for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    const TilePlace place = aqd_tile_place(p, tile);
    const Level l = p.level[place.which];
    Copier<T, WALK, Args> copier;
    copier.begin(p, l, place.row_tile, place.col_tile, 0, tid);
    const int8_t *w = p.w + (long long)place.col_tile * p.steps * T::BN * T::BK;
    for (int step = 0; step < steps; step++) {
      if (AQD_BREAK != 4) aqd_barrier_wait(empty + slot, parity);
      unsigned char *s = shared + slot * S::STAGE;
      if (tid == 0) {
        aqd_barrier_expect(full + slot, bytes);
        aqd_bulk_copy(s + S::SIZE_A, w + (long long)step * bytes, bytes, full + slot);
      }
      copier.copy(p, l, step, s);
      aqd_barrier_arrive_copies(full + slot);
      if (++slot == T::STAGES) { slot = 0; parity ^= 1; }
    }
  }
}

template <class T, Walk WALK, bool SIGNED, bool ODD, class E>
AQD_DEVICE void aqd_wg_multiply(const ConvArgs<E::TENSORS> &p, int tiles, unsigned char *shared, const unsigned char *zeros,
                                uint64_t *full, uint64_t *empty) {
  typedef Sizes<T, WALK> S;
  constexpr int PER = T::BK / 32, KK = S::KX * PER;
  constexpr bool EARLY = E::ASKS && T::MW * T::NT <= 16;
  const int tid = threadIdx.x, lane = tid % 32, steps = p.steps / S::KX;
  const int row0 = (tid / 128 - 1) * 64 * T::MW + tid % 128 / 32 * 16, la = row0 + lane % 16, ka = lane / 16;
  int slot = 0, parity = 0;
  for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    const TilePlace place = aqd_tile_place(p, tile);
    const Level l = p.level[place.which];
    const int m0 = place.row_tile * T::BM + row0 + lane / 4, group = place.col_tile * T::BN;
    Window<SIGNED, ODD> window[T::MW];
    int acc[T::MW][T::NT][4], left = 0, right = 0, before = -1;
    Asking<1, T::NT, E, EARLY> asking[T::MW];
#pragma unroll
    for (int i = 0; i < T::MW; i++) {
      const int x = (place.row_tile * T::BM + la + i * 64) % l.w;
      left |= (x == 0) << i;
      right |= (x == l.w - 1) << i;
#pragma unroll
      for (int k = 0; k < 4; k++)
#pragma unroll
        for (int j = 0; j < T::NT; j++) acc[i][j][k] = 0;
      asking[i].template begin<T::CH>(p, l, place.which, m0 + i * 64, group, lane % 4);
    }
    for (int step = 0; step < steps; step++) {
      if (AQD_BREAK != 6) aqd_barrier_wait(full + slot, parity);
      unsigned char *s = shared + slot * S::STAGE;
      int a[2][T::MW][4];
#pragma unroll
      for (int kk = 0; kk < KK; kk++) {
        const int x = kk / PER, k = kk % PER;
#pragma unroll
        for (int i = 0; i < T::MW; i++) {
          const bool edge = WALK == HALO && (x == 0 ? left >> i & 1 : x == 2 ? right >> i & 1 : 0);
          aqd_load_matrices(a[kk % 2][i], edge ? zeros : s + aqd_place<T::BK>(la + x, 2 * k + ka) + i * 64 * T::BK);
        }
        aqd_wgmma_fence();
        const uint64_t columns = aqd_columns<T::BK>(s + S::SIZE_A + x * T::BN * T::BK) + 2 * (AQD_BREAK == 5 ? PER - 1 - k : k);
#pragma unroll
        for (int i = 0; i < T::MW; i++) aqd_wgmma<SIGNED>(acc[i], a[kk % 2][i], columns);
        aqd_wgmma_commit();
#pragma unroll
        for (int i = 0; i < T::MW; i++) window[i].add(a[kk % 2][i]);
        aqd_wgmma_wait<1>();
        if (kk == 0 && before >= 0 && lane == 0) aqd_barrier_arrive(empty + before);  // the step before is read
      }
      before = slot;
      if (++slot == T::STAGES) { slot = 0; parity ^= 1; }
    }
    aqd_wgmma_wait<0>();
    if (lane == 0) aqd_barrier_arrive(empty + before);
#pragma unroll
    for (int i = 0; i < T::MW; i++) {
      window[i].finish(acc[i]);
      aqd_finish_tile<1, T::NT, T::CH, E>(p, l, place.which, (int (&)[1][T::NT][4])acc[i], m0 + i * 64, group, lane % 4,
                                          asking[i]);
    }
  }
}

template <class T, Walk WALK, bool SIGNED, bool ODD, class E> AQD_DEVICE void conv_wg(const ConvArgs<E::TENSORS> &p) {
  typedef Sizes<T, WALK> S;
  AQD_SHARED(shared);
  unsigned char *zeros = shared + T::STAGES * S::STAGE;
  uint64_t *full = (uint64_t *)(zeros + 16), *empty = full + T::STAGES;
  if (threadIdx.x == 0) {
    for (int i = 0; i < T::STAGES; i++) {
      aqd_barrier_init(full + i, T::COPIERS + 1);
      aqd_barrier_init(empty + i, T::WG * 4);
    }
    aqd_fence_barriers();
  }
  if (threadIdx.x < 4) ((int *)zeros)[threadIdx.x] = 0;
  __syncthreads();
  int last = 0;
  while (last < 7 && p.level[last + 1].tiles > p.level[last].tiles) last++;
  const int tiles = p.level[last].tiles * p.blocks;
  if (threadIdx.x < T::COPIERS) {
    aqd_registers_less<T::WG == 1 ? 40 : 56>();
    aqd_wg_copy<T, WALK>(p, tiles, shared, full, empty);
  } else {
    aqd_registers_more<T::WG == 1 ? 216 : 224>();
    aqd_wg_multiply<T, WALK, SIGNED, ODD, E>(p, tiles, shared, zeros, full, empty);
  }
}
