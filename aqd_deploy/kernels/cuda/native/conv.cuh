// What convolutions by matrix products share: arguments, where rows and columns lie, and the end of a tile.
//
// Rows are output pixels of a map, over all images; columns are output channels; depth is [chunk of channels][tap]
// [channel of the chunk], with as many zeros behind as fill the last step. Weights lie as [column][depth]; columns are
// permuted within groups of GROUP so that a thread's accumulators are runs of CH neighbouring channels: tile j, column
// 2t + r of the group is element e = 2j + r of thread t, and element e is channel (e / CH)·4·CH + t·CH + e % CH.
#pragma once
#include "epilogue.cuh"

// `pitch`: bytes of an input pixel; `out_pitch` as in Spot. `steps` of the depth; `blocks`: tiles of columns; `splits`:
// blocks that share a tile's depth, whose sums meet in `sums` and `arrived`, zeros between launches. Channels of a group:
// `group_in`, `group_out`.
template <int TENSORS> struct ConvArgs {
  const uint8_t *x;
  const int8_t *w;
  const int4 *words;
  int *sums, *arrived;
  void *tensors[TENSORS];
  int pitch, channels, out_pitch, kernel_h, kernel_w, stride_y, stride_x, top, left, dilation_y, dilation_x, steps, blocks,
      splits, group_in, group_out;
  Level level[8];
};

// BM x BN outputs a block, WM x WN a warp, BK bytes of depth a step, STAGES steps in flight; SPLIT groups of warps share
// the depth of a step. CH as above. PACK: weights a byte; two are multiplied as numbers of 4 bits, and lie in each 32 bytes
// so that byte i holds weight i and, in its upper half, weight 32 + i of 64.
template <int BM_, int BN_, int WM_, int WN_, int BK_, int STAGES_, int SPLIT_, int CH_, int PACK_ = 1> struct Tile {
  enum { BM = BM_, BN = BN_, WM = WM_, WN = WN_, BK = BK_, STAGES = STAGES_, SPLIT = SPLIT_, CH = CH_, PACK = PACK_, BKB = BK / PACK };
  enum { MT = WM / 16, NT = WN / 8, GROUP = BM / WM * (BN / WN) * 32, THREADS = GROUP * SPLIT, CHUNKS = BK / 16 };
  enum { COPIERS = THREADS, COLUMNS_APART = 0 };
};
// Where the 16 bytes `chunk` of a row lie: rows that a matrix load reads together meet no bank twice.
template <int BK> AQD_DEVICE int aqd_place(int row, int chunk) {
  static_assert(BK == 128 || BK == 64, "rows of other lengths meet banks otherwise");
  return row * BK + (BK == 128 ? chunk ^ (row & 7) : chunk ^ (row >> 1 & 3)) * 16;
}
template <int CH> AQD_DEVICE int aqd_channel(int piece, int t) { return piece * 4 / CH * 4 * CH + t * CH + piece * 4 % CH; }

// For weights 2·w + 1: the sums of what a thread's two rows read, and twice the products with them added. A thread sees the
// bytes that it holds of a fragment; its four neighbours together see all. PACK = 2: bytes are l + 16·h, without a sign; of
// both the bytes and every l are summed.
template <bool SIGNED, bool ODD, int PACK = 1> struct Window {
  static_assert(!ODD || PACK == 1 || !SIGNED, "halves of bytes are summed without a sign");
  int sum[2], low[2];
  AQD_MEMBER Window() { sum[0] = sum[1] = low[0] = low[1] = 0; }
  AQD_MEMBER void add(const int (&a)[4]) {
    if (ODD)
#pragma unroll
      for (int i = 0; i < 4; i++) {
        sum[i % 2] = aqd_add_bytes<SIGNED>(a[i], sum[i % 2]);
        if (PACK == 2) low[i % 2] = aqd_add_bytes<SIGNED>(a[i] & 0x0f0f0f0f, low[i % 2]);
      }
  }
  AQD_MEMBER int whole(int i) const {
    const int all = aqd_add_lanes(sum[i]), l = PACK == 2 ? aqd_add_lanes(low[i]) : 0;
    return PACK == 2 ? l + (all - l) / 16 : all;
  }
  template <int NT> AQD_MEMBER void finish(int (&acc)[NT][4]) {
    if (!ODD) return;
    const int first = whole(0), second = whole(1);
#pragma unroll
    for (int j = 0; j < NT; j++)
#pragma unroll
      for (int k = 0; k < 4; k++) acc[j][k] = 2 * acc[j][k] + (k < 2 ? first : second);
  }
};

struct Pixel { int n, y, x; };
AQD_DEVICE Pixel aqd_pixel(const Level &l, int m) {
  Pixel r;
  r.n = m / (l.oh * l.ow);
  const int rest = m - r.n * l.oh * l.ow;
  r.y = rest / l.ow;
  r.x = rest - r.y * l.ow;
  return r;
}

// What the epilogue asks for, at the places of a thread's accumulators: rows m0 + 8·i of a level, channels from `group`
// on as above. EARLY: asked for before the main loop, where there are registers for it.
template <int MT, int NT, class E, bool EARLY> struct Asking {
  enum { ROWS = EARLY ? 2 * MT : 1, PIECES = EARLY ? NT / 2 : 1 };
  typename E::Asked asked[ROWS][PIECES];
  template <int CH, class Args> AQD_MEMBER void begin(const Args &p, const Level &l, int which, int m0, int group, int t) {
    if (EARLY)
#pragma unroll
      for (int i = 0; i < ROWS; i++)
#pragma unroll
        for (int piece = 0; piece < PIECES; piece++) {
          const Spot s = {l, which, m0 + 8 * i, group + aqd_channel<CH>(piece, t), p.channels, p.out_pitch};
          if (s.m < l.rows && s.channel < p.out_pitch) E::ask(asked[i][piece], p.tensors, s);
        }
  }
};

// The accumulators of a thread through the epilogue.
template <int MT, int NT, int CH, class E, bool EARLY, class Args>
AQD_DEVICE void aqd_finish_tile(const Args &p, const Level &l, int which, int (&acc)[MT][NT][4], int m0, int group, int t,
                                const Asking<MT, NT, E, EARLY> &early) {
  constexpr int ROWS = 2 * MT, PIECES = NT / 2, RUN = CH / 4;  // pieces of four channels, RUN of them side by side
#pragma unroll
  for (int run = 0; run < PIECES; run += RUN) {
    const int channel = group + aqd_channel<CH>(run, t);
    if (channel >= p.out_pitch) continue;
    typename E::template Held<RUN> held[ROWS];
#pragma unroll
    for (int q = 0; q < RUN; q++) {
      E e;
      typename E::Asked late[ROWS];
#pragma unroll
      for (int i = 0; i < ROWS; i++) {
        const Spot s = {l, which, m0 + 8 * i, channel + 4 * q, p.channels, p.out_pitch};
        if (EARLY) late[i] = early.asked[EARLY ? i : 0][EARLY ? run + q : 0];
        else if (s.m < l.rows) E::ask(late[i], p.tensors, s);
      }
      e.load(aqd_words(p.words, E::WORDS, which, channel + 4 * q, p.out_pitch));
#pragma unroll
      for (int i = 0; i < ROWS; i++) {
        int v[4];
#pragma unroll
        for (int j = 0; j < 4; j++) v[j] = acc[i / 2][((run + q) * 4 + j) / 2][i % 2 * 2 + j % 2];
        const Spot s = {l, which, m0 + 8 * i, channel + 4 * q, p.channels, p.out_pitch};
        if (s.m < l.rows) e.template run<RUN>(late[i], held[i], q, p.tensors, s, v);
      }
    }
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
      const Spot s = {l, which, m0 + 8 * i, channel, p.channels, p.out_pitch};
      if (s.m < l.rows) E::template flush<RUN>(held[i], p.tensors, s);
    }
  }
}
